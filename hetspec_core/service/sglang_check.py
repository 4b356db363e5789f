"""What of SGLang is installed and whether it would run: asked of the interpreter that has it, not imported here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

from hetspec_core.service.checks import Check
from hetspec_core.sglang import versions

TIMEOUT_S = 60.0
_PARTS = ("sglang-kernel", "torch", "transformers", "flashinfer-python", "pyzmq", "msgspec", "hetspec")
_ASK = f"""
import importlib.metadata as m, importlib.util as u, json
found = {{}}
for name in ("sglang", *{_PARTS!r}):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
found["kernels"] = u.find_spec("sgl_kernel") is not None
print(json.dumps(found))
"""


def check_sglang(*, has_gpu: bool) -> Check:
    """SGLang in the interpreter that `HETSPEC_SGLANG_PYTHON` names, or in this one.

    Args:
        has_gpu: whether there is an NVIDIA GPU.
    """
    variable = versions.PYTHON_VARIABLE
    python = os.environ.get(variable) or sys.executable
    install = f"pip install '{versions.REQUIREMENT}' in an environment of its own, and set {variable} to its python"
    try:
        done = subprocess.run(
            [python, "-P", "-c", _ASK], capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        if versions.is_too_old(done.stderr):
            return Check("sglang", "error", f"{python} is older than Python 3.11", versions.NEWER_PYTHON)
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Check("sglang", "error", f"{python} cannot be asked: {error}", f"set {variable} to a Python with SGLang")
    version = found.get("sglang")
    facts: dict[str, object] = {"python": python, **found}
    if version is None:
        return Check(
            "sglang", "ok", "not installed; only needed to serve by SGLang", f"if it is wanted: {install}", facts
        )
    if not versions.is_supported(version):
        text = f"SGLang {version} in {python} is outside {versions.RANGE}"
        return Check("sglang", "error", text, install, facts)
    problems = []
    if not found["kernels"]:
        problems.append("its kernels are missing (pip install sglang-kernel)")
    if not has_gpu:
        problems.append("there is no NVIDIA GPU, and no version of SGLang starts unaided on a processor")
    elif shutil.which("nvcc") is None:
        problems.append("nvcc is not on the path, and SGLang compiles small kernels at its first start")
    problems += _inside(python, version, facts)
    if problems:
        return Check("sglang", "warning", f"SGLang {version} in {python}: {'; '.join(problems)}", install, facts)
    return Check("sglang", "ok", f"SGLang {version} in {python}, torch {found.get('torch')}", facts=facts)


def _inside(python: str, version: str, facts: dict[str, object]) -> list[str]:
    """What is wrong with HetSpec's model classes and tree plugin in this SGLang."""
    try:
        command = [python, "-P", "-c", versions.question()]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        found = versions.read_answer(done.stdout)
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        return [f"its source cannot be looked at ({type(error).__name__})"]
    parts = (
        ("drafts served by HetSpec's classes", found.classes),
        ("the live tree", found.plugin),
        ("float32", found.native),
    )
    problems = [f"not for {name}: {told[0]}{_more(told)}; the rest works" for name, told in parts if told]
    facts["inside"] = "differs" if problems else "fits"
    if not problems and not versions.inside_is_known(version):
        run = versions.INSIDE_RANGE
        return [f"HetSpec's classes and live tree fit its source, and were run in SGLang {run} only"]
    return problems


def _more(told: tuple[str, ...]) -> str:
    return f" (and {len(told) - 1} more)" if len(told) > 1 else ""
