"""The dashboard in a real terminal (a pty): whatever ends it, the terminal is as it was before."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyte
import pytest

from tests.fakes.terminal import PRIVATE

ENTER_ALTERNATE, LEAVE_ALTERNATE = b"\x1b[?1049h", b"\x1b[?1049l"
MOUSE_ON, MOUSE_OFF = b"\x1b[?1000h", b"\x1b[?1000l"
CURSOR_ON = b"\x1b[?25h"
PATIENCE_S = 60


class Terminal:
    """`hetspec` as the foreground process of a pseudo-terminal of 80 columns and 24 rows."""

    def __init__(
        self,
        *arguments: str,
        program: str = "from hetspec_tui.app import main; main()",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.modes_before = termios.tcgetattr(self.slave)
        self.written = b""
        variables = {**os.environ, "TERM": "xterm-256color", **(environment or {})}
        for name in ("TEXTUAL_DRIVER", "COLORTERM"):
            variables.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=variables,
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for handle in (self.master, self.slave):
            if handle >= 0:
                os.close(handle)

    def read_until(self, text: bytes) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in self.written:
            assert time.monotonic() < end, f"{text!r} did not appear in {self.written[-2000:]!r}"
            self.read_some(0.1)

    def wait(self) -> int:
        """Exit status of the program, while its output is read to the end."""
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, "the dashboard did not end"
            self.read_some(0.05)
        while self.read_some(0.1):
            pass
        return self.process.returncode

    def read_some(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], timeout_s)
        if ready:
            self.written += os.read(self.master, 65536)
        return bool(ready)

    def hang_up(self) -> None:
        """Close the terminal as a closed window or a lost connection does, and tell the process so."""
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1
        self.process.send_signal(signal.SIGHUP)

    def picture(self) -> str:
        """What a terminal shows that has read all of this."""
        size = struct.unpack("HHHH", fcntl.ioctl(self.slave, termios.TIOCGWINSZ, b"\0" * 8))
        screen = pyte.Screen(size[1], size[0])
        pyte.ByteStream(screen).feed(PRIVATE.sub(b"", self.written))
        return "\n".join(screen.display)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def show(self, text: str) -> None:
        """Wait until the picture has this text."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.picture():
            assert time.monotonic() < end, f"{text!r} is not in\n{self.picture()}"
            self.read_some(0.1)

    def assert_restored(self) -> None:
        for entered, left in ((ENTER_ALTERNATE, LEAVE_ALTERNATE), (MOUSE_ON, MOUSE_OFF)):
            assert self.written.rfind(entered) < self.written.rfind(left), f"{left!r} is missing or too early"
        assert CURSOR_ON in self.written
        self.assert_restored_after_resizing()

    def assert_restored_after_resizing(self) -> None:
        assert termios.tcgetattr(self.slave) == self.modes_before


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as opened:
        opened.read_until(b"HetSpec")
        yield opened


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_ending_signal_gives_the_terminal_back(terminal: Terminal, number: signal.Signals) -> None:
    terminal.process.send_signal(number)
    assert terminal.wait() == 128 + number
    terminal.assert_restored()


def test_q_gives_the_terminal_back(terminal: Terminal) -> None:
    os.write(terminal.master, b"q")
    assert terminal.wait() == 0
    terminal.assert_restored()


def test_a_closed_terminal_ends_the_dashboard(terminal: Terminal) -> None:
    terminal.hang_up()
    assert terminal.process.wait(PATIENCE_S) != 0


def test_a_crash_gives_the_terminal_back_and_exits_with_status_one() -> None:
    program = (
        "from hetspec_tui import app\n"
        "def crash(self, event): raise RuntimeError('broken on purpose')\n"
        "app.HetSpecApp.on_key = crash\n"
        "app.main()"
    )
    with Terminal(program=program) as opened:
        opened.read_until(b"HetSpec")
        os.write(opened.master, b"x")
        assert opened.wait() == 1
        opened.assert_restored()
        assert b"broken on purpose" in opened.written


def test_a_crash_prints_no_values_of_variables_and_is_in_the_log(home: Path) -> None:
    program = (
        "from hetspec_tui import app\n"
        "def crash(self, event):\n    token = 'hf_' + 'secret'; raise RuntimeError('broken on purpose')\n"
        "app.HetSpecApp.on_key = crash\n"
        "app.main()"
    )
    with Terminal(program=program) as opened:
        opened.read_until(b"HetSpec")
        os.write(opened.master, b"x")
        assert opened.wait() == 1
        assert b"hf_secret" not in opened.written
    log = (home / "dashboard" / "hetspec.log").read_text()
    assert "broken on purpose" in log and "hf_secret" not in log


def test_a_first_start_is_drawn_in_a_real_terminal_and_survives_a_storm_of_sizes(terminal: Terminal) -> None:
    terminal.show("Begin")
    sizes = random.Random(3)
    for _ in range(30):
        terminal.resize(sizes.randint(1, 200), sizes.randint(1, 60))
        terminal.read_some(0.01)
    terminal.resize(100, 30)
    terminal.show("⏎ Open")
    terminal.show("Begin")
    os.write(terminal.master, b"q")
    assert terminal.wait() == 0
    terminal.assert_restored_after_resizing()


def test_keys_that_arrive_in_one_read_keep_their_order(terminal: Terminal) -> None:
    terminal.show("Begin")
    os.write(terminal.master, b"2/state:failed\r3/moe-eag\x7f\x7fe\r")  # what a terminal sends after a moment of load
    terminal.show("moe-ee")
    os.write(terminal.master, b"\x032")
    terminal.show("state:failed")
    os.write(terminal.master, b"q")
    assert terminal.wait() == 0


def test_suspended_and_brought_back_it_draws_itself_again(terminal: Terminal) -> None:
    terminal.show("Begin")
    os.write(terminal.master, b"\x1a")
    terminal.read_until(LEAVE_ALTERNATE)
    os.waitpid(terminal.process.pid, os.WUNTRACED)
    terminal.written = b""
    terminal.process.send_signal(signal.SIGCONT)
    terminal.show("Begin")
    os.write(terminal.master, b"q")
    assert terminal.wait() == 0


@pytest.mark.parametrize(("term", "variables"), [("xterm", {}), ("linux", {}), ("xterm-256color", {"NO_COLOR": "1"})])
def test_with_few_or_no_colours_the_words_are_the_same(term: str, variables: dict[str, str]) -> None:
    with Terminal(environment={"TERM": term, **variables}) as opened:
        opened.show("Begin")
        opened.show("? Help")
        if variables:
            coloured = re.findall(rb"\x1b\[[0-9;]*38;2;(\d+);(\d+);(\d+)", opened.written)
            assert all(red == green == blue for red, green, blue in coloured)
        os.write(opened.master, b"q")
        assert opened.wait() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5"])
def test_a_served_dashboard_stays_on_this_machine_unless_one_says_otherwise(host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from hetspec_tui.app import main; main()", "--serve", "--host", host],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "no password" in done.stderr and "--open-to-network" in done.stderr


def test_without_a_terminal_it_says_what_to_use_instead() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from hetspec_tui.app import main; main()"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert "hetspec-core" in done.stderr


def test_a_dashboard_whose_terminal_disappears_without_a_signal_ends(home: Path) -> None:
    with Terminal() as terminal:
        terminal.show("Begin")
        for handle in (terminal.master, terminal.slave):
            os.close(handle)
        terminal.master = terminal.slave = -1
        assert terminal.process.wait(timeout=15) == 128 + signal.SIGHUP
