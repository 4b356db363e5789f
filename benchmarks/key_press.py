"""How soon `hetspec` answers a key while a training has the same cores.

    python -m benchmarks.key_press [--keys N] [--runs N] [--idle]

Makes a small dataset with the embedded base, starts a real training on it with as many threads as it takes by itself,
opens the dashboard in a pseudo-terminal over N runs, and presses keys: moves in the table of runs, and changes of page.
The time goes from the write of the key until the bytes arrive after which the screen shows the answer; of a page, all
of it. `--idle` measures without the training. The aim: under 50 ms at the median.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import random
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte

from benchmarks.registry import make_run
from hetspec_core.runs import Registry

COLUMNS, ROWS = 120, 40
PATIENCE_S = 60.0
PAUSE_S = 0.15  # between keys: somebody who types fast
RECIPE = "quick-demo"
DATASET = ("dataset.limit=8", "dataset.max_new_tokens=24", "dataset.generation_batch=8")
TRAINING = (
    "training.max_steps=100000",
    "training.max_minutes=30",
    "training.eval_every=100000",
    "training.epochs=100000",
)
PAGES = {"1": "At work", "2": "Speed-up", "3": "gemma3-1b", "4": "the same from a shell"}
_ODD = re.compile(rb"\x1b\[[<>=?][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p")  # private sequences, which pyte would print


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.key_press", description=__doc__)
    parser.add_argument("--keys", type=int, default=150, help="how many moves, and a third as many changes of page")
    parser.add_argument("--runs", type=int, default=200, help="how many runs the table has")
    parser.add_argument("--idle", action="store_true", help="without a training beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hetspec-keys-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        fill(home, options.runs)
        with contextlib.nullcontext("") if options.idle else training(home) as run_id:
            before = step_of(home, run_id)
            begun = time.monotonic()
            moves, pages = press(home, options.keys)
            took = time.monotonic() - begun
            done = step_of(home, run_id) - before
        print(f"load: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
        if run_id:
            print(f"training beside it: {done} steps in {took:.0f} s")
        else:
            print("no training beside it")
        report("moves in the table of runs", moves)
        report("changes of page", pages)
        report("all keys", moves + pages)
    return 0


def report(what: str, times_s: list[float]) -> None:
    ordered = sorted(1000 * one for one in times_s)
    print(
        f"{what}: {statistics.median(ordered):.0f} ms at the median, {ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms "
        f"at the 95th percentile, {ordered[-1]:.0f} ms at worst, of {len(ordered)}"
    )


def fill(home: Path, runs: int) -> None:
    """Runs that have ended."""
    chance = random.Random(2)
    for number in range(runs):
        make_run(home, f"20260101-000000-train-{number:04}", 1, chance)
    with Registry(home / "registry.db", home / "runs") as registry:
        registry.sync_all()


@contextlib.contextmanager
def training(home: Path) -> Iterator[str]:
    """A real training at work, ended at the end; its run id."""
    core(home, "dataset", "generate", RECIPE, *settings(DATASET), "--name", "data", "--wait")
    started = core(home, "train", RECIPE, "--dataset", "data", *settings(TRAINING), "--detach", "--json")
    run_id = json.loads(started)["run_id"]
    try:
        end = time.monotonic() + PATIENCE_S
        while step_of(home, run_id) < 1:
            if time.monotonic() > end:
                raise TimeoutError(f"the training does not begin: {core(home, 'runs', 'show', run_id)}")
            time.sleep(0.5)
        yield run_id
    finally:
        core(home, "runs", "cancel", run_id, "--kill")


def settings(words: tuple[str, ...]) -> list[str]:
    return [part for word in words for part in ("--set", word)]


def core(home: Path, *words: str) -> str:
    """What a command of hetspec-core prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hetspec_core.cli.main", *words],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"hetspec-core {' '.join(words)}: {done.stderr[-2000:]}")
    return done.stdout


def environment(home: Path) -> dict[str, str]:
    """As a user has it: nothing limits the threads of the training."""
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "COLORTERM")
    kept = {name: value for name, value in os.environ.items() if name not in limits}
    return {**kept, "HETSPEC_HOME": str(home), "TERM": "xterm-256color"}


def step_of(home: Path, run_id: str) -> int:
    """How many steps a training has done; 0 when there is none."""
    events = home / "runs" / run_id / "events.jsonl"
    if not run_id or not events.is_file():
        return 0
    found = [
        json.loads(line) for line in events.read_bytes().splitlines() if b'"progress"' in line and line[-1:] == b"}"
    ]
    return int(next((one["done"] for one in reversed(found) if one.get("task") == "train"), 0))


class Screen:
    """What a terminal shows of `hetspec`, kept up to date from a pseudo-terminal."""

    def __init__(self, home: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from hetspec_tui.app import main; main()"],
            stdin=slave, stdout=slave, stderr=slave, env=environment(home), start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.shown = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.shown)

    def until(self, condition: Callable[[], bool]) -> float:
        """The moment at which the bytes came after which the condition holds."""
        end = time.perf_counter() + PATIENCE_S
        while True:
            ready, _, _ = select.select([self.master], [], [], 1.0)
            now = time.perf_counter()
            if ready:
                self.stream.feed(_ODD.sub(b"", os.read(self.master, 1 << 20)))
                if condition():
                    return now
            if now > end:
                raise TimeoutError("no answer:\n" + "\n".join(self.shown.display))

    def rest(self, seconds: float) -> None:
        """Read what comes by itself."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            ready, _, _ = select.select([self.master], [], [], left)
            if ready:
                self.stream.feed(_ODD.sub(b"", os.read(self.master, 1 << 20)))

    def press(self, key: str, condition: Callable[[], bool]) -> float:
        """Seconds from a key until its answer is on the screen."""
        begun = time.perf_counter()
        os.write(self.master, key.encode())
        return self.until(condition) - begun

    def has(self, text: str) -> bool:
        return any(text in line for line in self.shown.display)

    def cursor_row(self) -> int:
        """The row of the screen that is highlighted in a table: the one whose last letters are bold."""
        bold = [row for row in range(3, ROWS - 2) if self.shown.buffer[row][4].bold]
        return bold[0] if bold else -1

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.rest(0.1)
        os.close(self.master)


def press(home: Path, keys: int) -> tuple[list[float], list[float]]:
    """Times of moves in the table of runs, and of changes of page, each page having been open before."""
    screen = Screen(home)
    moves: list[float] = []
    pages: list[float] = []
    try:
        screen.until(lambda: screen.has("HetSpec"))
        screen.rest(3.0)
        for key in "23412":  # the first time a page is imported
            if not screen.has(PAGES[key]):
                screen.press(key, lambda key=key: screen.has(PAGES[key]))
            screen.rest(1.5)
        for number in range(keys):
            before = screen.cursor_row()
            down = number % 20 < 10
            moves.append(
                screen.press("j" if down else "k", lambda before=before: screen.cursor_row() not in (before, -1))
            )
            screen.rest(PAUSE_S)
        for number in range(keys // 3):
            key = "3142"[number % 4]
            pages.append(screen.press(key, lambda key=key: screen.has(PAGES[key])))
            screen.rest(2 * PAUSE_S)
    finally:
        screen.close()
    return moves, pages


if __name__ == "__main__":
    sys.exit(main())
