"""The demo from nothing, as a newcomer runs it: how long, how much memory, which accept length.

    python -m benchmarks.demo

Runs `hetspec-core demo --json` in a home of its own, the dequantising of the default base included. The aims on
two cores: at most 12 minutes, at most 6 GB, accept length above 1.8 with the tree 6/10/60.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from hetspec_core.events.results import read_bench
from hetspec_core.process import python_command, python_environment
from hetspec_core.service.bench_view import COLUMNS, rate


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="hetspec-demo-") as home:
        done = subprocess.run(
            python_command("-m", "hetspec_core.cli.main", "demo", "--json"),
            env=python_environment({"HETSPEC_HOME": home}),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        print(done.stdout, done.stderr)
        return done.returncode
    result = json.loads(done.stdout)
    print(f"{'took':<24}{result['took_s'] / 60:.1f} minutes")
    print(f"{'largest process':<24}{result['peak_memory_bytes'] / 1e9:.2f} GB")
    bench = read_bench(result["bench"]).record
    print(f"{'plain':<24}{rate(bench.plain.decode_tokens_per_s) if bench.plain else '-'} decode tokens/s")
    for tree in bench.trees:
        print(f"{'tree ' + tree.tree:<24}" + ", ".join(f"{column.head} {column.text(tree)}" for column in COLUMNS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
