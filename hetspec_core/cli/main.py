"""`hetspec-core`: finds the command, runs it, and turns every failure into a sentence and an exit status.

A command's module is imported when the command is named, so that help and version answer at once. To add a command, add
a line to `COMMANDS`; its module holds a Typer application.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core import __version__
from hetspec_core.cli import console
from hetspec_core.errors import Cancelled, DataError, HetSpecError, ResourceError, UsageError
from hetspec_core.terminal_text import say

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "hetspec-core"
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("hetspec_core.cli.pipeline", "demo_app", "From a dataset to a measured speed-up on a small real model."),
    "presets": ("hetspec_core.cli.presets", "app", "Recipes and their parts: list, show, explain."),
    "catalog": (
        "hetspec_core.cli.presets",
        "catalog_app",
        "The algorithms, backbones, formats and backends.",
    ),
    "dataset": ("hetspec_core.cli.dataset", "app", "Generate hidden states of the base; inspect, verify, merge them."),
    "train": ("hetspec_core.cli.train", "app", "Train a draft on hidden states."),
    "pipeline": ("hetspec_core.cli.pipeline", "app", "Dataset, training and bench of a recipe, one after another."),
    "sweep": ("hetspec_core.cli.sweep", "app", "A grid of runs from one file; run again, it continues."),
    "report": ("hetspec_core.cli.sweep", "report_app", "Tables, histograms and Pareto plots of many results."),
    "draft": ("hetspec_core.cli.draft", "app", "Drafts of any layout: inspect, import, export, doctor, push."),
    "generate": ("hetspec_core.cli.generate", "app", "Answer a prompt, with a draft or without."),
    "chat": ("hetspec_core.cli.chat", "app", "Talk to base and draft, and see the draft tree live."),
    "trace": ("hetspec_core.cli.trace", "app", "Recorded answers: show, replay, export, predict other tree shapes."),
    "bench": ("hetspec_core.cli.bench", "app", "Measure speculative against plain decoding."),
    "serve": ("hetspec_core.cli.serve", "app", "Serve base and draft by SGLang."),
    "tune": ("hetspec_core.cli.bench", "tune_app", "Find the fastest tree shape and batch size here."),
    "plan": (
        "hetspec_core.cli.machine",
        "plan_app",
        "What a run needs of memory, disk and time, before it starts.",
    ),
    "doctor": ("hetspec_core.cli.machine", "doctor_app", "Check this machine and this installation."),
    "gpus": ("hetspec_core.cli.machine", "gpus_app", "The GPUs of this machine, and which run has which."),
    "runs": ("hetspec_core.cli.runs", "app", "List, show, follow, stop, compare and label runs."),
}
"""Name -> (module, attribute, help)."""

BROKEN_PIPE_STATUS = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status.

    Args:
        arguments: the words after the program's name; those of this process when absent.
    """
    console.accept_any_text()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, words = _take_flag(words, "--debug")
    as_json = "--json" in _before_separator(words)
    try:
        console.check_words(words)
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        console.silence(sys.stdout)
        return BROKEN_PIPE_STATUS
    except KeyboardInterrupt:
        return Cancelled.exit_code
    except Exception as error:
        if debug:
            say(traceback.format_exc(), file=sys.stderr, end="")
        try:
            return _report(error, as_json=as_json, debug=debug)
        except KeyboardInterrupt:  # one more Ctrl-C while the first is reported
            return Cancelled.exit_code


def _run(words: list[str]) -> int:
    named = next((word for word in words if not word.startswith("-")), None)
    try:
        status = _application(named)(args=words, prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # Typer exits with 1 when the reader has closed the pipe
            raise ended.__context__ from None
        raise
    return status if isinstance(status, int) else 0


def _application(named: str | None) -> typer.Typer:
    """All commands by name and help; the named one with everything it has."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_program)
    for name, (module, attribute, summary) in COMMANDS.items():
        if name != named:
            app.command(name, help=summary)(_nothing)
            continue
        part: typer.Typer = getattr(import_module(module), attribute)
        alone = part.registered_commands[0] if len(part.registered_commands) == 1 else None
        if alone is not None and part.registered_callback is None and not part.registered_groups:
            alone.name = name  # a Typer with one command is that command
            app.registered_commands.append(alone)
        else:
            app.add_typer(part, name=name, help=summary)
    return app


def _nothing() -> None:
    """The body of the commands that are listed but not named; it never runs."""


def _program(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print a traceback when something fails.")] = False,
) -> None:
    """Train draft models for speculative decoding and measure what they bring."""
    if version:
        say(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())


def _before_separator(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _take_flag(words: list[str], flag: str) -> tuple[bool, list[str]]:
    """Whether the flag is anywhere before `--`, and the words without it."""
    head = _before_separator(words)
    return flag in head, [word for word in head if word != flag] + words[len(head) :]


def _report(error: Exception, *, as_json: bool, debug: bool) -> int:
    shown = _as_ours(error, debug)
    try:
        full = console.stdout_error()
        if full is not None and isinstance(error, OSError):
            shown = full
        if as_json and full is None:
            try:
                console.print_error(shown, as_json=True)
                sys.stdout.flush()
                return shown.exit_code
            except BrokenPipeError:
                raise
            except OSError:  # the object is lost on a device that is full: the sentence goes to stderr
                pass
        console.print_error(shown, as_json=False)
    except BrokenPipeError:
        console.silence(sys.stdout)
    except OSError:  # stderr cannot be written either: the exit status is all that is left
        console.silence(sys.stderr)
    if console.stdout_error() is not None:
        console.silence(sys.stdout)
    return shown.exit_code


def _as_ours(error: Exception, debug: bool) -> HetSpecError:
    if isinstance(error, HetSpecError):
        return error
    if isinstance(error, typer.Abort):
        return Cancelled()
    if hasattr(error, "format_message"):  # a fault of the command line, found by Typer (or by Click in older ones)
        return _usage_error(error)
    from hetspec_core import files
    from hetspec_core.paths import check_home

    if isinstance(error, OSError):
        try:
            check_home()
        except ResourceError as unusable:
            return unusable
        known = error.filename is not None or error.errno in files.DISK_FULL
        doing = "" if error.filename is not None else "standard output or a file could not be written"
        told = files.explain(error, doing=doing) if known else None
        if told is not None:
            return told
    if files.is_full(error):
        return ResourceError("the disk is full, or a quota is used up", hint=files.ROOM_HINT)
    if isinstance(error, UnicodeError):
        return _not_text(error)
    sentence = str(error).strip().split("\n", 1)[0]
    message = f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__
    return HetSpecError(message, hint="" if debug else "run again with --debug for the traceback")


def _not_text(error: UnicodeError) -> DataError:
    """The error for text that UTF-8 cannot encode, or bytes that are not UTF-8."""
    about = "a text"
    if isinstance(error, UnicodeEncodeError):
        about = f"a text holds {ascii(error.object[error.start : error.end])[:40]}, which UTF-8 cannot hold"
    elif isinstance(error, UnicodeDecodeError):
        about = f"a text is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}"
    return DataError(about, hint="names, prompts and files have to be UTF-8 text")


def _usage_error(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    where = getattr(context, "command_path", PROGRAM)
    if type(error).__name__ == "NoArgsIsHelpError":
        return UsageError(f"{where} needs a command", hint=f"see `{where} --help`")
    return UsageError(error.format_message().rstrip("."), hint=f"see `{where} --help`")


if __name__ == "__main__":
    sys.exit(main())
