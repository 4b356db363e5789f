"""`python -m benchmarks [NAME ...]`: run the benchmarks, each in a process of its own, after the machine's facts.

A benchmark is a module of this package that prints its figures when it is run as `python -m benchmarks.NAME`. The
checks with a real SGLang are in `benchmarks.sglang`; they have arguments of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import machine
from hetspec_core.process import python_command, python_environment

FOLDER = Path(__file__).parent
NO_BENCHMARKS = {"__init__", "__main__", "loop_watch", "machine"}
BY_NAME_ONLY = {"draft_defaults", "draft_kinds", "real_pair"}  # many minutes or hours on two cores


def main() -> int:
    available = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NO_BENCHMARKS)
    parser = argparse.ArgumentParser(prog="benchmarks", description=f"Benchmarks here: {', '.join(available)}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; all but the longest when none is named")
    names = parser.parse_args().names or [name for name in available if name not in BY_NAME_ONLY]
    unknown = sorted(set(names) - set(available))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(available) or 'none'}")
    print(machine.table(), flush=True)
    failed = [name for name in names if not run(name)]
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


def run(name: str) -> bool:
    """Run one benchmark with its output going straight through; whether it ended well."""
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    done = subprocess.run(
        python_command("-m", f"benchmarks.{name}"), cwd=FOLDER.parent, env=python_environment(), check=False
    )
    print(f"=== {name}: {time.monotonic() - started:.1f} s, status {done.returncode}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
