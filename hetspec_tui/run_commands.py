"""The commands on runs: stop, kill, resume, begin anew, labels, trash, copies. One key map for every page with runs.

A page holds a `RunCommands` and binds its keys with `run_bindings`. A command that starts work or destroys something
asks first, or can be undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from textual.binding import Binding

from hetspec_core.errors import UsageError
from hetspec_core.events import AT_WORK, UNFINISHED
from hetspec_tui.desk import Outcome, to_each
from hetspec_tui.dialogs import Choice, Choose, Confirm, Prompt
from hetspec_tui.formatting import STATE_SIGNS, ago, duration, size
from hetspec_tui.pages import OpenComparison, OpenRun, RunsTouched

if TYPE_CHECKING:
    from hetspec_core.service.library import Discarded, Relative
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench
    from hetspec_tui.page import Page

KILL_WAIT_S = 10.0
RESUMED = frozenset({"lost", "failed", "cancelled"})
FINISHED = RESUMED | {"succeeded"}
_RESUMABLE_STAGES = ("dataset", "train")
_NAMED = 6  # runs that a question names one by one


class Command(NamedTuple):
    """A command on runs: its keys, its word in the footer, and what it does."""

    keys: str
    title: str
    about: str
    key_display: str | None = None
    changes: bool = True


COMMANDS = {
    "cancel": Command("x", "Stop", "Stop at the next safe point; asks first"),
    "kill": Command("ctrl+k", "Kill now", "End all its processes now; asks first"),
    "resume": Command("r", "Resume", "Go on from what is on disk; asks first"),
    "retry": Command("R", "Begin anew", "A new run with the same spec; asks first"),
    "tag": Command("t", "Tag", "Add tags, or remove them with -word"),
    "note": Command("i", "Note", "Write a note, in place of the present one"),
    "star": Command("asterisk", "Star", "Add the star, or remove it", "*"),
    "archive": Command("a", "Archive", "Leave it out of the lists; the same key brings it back"),
    "delete": Command("d,delete", "Delete", "Move it into the trash; asks first"),
    "restore": Command("u", "Restore from trash", "Get a run back from the trash"),
    "compare": Command("equals_sign", "Compare", "Show the marked runs side by side", "=", changes=False),
    "lineage": Command("l", "Lineage", "What it was made from, and what was made from it", changes=False),
    "copy_id": Command("c", "Copy id", "Put the id on the clipboard", changes=False),
    "copy_path": Command("C", "Copy path", "Put the path of the folder on the clipboard", changes=False),
}
"""Name of the method of `RunCommands` -> its keys and words."""


def run_bindings(prefix: str, *names: str, hidden: Sequence[str] = (), separator: str = "_") -> list[Binding]:
    """The bindings of a page for these commands; those in `hidden` are not in the footer.

    Args:
        prefix: first part of the ids for `keys.toml`.
        names: commands, in the order of the footer.
        hidden: further commands.
        separator: between the words of an id.
    """
    return [
        Binding(
            COMMANDS[name].keys,
            f"run_command({name!r})",
            COMMANDS[name].title,
            show=name not in hidden,
            key_display=COMMANDS[name].key_display,
            id=f"{prefix}.{name.replace('_', separator)}",
            tooltip=COMMANDS[name].about,
        )
        for name in (*names, *hidden)
    ]


class RunCommands:
    """The commands of a page on the runs that are chosen in it; `COMMANDS` says what each does.

    Args:
        page: asks the desk and the user, and posts messages.
        chosen: ids of the runs that a command is for.
        one: the run that the page shows, so that commands that do not fit its state are disabled; absent in a page
            that lists many.
        unmark: is called with the runs that were deleted.
        opens_new: whether a run that is begun anew is opened.
    """

    def __init__(
        self,
        page: Page,
        chosen: Callable[[], tuple[str, ...]],
        *,
        one: Callable[[], RunSummary | None] | None = None,
        unmark: Callable[[tuple[str, ...]], None] = lambda _: None,
        opens_new: bool = False,
    ) -> None:
        self._page, self._chosen, self._one = page, chosen, one
        self._unmark, self._opens_new = unmark, opens_new

    def is_possible(self, name: str) -> bool | None:
        """Whether the command fits the run now; None = it fits, and this dashboard is read-only."""
        if self._one is not None:
            run = self._one()
            if run is None or not _fits(name, run):
                return False
        return None if COMMANDS[name].changes and self._page.desk.read_only else True

    def start(self, name: str) -> None:
        """Carry out a command in a worker of the page."""
        if name != "restore" and not self._chosen():
            self._warn("There is no run under the cursor.")
        else:
            self._page.run_worker(getattr(self, name)(), group="run command")

    async def _summaries(self, run_ids: tuple[str, ...]) -> list[RunSummary]:
        from hetspec_core.service.pages import Pages

        lines = await self._page.ask(lambda workbench: Pages(workbench).lines(run_ids)) or []
        return [line.summary for line in lines]

    async def _carry_out(
        self, run_ids: tuple[str, ...], order: Callable[[Workbench, str], str | None], done: str
    ) -> Outcome | None:
        """Do something to runs, say how it went, and let every page look again."""
        return await self._tell(run_ids, await self._page.change(to_each(run_ids, order)), done)

    async def _tell(self, run_ids: tuple[str, ...], outcome: Outcome | None, done: str) -> Outcome | None:
        if outcome is not None:
            self._page.notify(
                outcome.say(done),
                title="" if outcome.done else "Not done",
                severity="error" if outcome.refused else "information",
                markup=False,
            )
            self._page.post_message(RunsTouched(run_ids))
        return outcome

    async def _confirm(self, question: str, details: str, yes: str) -> bool:
        return bool(await self._page.ask_user(Confirm(question, details, yes=yes)))

    def _warn(self, text: str) -> None:
        self._page.notify(text, severity="warning", timeout=4, markup=False)

    # --- work --------------------------------------------------------------------------------------------------------

    async def cancel(self) -> None:
        runs = [run for run in await self._summaries(self._chosen()) if run.state in UNFINISHED]
        if not runs:
            self._warn("None of these is at work or waits.")
            return
        run_ids = tuple(run.run_id for run in runs)
        end = "It stops at its next safe point. Datasets and trainings can be resumed from there."
        if await self._confirm(f"Stop {_named(runs)}?", f"{_listed(runs)}\n\n{end}", "Stop"):
            await self._carry_out(run_ids, _cancel, "asked to stop")

    async def kill(self) -> None:
        run_ids = self._chosen()
        runs = await self._summaries(run_ids)
        end = "What they did since their last checkpoint is lost."
        if runs and await self._confirm(f"Kill {_named(runs)} now?", f"{_listed(runs)}\n\n{end}", "Kill"):
            await self._carry_out(run_ids, _kill, "killed")

    async def resume(self) -> None:
        run_ids = self._chosen()
        runs = await self._summaries(run_ids)
        if runs and await self._confirm(f"Resume {_named(runs)}?", _listed(runs), "Resume"):
            await self._carry_out(run_ids, lambda workbench, run_id: workbench.resume(run_id), "resumed")

    async def retry(self) -> None:
        from hetspec_core.service.library import Library

        run_ids, made = self._chosen(), list[str]()
        runs = await self._summaries(run_ids)
        end = "A new run with the same spec starts; this one stays as it is."
        if not runs or not await self._confirm(f"Begin {_named(runs)} anew?", f"{_listed(runs)}\n\n{end}", "Begin"):
            return

        def begin(workbench: Workbench, run_id: str) -> str:
            made.append(Library(workbench).retry(run_id))
            workbench.start(made[-1])
            return f"as {made[-1]}"

        outcome = await self._page.change(to_each(run_ids, begin))
        await self._tell((*run_ids, *made), outcome, "begun again")
        if self._opens_new and made:
            self._page.post_message(OpenRun(made[0]))

    # --- labels ------------------------------------------------------------------------------------------------------

    async def star(self) -> None:
        await self._switch("starred", ("has a star", "have a star"), ("has no star any more", "have no star any more"))

    async def archive(self) -> None:
        back = "in the archive; A in the list of runs shows it, a takes it out"
        out = "out of the archive"
        await self._switch("archived", (f"is {back}", f"are {back}"), (f"is {out}", f"are {out}"))

    async def _switch(self, name: str, on: tuple[str, str], off: tuple[str, str]) -> None:
        run_ids = self._chosen()
        value = not all(getattr(run, name) for run in await self._summaries(run_ids))
        await self._mark(run_ids, (on if value else off)[len(run_ids) > 1], **{name: value})

    async def tag(self) -> None:
        from hetspec_core.service.names import tags_of

        run_ids = self._chosen()
        runs = await self._summaries(run_ids)
        known = sorted({tag for run in runs for tag in run.tags})
        about = f"now: {' '.join(known)}" if known else "no tags yet"
        text = await self._page.ask_user(
            Prompt(f"Tags for {_named(runs)}", hint=f"{about}\na word adds it, -word removes it")
        )
        if not text or not text.strip():
            return
        try:
            added, removed = tags_of(text.split())
        except UsageError as error:
            self._page.show_error(error)
            return
        words = [f"+{tag}" for tag in added] + [f"-{tag}" for tag in removed]
        await self._mark(run_ids, " ".join(words), add_tags=added, remove_tags=removed)

    async def note(self) -> None:
        run_ids = self._chosen()
        runs = await self._summaries(run_ids)
        notes = {run.note for run in runs}
        text = await self._page.ask_user(
            Prompt(
                f"Note on {_named(runs)}",
                notes.pop() if len(notes) == 1 else "",
                hint="replaces the present one; an empty one removes it",
            )
        )
        if text is not None:
            await self._mark(run_ids, "noted", note=text.strip())

    async def _mark(self, run_ids: tuple[str, ...], done: str, **labels: Any) -> None:
        from hetspec_core.events import Marked
        from hetspec_core.service.library import Library

        def mark(workbench: Workbench, run_id: str) -> None:
            Library(workbench).mark(run_id, Marked(**labels))

        await self._carry_out(run_ids, mark, done)

    async def delete(self) -> None:
        from hetspec_core.service.library import Library
        from hetspec_core.service.pages import Pages

        run_ids = self._chosen()
        loss = await self._page.ask(lambda workbench: Pages(workbench).loss(run_ids))
        if loss is None or not loss.runs:
            return
        lines = [f"{run.name or run.run_id}  {run.stage}, {run.state}" for run in loss.runs[:_NAMED]]
        if len(loss.runs) > _NAMED:
            lines.append(f"and {len(loss.runs) - _NAMED} more")
        kept = f", among them {loss.checkpoints} checkpoints and drafts" if loss.checkpoints else ""
        lines += ["", f"{size(loss.bytes)} of files go with {'it' if len(loss.runs) == 1 else 'them'}{kept}."]
        if loss.dependents:
            depend = "run depends" if len(loss.dependents) == 1 else "runs depend"
            lines.append(f"{len(loss.dependents)} other {depend} on what is deleted: {', '.join(loss.dependents[:3])}")
        lines.append("The trash keeps everything: u gets it back.")
        if await self._confirm(f"Move {_named(loss.runs)} into the trash?", "\n".join(lines), "Delete"):
            outcome = await self._carry_out(
                run_ids, lambda workbench, run_id: Library(workbench).discard(run_id), "in the trash; u gets it back"
            )
            if outcome is not None:
                self._unmark(tuple(outcome.done))

    async def restore(self) -> None:
        from hetspec_core.service.library import Library

        found = await self._page.ask(lambda workbench: Library(workbench).discarded())
        if found is None:
            return
        choices = [_discarded(one, time.time()) for one in found]
        run_id = await self._page.ask_user(
            Choose("Get which run back from the trash?", choices, empty="the trash is empty")
        )
        if run_id is None:
            return
        back = await self._page.change(lambda workbench: Library(workbench).restore(run_id))
        if back is not None:
            self._page.notify(f"{back} is back", markup=False)
            self._page.post_message(RunsTouched((back,)))

    # --- looking -----------------------------------------------------------------------------------------------------

    async def compare(self) -> None:
        if len(self._chosen()) < 2:
            self._warn("Mark at least two runs with space, then press = again.")
        else:
            self._page.post_message(OpenComparison(self._chosen()))

    async def lineage(self) -> None:
        from hetspec_core.service.library import Library

        run_id = self._chosen()[0]

        def look(workbench: Workbench) -> list[Choice]:
            library = Library(workbench)
            return family(library.lineage(run_id, "up"), library.lineage(run_id, "down"))

        choices = await self._page.ask(look)
        if choices is None:
            return
        own = next((choice.key for choice in choices if "◆" in choice.text), None)
        opened = await self._page.ask_user(Choose("Runs it depends on, and runs that depend on it", choices, own))
        if opened is not None and opened.startswith("!"):
            self._page.notify("This run was deleted; u shows the trash.", severity="warning")
        elif opened is not None:
            self._page.post_message(OpenRun(opened.partition("#")[0]))

    async def copy_id(self) -> None:
        self._copy(self._chosen())

    async def copy_path(self) -> None:
        run_ids = self._chosen()
        paths = await self._page.ask(lambda workbench: [str(workbench.paths(run_id).folder) for run_id in run_ids])
        if paths:
            self._copy(paths)

    def _copy(self, words: Sequence[str]) -> None:
        self._page.app.copy_to_clipboard("\n".join(words))
        self._page.notify("\n".join(words[:_NAMED]), title="Copied", timeout=3, markup=False)


def _fits(name: str, run: RunSummary) -> bool:
    if name == "cancel":
        return run.state in UNFINISHED
    if name == "kill":
        return run.state in AT_WORK
    if name == "resume":
        return run.state in RESUMED and run.stage in _RESUMABLE_STAGES
    if name == "retry":
        return run.state in FINISHED
    return name != "archive" or run.state not in UNFINISHED


def _cancel(workbench: Workbench, run_id: str) -> None:
    workbench.cancel(run_id)


def _kill(workbench: Workbench, run_id: str) -> str | None:
    workbench.cancel(run_id, force=True)
    state = workbench.wait(run_id, timeout_s=KILL_WAIT_S)
    return f"{run_id} is still {state}" if state in AT_WORK else None


def _named(runs: Sequence[RunSummary]) -> str:
    return (runs[0].name or runs[0].run_id) if len(runs) == 1 else f"{len(runs)} runs"


def _listed(runs: Sequence[RunSummary]) -> str:
    lines = []
    for run in runs[:_NAMED]:
        since = "" if run.started is None else f" for {duration((run.ended or time.time()) - run.started)}"
        state = f"{run.state}{since}" if run.state in AT_WORK else run.state
        step = f", step {run.step:,}" if run.step is not None else ""
        lines.append(f"{run.name or run.run_id}  {run.stage}, {state}{step}")
    if len(runs) > _NAMED:
        lines.append(f"and {len(runs) - _NAMED} more")
    return "\n".join(lines)


def _discarded(one: Discarded, now: float) -> Choice:
    about = f"{one.stage}, {size(one.bytes)}, {ago(max(0.0, now - one.time))} ago"
    return Choice(one.run_id, one.name or one.run_id, f"{one.run_id}  {about}" if one.name else about)


def family(up: Relative, down: Relative) -> list[Choice]:
    """The lines from the farthest ancestor to the farthest descendant; the run itself has the sign ◆.

    Keys are run ids; the second occurrence of one is `ID#2`, and that of a run that was deleted begins with a !.
    """
    lines: list[tuple[str, str, Relative]] = []
    _ancestors(up.relatives, 0, lines)
    lines.append(("", "◆ ", up))
    _descendants(down.relatives, "", lines)
    counts: dict[str, int] = {}
    choices: list[Choice] = []
    for indent, sign, one in lines:
        counts[one.run_id] = counts.get(one.run_id, 0) + 1
        nth = counts[one.run_id]
        key = one.run_id if nth == 1 else f"{one.run_id}#{nth}"
        key = key if one.summary else f"!{key}"
        name = (one.summary.name if one.summary else "") or one.run_id
        choices.append(Choice(key, f"{indent}{sign}{name}", _about(one)))
    return choices


def _ancestors(relatives: tuple[Relative, ...], depth: int, lines: list[tuple[str, str, Relative]]) -> None:
    for one in relatives:
        _ancestors(one.relatives, depth + 1, lines)
        lines.append(("  " * depth, "▲ ", one))


def _descendants(relatives: tuple[Relative, ...], indent: str, lines: list[tuple[str, str, Relative]]) -> None:
    for number, one in enumerate(relatives):
        last = number == len(relatives) - 1
        lines.append((indent, "└─ " if last else "├─ ", one))
        _descendants(one.relatives, indent + ("   " if last else "│  "), lines)


def _about(one: Relative) -> str:
    run = one.summary
    if run is None:
        return "was deleted"
    about = f"{run.stage} {STATE_SIGNS.get(run.state, '')} {run.state}"
    return f"{about}  {run.run_id}" if run.name else about
