"""Every way of failing is a sentence, a hint and an exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from hetspec_core import __version__
from hetspec_core.cli import main as module
from hetspec_core.errors import Cancelled, DataError, HetSpecError, SpecError

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Register a command `probe` with the given body."""

    def register(body: Callable[[], None]) -> None:
        app = typer.Typer()

        @app.command()
        def probe(number: int = 1, json: bool = False) -> None:
            """Probe something."""
            body()

        monkeypatch.setattr(module, "import_module", lambda name: type("Module", (), {"app": app}))
        monkeypatch.setattr(module, "COMMANDS", {**module.COMMANDS, "probe": ("probe", "app", "Probe something.")})

    return register


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


Command = Callable[[Callable[[], None]], None]
Capture = pytest.CaptureFixture[str]


def test_version_and_help_answer(capsys: Capture) -> None:
    assert module.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hetspec-core {__version__}\n"
    for words in ([], ["--help"]):
        assert module.main(words) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in module.COMMANDS)


def test_help_of_a_command_comes_from_its_module(command: Command, capsys: Capture) -> None:
    command(lambda: None)
    assert module.main(["probe", "--help"]) == 0
    assert "--number" in capsys.readouterr().out
    assert module.main(["probe", "--number", "2"]) == 0


def test_an_error_of_ours_is_shown_with_its_hint_and_status(command: Command, capsys: Capture) -> None:
    command(raising(DataError("rows.jsonl has [bold]no[/bold] rows :warning:", hint="see [link]")))
    assert module.main(["probe"]) == 5
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: rows.jsonl has [bold]no[/bold] rows :warning:\nhint: see [link]\n")


def test_every_problem_is_listed(command: Command, capsys: Capture) -> None:
    command(raising(SpecError("the recipe does not hold", problems=["lr: too large", "seed: missing"])))
    assert module.main(["probe"]) == 3
    assert capsys.readouterr().err == "error: the recipe does not hold\n  - lr: too large\n  - seed: missing\n"


def test_with_json_an_error_is_an_object_on_stdout(command: Command, capsys: Capture) -> None:
    command(raising(SpecError("no", hint="do", problems=["a"])))
    assert module.main(["probe", "--json"]) == 3
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "error": {"kind": "SpecError", "message": "no", "hint": "do", "exit_code": 3, "problems": ["a"]}
    }


def test_an_unexpected_exception_is_one_sentence_and_a_traceback_only_when_asked_for(
    command: Command, capsys: Capture
) -> None:
    command(raising(ValueError("first\nsecond")))
    assert module.main(["probe"]) == 1
    assert capsys.readouterr().err == ("error: ValueError: first\nhint: run again with --debug for the traceback\n")
    for words in (["--debug", "probe"], ["probe", "--debug"]):
        assert module.main(words) == 1
        err = capsys.readouterr().err
        assert "Traceback" in err and "hint" not in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Cancelled("stopped"), typer.Abort()])
def test_an_interrupt_is_130(command: Command, error: BaseException) -> None:
    command(raising(error))
    assert module.main(["probe"]) == 130


def test_a_command_may_choose_its_status(command: Command) -> None:
    command(raising(typer.Exit(7)))
    assert module.main(["probe"]) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "train"),
        (["--nope"], "--nope"),
        (["runs", "show"], "RUN"),
        (["runs", "lst"], "list"),
        (["runs", "list", "--limit", "x"], "--limit"),
        (["runs"], "needs a command"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_points_to_the_help(words: list[str], said: str, capsys: Capture) -> None:
    assert module.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err.splitlines()[0]
    assert "--help`" in err.splitlines()[1]


def test_flags_after_the_separator_belong_to_the_command(command: Command, capsys: Capture) -> None:
    command(raising(HetSpecError("no")))
    assert module.main(["probe", "--", "--debug", "--json"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(module.COMMANDS))
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    assert module.main([name, "--help"]) == 0
    assert f"Usage: hetspec-core {name}" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = (
        "import sys, typer\n"
        "from hetspec_core.cli import main as cli\n"
        "def body(words):\n    for _ in range(100_000): print('line')\n    return 0\n"
        "cli._run = body\nsys.exit(cli.main())"
    )
    command = [sys.executable, "-c", program]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == module.BROKEN_PIPE_STATUS


@pytest.mark.parametrize("print_lines", ["print_line('x' * 100)", "print_data('x' * 100 + chr(10))"])
def test_a_reader_that_closes_the_pipe_ends_a_command_as_any_other_program(print_lines: str) -> None:
    program = (
        "import sys, types, typer\n"
        "from hetspec_core.cli import main as cli\n"
        "from hetspec_core.cli.console import print_data, print_line\n"
        "app = typer.Typer()\n"
        f"@app.command()\ndef many() -> None:\n    for _ in range(10_000): {print_lines}\n"
        "sys.modules['many'] = types.SimpleNamespace(app=app)\n"
        "cli.COMMANDS['many'] = ('many', 'app', 'Print many lines.')\n"
        "sys.exit(cli.main(['many']))"
    )
    command = [sys.executable, "-c", program]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == module.BROKEN_PIPE_STATUS


@pytest.mark.parametrize(("variable", "coloured"), [("NO_COLOR", False), ("FORCE_COLOR", True)])
def test_colours_are_used_as_the_environment_says(variable: str, coloured: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hetspec_core.cli.main", "runs", "show", "nothing"],
        env={**os.environ, variable: "1", "TERM": "xterm-256color"},
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 4
    assert (b"\x1b[1;31m" in done.stderr) is coloured
