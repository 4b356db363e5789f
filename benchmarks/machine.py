"""The facts about this machine that every figure is printed with. It measures nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import torch

from hetspec_core.engine.context import machine_facts
from hetspec_core.engine.run_folder import versions


def facts() -> dict[str, object]:
    """What there is to say, by name: device, processor, load, versions, memory, commit of the checkout."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    memory = psutil.virtual_memory()
    return {
        **machine_facts(device),
        **versions(),
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available",
        "commit": commit(),
    }


def table() -> str:
    """The facts as aligned lines."""
    named = facts()
    width = max(map(len, named))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in named.items())


def commit() -> str:
    """The commit of this checkout, marked when files differ from it."""
    name = git("rev-parse", "--short", "HEAD")
    return f"{name}{' with changes' if git('status', '--porcelain') else ''}" if name else "no git checkout"


def git(*arguments: str) -> str:
    """Output of git in this checkout; empty when there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    print(table())
