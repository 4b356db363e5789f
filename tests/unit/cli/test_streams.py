"""Standard streams and homes that cannot take or give what they should: one sentence and the right status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetspec_core.cli.console import read_stdin, read_stdin_line
from hetspec_core.cli.main import main
from hetspec_core.errors import UsageError
from tests.conftest import REPOSITORY
from tests.fakes.presets import write_preset

Capture = pytest.CaptureFixture[str]


def command(*words: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    line: list[str | bytes] = [sys.executable, "-m", "hetspec_core.cli.main", *words]
    place = {**os.environ, **environment}
    return subprocess.run(line, cwd=REPOSITORY, env=place, capture_output=True, check=False, timeout=60)


def stdin_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_a_character_that_stdout_cannot_encode_is_escaped_and_json_stays_json() -> None:
    write_preset("recipe/odd", 'summary = "café 🙂"\n')
    assert command("presets", "list", "recipe", PYTHONIOENCODING="ascii").returncode == 0
    shown = command("trace", "replay", "shipped:smollm2", "--speed", "0", "--trees", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0 and shown.stdout.isascii(), shown.stderr
    program = "import sys; from hetspec_core.cli.console import *; accept_any_text(); sys.stdout.write('caf\u00e9 🙂')"
    line, ascii_only = [sys.executable, "-c", program], {**os.environ, "PYTHONIOENCODING": "ascii"}
    said = subprocess.run(line, cwd=REPOSITORY, env=ascii_only, capture_output=True, check=False, timeout=60)
    assert said.stdout == rb"caf\u00e9 \ud83d\ude42", said.stderr
    as_json = command("presets", "list", "recipe", "--json", PYTHONIOENCODING="ascii")
    assert "café 🙂" in [one["summary"] for one in json.loads(as_json.stdout)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words", [("presets", "list"), ("presets", "list", "--json"), ("runs", "show", "nothing", "--json")]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_sentence_on_stderr(words: tuple[str, ...], unbuffered: str) -> None:
    line = [sys.executable, "-m", "hetspec_core.cli.main", *words]
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            line, cwd=REPOSITORY, env=env, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    said = done.stderr.decode()
    assert done.returncode in (4, 8)
    assert said.startswith("error: ") and "Traceback" not in said and "Exception ignored" not in said
    assert "standard output" in said or "no run 'nothing'" in said


def test_words_that_are_not_utf8_are_named() -> None:
    for words in ((b"runs", b"list", b"caf\xe9"), (b"generate", b"caf\xe9"), (b"train", b"x", b"--name", b"caf\xe9")):
        done = command(*words)
        said = done.stderr.decode()
        assert done.returncode == 2, said
        assert said.startswith("error: word ") and "not UTF-8" in said and "Error:" not in said


def test_stdin_that_is_not_utf8_is_named_with_the_byte(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    stdin_of(b"caf\xe9 ok?", monkeypatch)
    assert main(["generate", "-"]) == 2
    assert "byte 0xe9 at offset 3" in capsys.readouterr().err
    stdin_of("ein Wort\r\nzwei é".encode(), monkeypatch)
    assert (read_stdin_line(), read_stdin_line(), read_stdin_line()) == ("ein Wort", "zwei é", None)
    stdin_of("\ufeffWort".encode(), monkeypatch)
    assert read_stdin() == "Wort"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="closed"):
        read_stdin()


@pytest.mark.parametrize("prompts", [[""], ["  \n"], ["hello", ""]])
def test_an_empty_prompt_is_named(prompts: list[str], capsys: Capture) -> None:
    assert main(["generate", *prompts]) == 2
    assert f"prompt {len(prompts)} is empty" in capsys.readouterr().err


def unusable_homes(place: Path) -> dict[str, tuple[str, str]]:
    """Case -> value of HETSPEC_HOME, and a word of the sentence."""
    (place / "file").write_text("")
    (place / "dangling").symlink_to("nothing")
    (place / "home-2").mkdir()
    (place / "home-2" / "runs").symlink_to("nothing")
    return {
        "file": (f"{place}/file", "is a file"),
        "below a file": (f"{place}/file/home", "cannot be made"),
        "long": (f"{place}/" + "x" * 5000, "name too long"),
        "nobody": ("~no-such-user-here/home", "user"),
        "dangling": (f"{place}/dangling", "is a link to a folder that does not exist"),
        "runs": (f"{place}/home-2", "has the entry runs, which is a link"),
        "kernel": ("/proc/no-such-folder", "cannot be made"),
        "latin": (f"{place}/caf\udce9", "not UTF-8"),
    }


@pytest.mark.parametrize("case", ["file", "below a file", "long", "nobody", "dangling", "runs", "kernel", "latin"])
def test_a_home_that_cannot_be_used_is_named_with_what_is_there(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    value, said = unusable_homes(tmp_path)[case]
    monkeypatch.setenv("HETSPEC_HOME", value)
    assert main(["runs", "list"]) == 8
    error = capsys.readouterr().err
    assert error.startswith("error: HETSPEC_HOME is ") and said in error and "--debug" not in error
    assert len(error) < 600


def test_the_dashboard_says_the_same_of_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    homes, driver = unusable_homes(tmp_path), "textual.drivers.headless_driver:HeadlessDriver"
    for value, said in (homes["file"], homes["kernel"]):
        done = subprocess.run(
            [sys.executable, "-m", "hetspec_tui.app"],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "HETSPEC_HOME": value,
                "TEXTUAL_DRIVER": driver,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 8, done.stderr
        assert done.stderr.startswith("hetspec: HETSPEC_HOME is ") and said in done.stderr
        assert "Traceback" not in done.stderr
