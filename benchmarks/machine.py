"""The facts about this machine that every figure is printed with. It measures nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("hetspec", "torch", "transformers", "datasets", "accelerate", "safetensors")


def facts() -> dict[str, str]:
    """What there is to say, by name: processor, cores, memory, GPUs, system, versions, commit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    return {
        "processor": f"{processor()}, {usable} usable cores",
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available",
        "GPUs": gpus(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "load": ", ".join(f"{value:.2f}" for value in os.getloadavg()) + " (1, 5, 15 minutes, before this started)",
        "commit": commit(),
    }


def table() -> str:
    """The facts as aligned lines."""
    return "\n".join(f"{name:<10} {value}" for name, value in facts().items())


def processor() -> str:
    """The processor's own name, or its architecture where the system does not tell."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def gpus() -> str:
    """Names and memory of the NVIDIA devices, as their driver lists them."""
    return run("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").replace("\n", "; ") or "none"


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def commit() -> str:
    """The commit of this checkout, marked when files differ from it."""
    name = run("git", "rev-parse", "--short", "HEAD")
    return f"{name}{' with changes' if run('git', 'status', '--porcelain') else ''}" if name else "no git checkout"


def run(*command: str) -> str:
    """Output of a command; empty when it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    print(table())
