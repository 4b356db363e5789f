"""`hetspec-core runs` commands that label runs, delete them and restore them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hetspec_core.cli.console import format_age, note, print_json, print_table, say
from hetspec_core.cli.options import JsonFlag, RunWord
from hetspec_core.errors import Cancelled, UsageError
from hetspec_core.events import Marked
from hetspec_core.quantities import format_bytes
from hetspec_core.service.library import Library
from hetspec_core.service.names import tags_of
from hetspec_core.service.workbench import Workbench
from hetspec_core.terminal_text import visible

app = typer.Typer()

RunWords = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids, beginnings of them, or names of runs.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def star(runs: RunWords, json: JsonFlag = False) -> None:
    """Star runs; `runs list starred:yes` shows them."""
    _mark(runs, Marked(starred=True), "starred", json)


@app.command()
def unstar(runs: RunWords, json: JsonFlag = False) -> None:
    """Remove the star of runs."""
    _mark(runs, Marked(starred=False), "no longer starred", json)


@app.command()
def archive(runs: RunWords, json: JsonFlag = False) -> None:
    """Archive runs: lists leave them out; `runs list --archived` shows them."""
    _mark(runs, Marked(archived=True), "archived", json)


@app.command()
def unarchive(runs: RunWords, json: JsonFlag = False) -> None:
    """Take runs out of the archive."""
    _mark(runs, Marked(archived=False), "no longer archived", json)


@app.command(context_settings={"ignore_unknown_options": True})
def tag(
    run: RunWord,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[+TAG|-TAG]...", help="+a adds tag a, -a removes it.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Add tags to a run and remove them; without any, print them."""
    for word in tags or ():
        if word[:1] not in ("+", "-"):
            raise UsageError(f"{word!r} is not a tag with + or - before it", hint="e.g. runs tag RUN +good -draft")
    added, removed = tags_of(tags or ())
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        library = Library(workbench)
        if added or removed:
            summary = library.mark(run_id, Marked(add_tags=added, remove_tags=removed))
        else:
            summary = workbench.summary(run_id)
    if json:
        print_json({"run_id": run_id, "tags": list(summary.tags)})
    else:
        for name in summary.tags:
            say(name)


@app.command("note")
def note_run(
    run: RunWord,
    text: Annotated[str | None, typer.Argument(help="The note; an empty one removes it.")] = None,
    json: JsonFlag = False,
) -> None:
    """Replace the note of a run; without a text, print it."""
    with Workbench() as workbench:
        run_id = workbench.resolve_run(run)
        library = Library(workbench)
        summary = workbench.summary(run_id) if text is None else library.mark(run_id, Marked(note=text.strip()))
    if json:
        print_json({"run_id": run_id, "note": summary.note})
    elif summary.note:
        say(summary.note)


@app.command()
def delete(runs: RunWords, yes: YesFlag = False, json: JsonFlag = False) -> None:
    """Move runs into the trash; `runs restore` moves them back."""
    with Workbench() as workbench:
        library = Library(workbench)
        run_ids = library.resolve(runs)
        below = [one.run_id for run_id in run_ids for one in library.lineage(run_id, "down").relatives]
        standing = sorted(set(below) - set(run_ids))
        if standing and not json:
            note(f"{', '.join(standing)} {'depends' if len(standing) == 1 else 'depend'} on what will be deleted")
        _confirm(f"Move {_named(run_ids)} into the trash?", yes)
        for run_id in run_ids:
            library.discard(run_id)
            if not json:
                note(f"run {run_id} is in the trash; back: hetspec-core runs restore {run_id}")
    if json:
        print_json([{"run_id": run_id} for run_id in run_ids])


@app.command()
def restore(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs in the trash, as `runs trash` shows them.")],
    json: JsonFlag = False,
) -> None:
    """Move runs back from the trash."""
    with Workbench() as workbench:
        library = Library(workbench)
        back = []
        for word in runs:
            back.append(library.restore(word))
            if not json:
                note(f"run {back[-1]} is back")
    if json:
        print_json([{"run_id": run_id} for run_id in back])


@app.command()
def trash(
    empty: Annotated[bool, typer.Option("--empty", help="Delete its runs permanently.")] = False,
    yes: YesFlag = False,
    json: JsonFlag = False,
) -> None:
    """Show what is in the trash, or empty it."""
    with Workbench() as workbench:
        library = Library(workbench)
        found = library.discarded()
        if empty and found:
            size = format_bytes(sum(one.bytes for one in found))
            _confirm(f"Delete {_named([one.run_id for one in found])} ({size}) permanently?", yes)
            library.empty_trash()
    if json:
        rows = [
            {"run_id": one.run_id, "name": one.name, "stage": one.stage, "time": one.time, "bytes": one.bytes}
            for one in found
        ]
        print_json({"deleted": rows} if empty else rows)
    elif not found:
        note("the trash is empty")
    elif empty:
        note(f"{_named([one.run_id for one in found])} deleted")
    else:
        cells = [(one.run_id, one.name or "-", format_bytes(one.bytes), format_age(one.time)) for one in found]
        print_table(("run", "name", "size", "age"), cells)


def _mark(words: list[str], event: Marked, done: str, json: bool) -> None:
    with Workbench() as workbench:
        library = Library(workbench)
        marked = [library.mark(run_id, event) for run_id in library.resolve(words)]
    if json:
        print_json([run.to_json() for run in marked])
    else:
        for run in marked:
            note(f"run {run.run_id} is {done}")


def _named(run_ids: list[str]) -> str:
    return f"run {run_ids[0]}" if len(run_ids) == 1 else f"{len(run_ids)} runs"


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{question.rstrip('?')}: standard input is not a terminal, so the question cannot be asked",
            hint="confirm with --yes",
        )
    if not typer.confirm(visible(question), err=True):
        raise Cancelled("nothing was deleted")
