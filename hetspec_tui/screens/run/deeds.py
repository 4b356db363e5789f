"""What can be done with a run from its screen: stop, go on, label, look into its end, take it elsewhere.

It asks before what cannot be taken back, and tells the other screens. How the run is shown it does not know.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

from textual import work
from textual.app import SuspendNotSupported

from hetspec_core.events import Marked
from hetspec_core.service import RESUMABLE, Library, RunSummary, post_mortem
from hetspec_tui.dialogs import Confirm, Details, Prompt
from hetspec_tui.formatting import duration, safe
from hetspec_tui.messages import OpenRun, RunsTouched
from hetspec_tui.page import Page
from hetspec_tui.screens.run.head import AT_WORK, runtime_s

if TYPE_CHECKING:
    from hetspec_core.service import Workbench

FINISHED = frozenset({"succeeded", "failed", "cancelled", "lost"})


class RunDeeds(Page):
    """A page of one run with the actions on it. A subclass keeps `run` up to date, and looks again in `tick`."""

    CHANGES = frozenset({"cancel", "kill", "resume", "retry", "tag", "note", "star"})

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.run: RunSummary | None = None
        self.gone = False

    @property
    def title_of_run(self) -> str:
        """Its name, else its id."""
        return safe(self.run.name) or self.run_id if self.run else self.run_id

    def tick(self) -> None:
        """Look whether there is something new."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        state = "" if self.run is None or self.gone else self.run.state
        if action in ("cancel", "kill") and state not in AT_WORK | {"queued"}:
            return False
        if action == "resume" and (
            self.run is None or state not in FINISHED - {"succeeded"} or self.run.stage not in RESUMABLE
        ):
            return False
        if action == "retry" and state not in FINISHED:
            return False
        if action == "post_mortem" and state not in ("failed", "lost", "cancelled"):
            return False
        return super().check_action(action, parameters)

    def _words(self) -> str:
        run = self.run
        if run is None:
            return self.run_id
        step = f", step {run.step:,}" if run.step is not None else ""
        return f"{self.title_of_run} ({run.stage}) has worked for {duration(runtime_s(run))}{step}."

    @work(group="act")
    async def action_cancel(self) -> None:
        """Ask, then let the run stop at its next safe point."""
        yes = await self.app.push_screen_wait(
            Confirm(
                f"Stop run {self.title_of_run}?",
                f"{self._words()}\nIt stops at its next safe point, and what is on disk stays.",
                yes="Stop it",
                no="Cancel",
            )
        )
        if yes:
            await self._stop(force=False)

    @work(group="act")
    async def action_kill(self) -> None:
        """End all processes of the run at once."""
        await self._stop(force=True)

    async def _stop(self, *, force: bool) -> None:
        if await self.change(lambda workbench: workbench.cancel(self.run_id, force=force)) is not None:
            text = "All its processes were ended." if force else "It stops at its next safe point."
            self.notify(text, title=self.title_of_run, markup=False)
            self._touched()

    @work(group="act")
    async def action_resume(self) -> None:
        """Go on with the run from what is on disk."""

        def order(workbench: Workbench) -> bool:
            workbench.resume(self.run_id)
            return True

        if await self.change(order):
            self._touched()

    @work(group="act")
    async def action_retry(self) -> None:
        """Start a new run with the same spec, and show it."""

        def order(workbench: Workbench) -> str:
            run_id = Library(workbench).retry(self.run_id)
            workbench.start(run_id)
            return run_id

        run_id = await self.change(order)
        if run_id is not None:
            self.post_message(RunsTouched((run_id,)))
            self.post_message(OpenRun(run_id))

    @work(group="act")
    async def action_tag(self) -> None:
        """Change the tags."""
        old = set(self.run.tags if self.run else ())
        words = await self.app.push_screen_wait(Prompt("Tags", " ".join(sorted(old)), "words with blanks between"))
        if words is not None:
            new = set(words.split())
            await self._mark(Marked(add_tags=tuple(sorted(new - old)), remove_tags=tuple(sorted(old - new))))

    @work(group="act")
    async def action_note(self) -> None:
        """Change the note."""
        text = await self.app.push_screen_wait(Prompt("Note", self.run.note if self.run else "", "empty = no note"))
        if text is not None:
            await self._mark(Marked(note=text.strip()))

    @work(group="act")
    async def action_star(self) -> None:
        """Star the run, or take the star away."""
        await self._mark(Marked(starred=not (self.run and self.run.starred)))

    async def _mark(self, event: Marked) -> None:
        if await self.change(lambda workbench: Library(workbench).mark(self.run_id, event)) is not None:
            self._touched()

    def _touched(self) -> None:
        self.post_message(RunsTouched((self.run_id,)))
        self.tick()

    @work(group="act")
    async def action_post_mortem(self) -> None:
        """Show the error, the end of the log, and what is known about such failures."""
        found = await self.ask(lambda workbench: post_mortem(workbench, self.run_id))
        if found is not None:
            text = "\n".join(safe(line) for line in found.to_text().split("\n"))
            await self.app.push_screen(Details("What went wrong", text))

    def action_copy_id(self) -> None:
        """Put the run's id on the clipboard."""
        self._copy(self.run_id)

    def action_copy_path(self) -> None:
        """Put the path of the run's folder on the clipboard."""
        self._copy(self.run.folder if self.run else self.run_id)

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(text, title="Copied", timeout=3, markup=False)

    def action_open_folder(self) -> None:
        """Open the folder in the user's editor; without one, copy its path."""
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if self.run is None:
            return
        if editor:
            self.outside([*shlex.split(editor), self.run.folder], self.run.folder)
        else:
            self._copy(self.run.folder)
            self.notify("Set EDITOR to open it from here.", timeout=5)

    def outside(self, command: list[str], path: str) -> None:
        """Run a program in the terminal while the dashboard waits."""
        try:
            with self.app.suspend():
                subprocess.run(command, check=False)
        except SuspendNotSupported:
            self._copy(path)
        except OSError as error:
            self.notify(f"{command[0]}: {error.strerror}", title="Not done", severity="error", markup=False)
        self.refresh(layout=True)
