"""The dashboard: how soon it is drawn with many runs in the registry, and what it costs when nothing happens.

    python -m benchmarks.dashboard [--runs N] [--times N] [--idle S]

Builds a home of its own with N runs (10,000 by default), starts `hetspec` in a pseudo-terminal, and takes the time from
exec until the screen shows the frame, and until it shows what the registry says. The aim: under 0.8 s with 10,000 runs
on 2 cores, and idle under 2 % of a core.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import random
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from benchmarks.registry import make_run
from hetspec_core.runs import Registry

COLUMNS, ROWS = 120, 40
FRAME, DRAWN = b"HetSpec", b"succeeded"
PATIENCE_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.dashboard", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="how many runs")
    parser.add_argument("--times", type=int, default=5, help="how many starts")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds to do nothing")
    options = parser.parse_args()
    print(f"load before: {' '.join(f'{load:.2f}' for load in os.getloadavg())} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="hetspec-dashboard-") as name:
        home = Path(name)
        chance = random.Random(2)
        for number in range(options.runs):
            make_run(home, f"20260101-{number // 10000:06}-train-{number % 10000:04}", 1, chance)
        with Registry(home / "registry.db", home / "runs") as registry:
            registry.sync_all()
        starts = [start(home, 0.0) for _ in range(options.times)]
        for place, what in enumerate(("frame", "registry shown")):
            times = sorted(one[place] for one in starts)
            print(f"{what} after {statistics.median(times):.2f} s at the median of {len(times)}, "
                  f"{times[0]:.2f} to {times[-1]:.2f}, {options.runs:,} runs")  # fmt: skip
        print(f"processor until the registry is shown: {statistics.median(one[3] for one in starts):.2f} s")
        print(f"idle: {start(home, options.idle)[2] * 100:.2f} % of a core over {options.idle:.0f} s")
    return 0


def start(home: Path, idle_s: float) -> tuple[float, float, float, float]:
    """Seconds until the frame and until the runs are drawn; the share of a core in `idle_s` seconds of nothing after
    that; and the seconds of processor until the runs are drawn, which other load on the machine does not change much.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "HETSPEC_HOME": str(home), "TERM": "xterm-256color"}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", "from hetspec_tui.app import main; main()"],
        stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        written, frame, drawn = b"", 0.0, 0.0
        while not drawn:
            if time.perf_counter() - begun > PATIENCE_S:
                raise TimeoutError(f"nothing was drawn: {written[-500:]!r}")
            written += read(master, 0.01)
            now = time.perf_counter() - begun
            frame = frame or (now if FRAME in written else 0.0)
            drawn = now if DRAWN in written else 0.0
        share, busy = 0.0, processor_s(process.pid)
        if idle_s:
            settle = time.perf_counter() + 2.0
            while time.perf_counter() < settle:
                read(master, 0.1)
            before, end = processor_s(process.pid), time.perf_counter() + idle_s
            while time.perf_counter() < end:
                read(master, 0.1)
            share = (processor_s(process.pid) - before) / idle_s
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            read(master, 0.05)
    finally:
        process.kill()  # a dashboard that drew nothing in time is still there
        process.wait()
    os.close(master)
    return frame, drawn, share, busy


def read(master: int, timeout_s: float) -> bytes:
    ready, _, _ = select.select([master], [], [], timeout_s)
    try:
        return os.read(master, 65536) if ready else b""
    except OSError:  # the other end is closed
        return b""


def processor_s(pid: int) -> float:
    """Seconds of processor that a process has used, from Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
