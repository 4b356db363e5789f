"""What can be done with the runs that are chosen in a list: labels, stopping, repeating, the trash, files, copies.

A screen derives from it and says which runs are chosen. Questions are asked before anything that cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import on, work
from textual.binding import Binding, BindingType

from hetspec_core.errors import HetSpecError, UsageError
from hetspec_core.events import Marked
from hetspec_tui.dialogs import Confirm, Prompt
from hetspec_tui.formatting import ago, duration, number, size
from hetspec_tui.messages import OpenComparison, OpenRun, RunsTouched
from hetspec_tui.page import Page
from hetspec_tui.pickers import Choice, Choose
from hetspec_tui.registry import orders
from hetspec_tui.registry.columns import took_s
from hetspec_tui.registry.lineage import family
from hetspec_tui.widgets.paged_table import PagedTable

if TYPE_CHECKING:
    from hetspec_core.service import Discarded, RunSummary, Workbench

_NAMED = 6  # runs that a question names one by one


ACTIONS: list[BindingType] = [
    Binding("equals_sign", "compare", "Compare", id="runs.compare", key_display="="),
    Binding("t", "tag", "Tag", id="runs.tag"),
    Binding("asterisk", "star", "Star", id="runs.star", key_display="*"),
    Binding("x", "cancel", "Stop", id="runs.cancel"),
    Binding("R", "resume", "Resume", id="runs.resume"),
    Binding("d,delete", "delete", "Delete", id="runs.delete"),
    Binding("T", "retry", "Retry", show=False, id="runs.retry"),
    Binding("ctrl+k", "kill", "Kill now", show=False, id="runs.kill"),
    Binding("a", "archive", "Archive", show=False, id="runs.archive"),
    Binding("n", "note", "Note", show=False, id="runs.note"),
    Binding("u", "restore_run", "Restore from trash", show=False, id="runs.restore"),
    Binding("e", "export", "Export", show=False, id="runs.export"),
    Binding("l", "lineage", "Lineage", show=False, id="runs.lineage"),
    Binding("c", "copy_id", "Copy id", show=False, id="runs.copy_id"),
    Binding("C", "copy_path", "Copy path", show=False, id="runs.copy_path"),
]
"""Keys of the actions; a screen puts those of its own before them."""


class RunActions(Page):
    """A page with runs that are chosen."""

    CHANGES = frozenset(
        {"star", "archive", "tag", "note", "delete", "restore_run", "cancel", "kill", "resume", "retry"}
    )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The runs that an action is for: those that are marked, or the one under the cursor."""
        return ()

    @property
    def listed(self) -> tuple[str, ...]:
        """All runs of the list."""
        return ()

    def unmark(self, run_ids: tuple[str, ...]) -> None:
        """Take the marks of runs that are gone."""

    async def _summaries(self, run_ids: tuple[str, ...]) -> list[RunSummary]:
        from hetspec_core.service.pages import Pages

        lines = await self.ask(lambda workbench: Pages(workbench).lines(run_ids)) or []
        return [line.summary for line in lines]

    async def _carry_out(
        self, run_ids: tuple[str, ...], order: Callable[[Workbench, str], str | None], done: str
    ) -> orders.Outcome | None:
        """Do something to runs, say how it went, and let every screen look again."""
        outcome = await self.change(orders.to_each(run_ids, order))
        if outcome is not None:
            self.notify(
                outcome.say(done),
                title="" if outcome.done else "Not done",
                severity="error" if outcome.refused else "information",
                markup=False,
            )
            self.post_message(RunsTouched(run_ids))
        return outcome

    def _nothing(self) -> bool:
        if not self.chosen:
            self.notify("There is no run under the cursor.", severity="warning", timeout=3, markup=False)
        return not self.chosen

    # --- labels ------------------------------------------------------------------------------------------------------

    @work(group="orders")
    async def action_star(self) -> None:
        """Put a star on the chosen runs, or take it off when all have one."""
        await self._switch("starred", "have a star", "have no star any more")

    @work(group="orders")
    async def action_archive(self) -> None:
        """Put the chosen runs into the archive, or take them out when all are in it."""
        await self._switch("archived", "are in the archive", "are out of the archive")

    async def _switch(self, name: str, on: str, off: str) -> None:
        run_ids = self.chosen
        if self._nothing():
            return
        runs = await self._summaries(run_ids)
        value = not all(getattr(run, name) for run in runs)
        what = (
            (on if value else off)
            if len(run_ids) > 1
            else (on if value else off).replace("have", "has", 1).replace("are", "is", 1)
        )
        labels: dict[str, Any] = {name: value}
        await self._carry_out(run_ids, _marker(Marked(**labels)), what)

    @work(group="orders")
    async def action_tag(self) -> None:
        """Put tags on the chosen runs and take them off."""
        run_ids = self.chosen
        if self._nothing():
            return
        runs = await self._summaries(run_ids)
        known = sorted({tag for run in runs for tag in run.tags})
        about = f"now: {' '.join(known)}" if known else "no tags yet"
        text = await self.app.push_screen_wait(
            Prompt(f"Tags for {_named(runs, run_ids)}", hint=f"{about}\na word puts it on, -word takes it off")
        )
        if not text or not text.strip():
            return
        try:
            added, removed = orders.tags_of(text)
        except UsageError as error:
            self.show_error(error)
            return
        words = [f"+{tag}" for tag in added] + [f"-{tag}" for tag in removed]
        await self._carry_out(run_ids, _marker(Marked(add_tags=added, remove_tags=removed)), " ".join(words))

    @work(group="orders")
    async def action_note(self) -> None:
        """Write a note on the chosen runs, in place of the present one."""
        run_ids = self.chosen
        if self._nothing():
            return
        runs = await self._summaries(run_ids)
        notes = {run.note for run in runs}
        text = await self.app.push_screen_wait(
            Prompt(
                f"Note on {_named(runs, run_ids)}",
                notes.pop() if len(notes) == 1 else "",
                hint="replaces the present one; an empty one takes it away",
            )
        )
        if text is not None:
            await self._carry_out(run_ids, _marker(Marked(note=text.strip())), "noted")

    # --- work --------------------------------------------------------------------------------------------------------

    @work(group="orders")
    async def action_cancel(self) -> None:
        """Ask the chosen runs to stop at their next safe point."""
        run_ids = self.chosen
        if self._nothing():
            return
        runs = [run for run in await self._summaries(run_ids) if run.state in ("starting", "running", "queued")]
        if not runs:
            self.notify("None of these is at work or waits.", severity="warning", timeout=4, markup=False)
            return
        details = "\n".join(_at_work(run) for run in runs[:_NAMED])
        if len(runs) > _NAMED:
            details += f"\nand {len(runs) - _NAMED} more"
        stop = Confirm(
            f"Stop {_named(runs, tuple(run.run_id for run in runs))}?",
            f"{details}\n\nIt stops at its next safe point. Datasets and trainings can be resumed from there.",
            yes="Stop",
            no="Cancel",
        )
        if await self.app.push_screen_wait(stop):
            await self._carry_out(tuple(run.run_id for run in runs), orders.cancel, "asked to stop")

    @work(group="orders")
    async def action_kill(self) -> None:
        """End the chosen runs now, with every process they have; several only after a question."""
        run_ids = self.chosen
        if self._nothing():
            return
        if len(run_ids) > 1:
            runs = await self._summaries(run_ids)
            question = Confirm(
                f"Kill {len(run_ids)} runs now?", "What they did since their last checkpoint is lost.", yes="Kill"
            )
            if not runs or not await self.app.push_screen_wait(question):
                return
        await self._carry_out(run_ids, orders.kill, "killed")

    @work(group="orders")
    async def action_resume(self) -> None:
        """Let the chosen runs go on from what is on disk."""
        if not self._nothing():
            await self._carry_out(self.chosen, orders.resume, "resumed")

    @work(group="orders")
    async def action_retry(self) -> None:
        """Begin the chosen runs anew, as new runs with the same specs."""
        if not self._nothing():
            await self._carry_out(self.chosen, orders.retry, "begun again")

    # --- the trash ---------------------------------------------------------------------------------------------------

    @work(group="orders")
    async def action_delete(self) -> None:
        """Move the chosen runs into the trash, after saying what goes with them."""
        from hetspec_core.service.pages import Pages

        run_ids = self.chosen
        if self._nothing():
            return
        loss = await self.ask(lambda workbench: Pages(workbench).loss(run_ids))
        if loss is None or not loss.runs:
            return
        lines = [f"{run.name or run.run_id}  {run.stage}, {run.state}" for run in loss.runs[:_NAMED]]
        if len(loss.runs) > _NAMED:
            lines.append(f"and {len(loss.runs) - _NAMED} more")
        kept = f", among them {loss.checkpoints} checkpoints and drafts" if loss.checkpoints else ""
        lines += ["", f"{size(loss.bytes)} of files go with {'it' if len(loss.runs) == 1 else 'them'}{kept}."]
        if loss.standing:
            stands = "run stands" if len(loss.standing) == 1 else "runs stand"
            lines.append(f"{len(loss.standing)} other {stands} on what will be gone: {', '.join(loss.standing[:3])}")
        lines.append("The trash keeps everything: u gets it back.")
        question = Confirm(
            f"Move {_named(loss.runs, run_ids)} into the trash?", "\n".join(lines), yes="Delete", no="Cancel"
        )
        if not await self.app.push_screen_wait(question):
            return
        outcome = await self._carry_out(run_ids, orders.discard, "in the trash; u gets it back")
        if outcome is not None:
            self.unmark(outcome.done)

    @work(group="orders")
    async def action_restore_run(self) -> None:
        """Choose a run in the trash and get it back."""
        import time

        from hetspec_core.service import Library

        found = await self.ask(lambda workbench: Library(workbench).discarded())
        if found is None:
            return
        choices = [_discarded(one, time.time()) for one in found]
        run_id = await self.app.push_screen_wait(
            Choose("Get which run back from the trash?", choices, empty="the trash is empty")
        )
        if run_id is None:
            return
        back = await self.change(lambda workbench: Library(workbench).restore(run_id))
        if back is not None:
            self.notify(f"{back} is back", markup=False)
            self.post_message(RunsTouched((back,)))

    # --- files and copies --------------------------------------------------------------------------------------------

    @work(group="orders")
    async def action_export(self) -> None:
        """Write the marked runs, or all of the list, with everything they measured into a file."""
        marked = self.chosen if len(self.chosen) > 1 else self.listed
        if not marked:
            self.notify("There are no runs to export.", severity="warning", timeout=3, markup=False)
            return
        name = await self.app.push_screen_wait(
            Prompt(
                f"Write {len(marked):,} run{'s' if len(marked) != 1 else ''} to which file?",
                str(Path.cwd() / "runs.csv"),
                hint=".csv, .json or .md says in which form",
            )
        )
        if name and name.strip():
            await self._export(marked, Path(name.strip()).expanduser())

    async def _export(self, run_ids: tuple[str, ...], path: Path) -> None:
        from hetspec_core.service.export import form_of, runs_text, write_text
        from hetspec_core.service.pages import Pages

        try:
            form = form_of(path)
        except HetSpecError as error:
            self.show_error(error)
            return
        if path.exists() and not await self.app.push_screen_wait(
            Confirm(f"Write over {path.name}?", f"{path} is there already.", yes="Write over")
        ):
            return

        def write(workbench: Workbench) -> int:
            pages = Pages(workbench)
            runs = [line.summary for line in pages.lines(run_ids)]
            figures = [pages.library.figures(run.run_id) for run in runs]
            write_text(path, runs_text(runs, figures, form, number))
            return len(runs)

        written = await self.ask(write)  # a file of the user's, not a run: also where one only looks
        if written is not None:
            self.notify(f"{written:,} run{'s' if written != 1 else ''} written to {path}", markup=False)

    async def action_copy_id(self) -> None:
        """Put the ids of the chosen runs on the clipboard."""
        if not self._nothing():
            self.app.copy_to_clipboard("\n".join(self.chosen))
            self.notify("\n".join(self.chosen[:_NAMED]), title="Copied", timeout=3, markup=False)

    async def action_copy_path(self) -> None:
        """Put the folders of the chosen runs on the clipboard."""
        run_ids = self.chosen
        if self._nothing():
            return
        paths = await self.ask(lambda workbench: [str(workbench.paths(run_id).folder) for run_id in run_ids])
        if paths:
            self.app.copy_to_clipboard("\n".join(paths))
            self.notify("\n".join(paths[:_NAMED]), title="Copied", timeout=3, markup=False)

    # --- other screens -----------------------------------------------------------------------------------------------

    @on(PagedTable.Selected)
    def open_run(self, event: PagedTable.Selected) -> None:
        """Open the run that was chosen."""
        self.post_message(OpenRun(event.key))

    def action_compare(self) -> None:
        """Show the marked runs side by side."""
        if len(self.chosen) < 2:
            self.notify(
                "Mark at least two runs with space, then press = again.", severity="warning", timeout=4, markup=False
            )
            return
        self.post_message(OpenComparison(self.chosen))

    @work(group="orders")
    async def action_lineage(self) -> None:
        """Show what the run stands on and what stands on it; Enter opens one of them."""
        from hetspec_core.service import Library

        if self._nothing():
            return
        run_id = self.chosen[0]

        def look(workbench: Workbench) -> list[Choice]:
            library = Library(workbench)
            return family(library.lineage(run_id, "up"), library.lineage(run_id, "down"))

        choices = await self.ask(look)
        if choices is None:
            return
        opened = await self.app.push_screen_wait(
            Choose(
                "What it stands on, and what stands on it",
                choices,
                next((c.key for c in choices if "◆" in c.text), None),
            )
        )
        if opened is not None and opened.startswith("!"):
            self.notify("This run is not here any more; u looks into the trash.", severity="warning", markup=False)
        elif opened is not None:
            self.post_message(OpenRun(opened.partition("#")[0]))


def _marker(event: Marked) -> Callable[[Workbench, str], str | None]:
    def put(workbench: Workbench, run_id: str) -> None:
        from hetspec_core.service import Library

        Library(workbench).mark(run_id, event.model_copy())

    return put


def _named(runs: list[RunSummary], run_ids: tuple[str, ...]) -> str:
    if len(run_ids) != 1:
        return f"{len(run_ids)} runs"
    return next((run.name for run in runs if run.name), run_ids[0])


def _at_work(run: RunSummary) -> str:
    step = f", step {run.step:,}" if run.step is not None else ""
    return f"{run.name or run.run_id}  {run.state} for {duration(took_s(run))}{step}"


def _discarded(one: Discarded, now: float) -> Choice:
    about = f"{one.stage}, {size(one.bytes)}, {ago(max(0.0, now - one.time))} ago"
    return Choice(one.run_id, one.name or one.run_id, f"{one.run_id}  {about}" if one.name else about)
