"""The dashboard in a real tmux, driven by keys: every page appears, with many, few and no colours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.tui.homes import lively_home

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux (apt-get install tmux)")

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[1-6]|4[1-6]|9[1-6]|10[1-6]|[34]8;[25];[0-9;]+)m")


def tour(home: Path, folder: Path, size: str, term: str, start: str = "") -> None:
    lively_home(home, time.time())
    program = f"{start}{sys.executable} -m hetspec_tui.app"
    about = {"HETSPEC": program, "TOUR_SIZE": size, "TOUR_TERM": term, "HETSPEC_HOME": str(home)}
    script = REPOSITORY / "scripts" / "tmux_tour.sh"
    done = subprocess.run([script, folder], env={**_plain(), **about}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 16, done.stdout


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("TMUX", "NO_COLOR", "COLORTERM")}


def test_every_page_appears_in_tmux(home: Path, tmp_path: Path) -> None:
    tour(home, tmp_path / "seen", "120x40", "screen-256color")
    assert COLOUR.search((tmp_path / "seen" / "runs.ansi").read_text())


@pytest.mark.slow
def test_every_page_appears_on_a_small_terminal_of_sixteen_colours(home: Path, tmp_path: Path) -> None:
    tour(home, tmp_path / "seen", "80x24", "xterm")
    runs = (tmp_path / "seen" / "runs.ansi").read_text()
    assert "48;5;" not in runs and "38;2;" not in runs


@pytest.mark.slow
def test_every_page_appears_without_colours(home: Path, tmp_path: Path) -> None:
    tour(home, tmp_path / "seen", "80x24", "screen-256color", "env NO_COLOR=1 ")
    for picture in (tmp_path / "seen").glob("*.txt"):
        assert picture.read_text().strip()


def test_pictures_are_made_of_what_the_terminal_showed(tmp_path: Path) -> None:
    (tmp_path / "page.ansi").write_text("\x1b[1;38;5;114mone run\x1b[0m [red]kept as it is[/red]\nzwei\n")
    command = [sys.executable, REPOSITORY / "scripts" / "tmux_pictures.py", tmp_path, "--out", tmp_path / "drawn"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    svg = (tmp_path / "drawn" / "tmux-page.svg").read_text()
    assert "one&#160;run" in svg and "[red]kept&#160;as&#160;it&#160;is[/red]" in svg and "#87d787" in svg
    wrong = subprocess.run([*command, "--only", "other"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "no other.ansi; there is page" in wrong.stderr
