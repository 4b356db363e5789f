"""Checks of this machine and installation: what is there, what is missing, what to do about it.

Nothing is repaired and nothing heavy is imported: packages are found by their metadata, and a child process asks torch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from hetspec_core import __version__
from hetspec_core.paths import Roots, roots
from hetspec_core.process import python_command, python_environment
from hetspec_core.service.checks import (
    Check,
    check_bases,
    check_locks,
    check_presets,
    check_registry,
    check_roots,
    check_runs,
)
from hetspec_core.service.planning.facts import ask_nvidia_smi
from hetspec_core.sglang import versions

__all__ = ["Check", "check_sglang", "diagnose"]

OLDEST_PYTHON = (3, 11)
SMALLEST_TERMINAL = (80, 24)
TORCH_TIMEOUT_S = 120.0
_ENGINE = ("transformers", "accelerate", "datasets", "safetensors", "huggingface-hub", "numpy", "gguf", "jinja2")
_INSTALL = "`make install` in a clone, or pip install 'hetspec[engine]'"
_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "cuda": torch.version.cuda, "available": cuda, "threads": torch.get_num_threads(),
    "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
}))
"""


def diagnose(places: Roots | None = None) -> Iterator[Check]:
    """All checks; each is given when it is done.

    Args:
        places: the roots to look at; those in force when absent.
    """
    places = places or roots()
    gpus = ask_nvidia_smi("name,driver_version,memory.total,memory.free")
    yield _check_python()
    yield _check_torch(has_gpu=bool(gpus))
    yield _check_engine()
    yield check_sglang(has_gpu=bool(gpus))
    yield _check_gpus(gpus)
    yield from check_roots(places)
    yield _check_terminal()
    yield check_presets()
    yield check_bases(places)
    yield check_registry(places)
    yield check_runs(places)
    yield from check_locks(places)


def _check_python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    facts = {"version": version, "executable": sys.executable, "hetspec": __version__}
    if sys.version_info < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Check("python", "error", f"Python {version} is too old", f"HetSpec needs Python {oldest}", facts)
    return Check("python", "ok", f"Python {version} at {sys.executable}, HetSpec {__version__}", facts=facts)


def _check_torch(*, has_gpu: bool) -> Check:
    version = _version("torch")
    if version is None:
        return Check("torch", "error", "torch is not installed: datasets, training and decoding need it", _INSTALL)
    command, variables = python_command("-c", _ASK_TORCH), python_environment()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TORCH_TIMEOUT_S, env=variables
        )
    except subprocess.TimeoutExpired:
        return Check("torch", "error", f"torch {version} did not start within {TORCH_TIMEOUT_S:.0f} s", _INSTALL)
    except OSError as error:
        return Check("torch", "error", f"{sys.executable} cannot be started: {error.strerror}", _INSTALL)
    try:
        about = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Check("torch", "error", f"torch {version} cannot be imported: {last}", f"install it again: {_INSTALL}")
    facts = {"version": version, **about}
    if about["available"]:
        names = ", ".join(about["devices"])
        return Check("torch", "ok", f"torch {version} with CUDA {about['cuda']}: {names}", facts=facts)
    if has_gpu:
        built = f"built for CUDA {about['cuda']}" if about["cuda"] else "built without CUDA"
        return Check(
            "torch",
            "warning",
            f"there is an NVIDIA GPU, and torch {version} ({built}) does not see it",
            "install the torch that fits the driver (pytorch.org), or look at CUDA_VISIBLE_DEVICES",
            facts,
        )
    return Check("torch", "ok", f"torch {version} on the processor, {about['threads']} threads", facts=facts)


def _check_engine() -> Check:
    found = {name: _version(name) for name in _ENGINE}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        return Check("engine libraries", "error", f"not installed: {', '.join(missing)}", _INSTALL, found)
    return Check("engine libraries", "ok", ", ".join(f"{name} {version}" for name, version in found.items()), "", found)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_gpus(rows: list[list[str]] | None) -> Check:
    if not rows:
        broken = rows is None and shutil.which("nvidia-smi") is not None
        if broken:
            return Check("gpu", "warning", "nvidia-smi is there and does not answer", "is the NVIDIA driver loaded?")
        return Check("gpu", "ok", "no NVIDIA GPU; the processor is used", facts={"gpus": []})
    gpus = [
        dict(zip(("name", "driver", "memory_mib", "free_mib"), row, strict=True)) for row in rows
    ]  # as nvidia-smi writes them
    names = ", ".join(f"{gpu['name']} ({gpu['free_mib']} of {gpu['memory_mib']} MiB free)" for gpu in gpus)
    return Check("gpu", "ok", f"driver {gpus[0]['driver']}: {names}", facts={"gpus": gpus})


def _check_terminal() -> Check:
    size = shutil.get_terminal_size()
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    colours = _colours()
    facts = {
        "terminal": sys.stdout.isatty(),
        "columns": size.columns,
        "lines": size.lines,
        "encoding": encoding,
        "colours": colours,
    }
    if not sys.stdout.isatty():
        return Check("terminal", "ok", "the output is not a terminal", facts=facts)
    shown = f"{size.columns}x{size.lines}, {encoding}, {colours} colours"
    if encoding != "utf8":
        return Check("terminal", "warning", f"{shown}: lines and charts need UTF-8", "set LANG=C.UTF-8", facts)
    if size.columns < SMALLEST_TERMINAL[0] or size.lines < SMALLEST_TERMINAL[1]:
        least = "x".join(map(str, SMALLEST_TERMINAL))
        return Check("terminal", "warning", f"{shown} is small", f"make it {least} or larger for the dashboard", facts)
    if colours in ("no", "8"):
        return Check("terminal", "warning", shown, "set TERM=xterm-256color if the terminal can show them", facts)
    return Check("terminal", "ok", shown, facts=facts)


def _colours() -> str:
    """How many colours the environment promises: no, 8, 256 or 16 million."""
    term = os.environ.get("TERM", "")
    if os.environ.get("NO_COLOR") or term in ("", "dumb"):
        return "no"
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return "16 million"
    return "256" if "256color" in term or "kitty" in term or "direct" in term else "8"


SGLANG_TIMEOUT_S = 60.0
_SGLANG_PARTS = ("sglang-kernel", "torch", "transformers", "flashinfer-python", "pyzmq", "msgspec", "hetspec")
_ASK_SGLANG = f"""
import importlib.metadata as m, importlib.util as u, json
found = {{}}
for name in ("sglang", *{_SGLANG_PARTS!r}):
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
            [python, "-P", "-c", _ASK_SGLANG], capture_output=True, text=True, check=False, timeout=SGLANG_TIMEOUT_S
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
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SGLANG_TIMEOUT_S)
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
