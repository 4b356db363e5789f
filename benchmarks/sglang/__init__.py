"""Checks of HetSpec with a real SGLang, by hand on a GPU: `check` (servers) and `commands` (the command line).

`scripts/gpu_sglang_check.sh` runs them. `exchanges` records answers of servers as test data.
"""
