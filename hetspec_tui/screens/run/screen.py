"""One run: its screen looks at it ten times a second and draws what is new. Closing it stops no run."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static, TabbedContent, TabPane

from hetspec_core.errors import HetSpecError, NotFoundError
from hetspec_core.service.library import Library
from hetspec_core.service.report import RunSummary, list_files
from hetspec_core.service.run_news import RunNews, RunReader, log_names, post_mortem
from hetspec_tui.dialogs import Details
from hetspec_tui.formatting import safe
from hetspec_tui.page import Page
from hetspec_tui.run_commands import FINISHED, RESUMED, RunCommands, run_bindings
from hetspec_tui.screens.run import texts
from hetspec_tui.screens.run.panes import CurvesPane, FileSource, SettingsView
from hetspec_tui.screens.run.texts import RunHead
from hetspec_tui.widgets.log_view import ListSource, LogView

LOOK_S = 0.1
_SLOW_S = 2.0
_RECENT = 12
PANES = {
    "curves": "Curves",
    "log": "Log",
    "config": "Config",
    "workers": "Workers",
    "files": "Files",
    "events": "Events",
    "result": "Result",
}


class ScrollableText(VerticalScroll):
    """A text to scroll in."""

    ALLOW_MAXIMIZE = True


class RunScreen(Page):
    """The screen of a run.

    Args:
        run_id: which.
    """

    CSS_PATH = "run.tcss"
    CRUMB = "Run"
    OWN_DIGITS = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "post_mortem", "What went wrong", id="run.post-mortem"),
        *run_bindings("run", "cancel", "resume", "retry", separator="-"),
        Binding("f", "maximize", "Full", id="run.maximize", tooltip="The pane on the whole screen, and back"),
        *run_bindings("run", "tag", "note", hidden=("kill", "star", "archive", "copy_id", "copy_path"), separator="-"),
        Binding("O", "open_folder", "Open folder", id="run.open-folder", show=False, tooltip="In $EDITOR"),
        Binding("right_square_bracket", "log(1)", "Next log", id="run.next-log", show=False, key_display="]"),
        Binding("left_square_bracket", "log(-1)", "Log before", id="run.previous-log", show=False, key_display="["),
        Binding("v", "pager", "Log in pager", id="run.pager", show=False),
        *(
            Binding(str(at), f"pane({name!r})", title, id=f"run.pane-{name}", show=False)
            for at, (name, title) in enumerate(PANES.items(), 1)
        ),
    ]

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self.run: RunSummary | None = None
        self.deleted = False
        self.commands = RunCommands(
            self, lambda: (self.run_id,), one=lambda: None if self.deleted else self.run, opens_new=True
        )
        self._reader = RunReader(run_id)
        self._news: RunNews | None = None
        self._events = ListSource()
        self._recent: list[str] = []
        self._logs: list[str] = []
        self._log = ""
        self._looking = False
        self._failing = ""
        self._next_draw = 0.0
        self._beats = 0
        self._slow_at: dict[str, float] = {}

    @property
    def crumb(self) -> str:
        return safe(self.run.name) or self.run_id if self.run else self.run_id

    def compose_page(self) -> ComposeResult:
        yield RunHead()
        with Horizontal(id="run-body"):
            with TabbedContent(id="panes"):
                with TabPane("1 Curves", id="curves-pane"):
                    yield CurvesPane(self.run_id)
                with TabPane("2 Log", id="log-pane"):
                    yield LogView(empty="no log yet", id="log")
                with TabPane("3 Config", id="config-pane"):
                    yield SettingsView(id="config")
                for at, name in enumerate(("workers", "files"), 4):
                    with TabPane(f"{at} {PANES[name]}", id=f"{name}-pane"), ScrollableText():
                        yield Static(id=name, markup=False)
                with TabPane("6 Events", id="events-pane"):
                    yield LogView(empty="nothing has happened yet", id="events")
                with TabPane("7 Result", id="result-pane"), ScrollableText():
                    yield Static(id="result", markup=False)
            with VerticalScroll(id="side", can_focus=False):
                yield Static(id="facts", markup=False)
                yield Static("latest events", classes="side-title", markup=False)
                yield Static(id="recent", markup=False)

    def on_mount(self) -> None:
        self.call_after_refresh(self._begin)  # what is inside the panes is not mounted yet

    def _begin(self) -> None:
        self.query_one("#events", LogView).set_source(self._events)
        self.query_one("#result", Static).update(texts.results_text({}))
        self.set_interval(LOOK_S, self._beat)
        self.set_focus(self.curves.chart)
        self.bring_config()
        self.tick()

    @property
    def curves(self) -> CurvesPane:
        return self.query_one(CurvesPane)

    @property
    def pane(self) -> str:
        """Name of the pane that is open."""
        return self.query_one("#panes", TabbedContent).active.removesuffix("-pane")

    # --- looking ------------------------------------------------------------------------------------------------------

    def _has(self, part: str) -> bool:
        """Whether a part is still there: an answer may arrive while the screen closes."""
        return self.is_mounted and bool(self.query(part))

    def _beat(self) -> None:
        """Look ten times a second while the run works, twice a second after its end."""
        self._beats += 1
        if self.run is None or self.run.state not in FINISHED or self._beats % 5 == 0:
            self.tick()

    def tick(self) -> None:
        if self._looking or self.deleted or not self.is_current:
            return
        self._looking = True
        self.look()

    @work(group="look", exit_on_error=True)
    async def look(self) -> None:
        try:
            news = await self.desk.ask(self._reader.look)
        except NotFoundError:
            self._is_deleted()
            return
        except HetSpecError as error:
            if error.message != self._failing:  # said once, not ten times a second
                self.show_error(error)
            self._failing = error.message
            return
        finally:
            self._looking = False
        if not all(self._has(part) for part in ("RunHead", "#panes", "CurvesPane", "#facts", "#recent")):
            return
        self._failing = ""
        if news is not None:
            self._take(news)
        if time.monotonic() >= self._next_draw:  # time goes on, also when nothing is new
            self._next_draw = time.monotonic() + 1.0
            self.query_one(RunHead).draw()
        if self.pane == "curves":
            self.curves.tick()
        self._bring_slow()

    def _take(self, news: RunNews) -> None:
        before, self.run, self._news = self.run, news.summary, news
        self.query_one(RunHead).show(news.summary)
        self._events.extend(news.sentences)
        self._recent = [*self._recent, *news.sentences][-_RECENT:]
        self.curves.names[self.run_id] = news.summary.name or self.run_id
        self.curves.know(news.metrics)
        self._draw_facts()
        if before is None or before.state != news.summary.state:
            self.show_crumb()
            self.refresh_bindings()
        if before is None:
            self._first_pane(news)
        self._slow_at.clear()
        if news.has_results and (before is None or any("result of" in said for said in news.sentences)):
            self.bring_result()
        self._draw_workers(None)

    def _first_pane(self, news: RunNews) -> None:
        """Show at first what there is most to see in."""
        if not news.metrics and self.pane == "curves":
            self.action_pane("result" if news.has_results else "log")

    def _is_deleted(self) -> None:
        if not self.deleted and self.is_whole:
            self.deleted = True
            self.query_one(RunHead).show_deleted()
            self.refresh_bindings()
            self.notify(f"Run {self.run_id} was deleted or moved.", severity="warning", markup=False)

    def _bring_slow(self) -> None:
        """Refresh the expensive panes every few seconds, and only the one that is open."""
        pane, now = self.pane, time.monotonic()
        if now < self._slow_at.get(pane, 0.0):
            return
        self._slow_at[pane] = now + _SLOW_S
        if pane == "files":
            self.bring_files()
        elif pane == "workers":
            self.bring_workers()
        elif pane == "log":
            self.bring_logs()

    @work(group="config")
    async def bring_config(self) -> None:
        values = await self.ask(lambda workbench: Library(workbench).explain(self.run_id))
        if values and self._has("#config"):
            self.query_one("#config", SettingsView).show(values)

    @work(exclusive=True, group="logs")
    async def bring_logs(self) -> None:
        """See which logs there are, and show the one that was chosen."""
        names = await self.ask(lambda workbench: log_names(workbench, self.run_id))
        if names is None or not self._has("#log"):
            return
        self._logs = names
        if self._log not in names and names:
            self._show_log(names[0])

    def _show_log(self, name: str) -> None:
        self._log = name
        view = self.query_one("#log", LogView)
        if self.run is not None:
            at = f" ({self._logs.index(name) + 1}/{len(self._logs)}, [ ])" if len(self._logs) > 1 else ""
            view.set_source(FileSource(self.desk, self._log_path(name)), empty=f"{name}.log is empty{at}")
            view.border_title = Content(f"{safe(name)}.log{at}")

    def _log_path(self, name: str) -> Path:
        folder = Path(self.run.folder) if self.run else Path()
        return folder / "logs" / f"{name}.log"

    @work(exclusive=True, group="workers")
    async def bring_workers(self) -> None:
        self._draw_workers(await self.ask(lambda workbench: workbench.gpus()))

    def _draw_workers(self, gpus: Any) -> None:
        if self._news is not None and self._has("#workers"):
            self.query_one("#workers", Static).update(texts.workers_text(self._news.workers, gpus, self.run_id))

    @work(exclusive=True, group="files")
    async def bring_files(self) -> None:
        run, news = self.run, self._news
        if run is None or news is None:
            return
        try:
            files = await self.ask(lambda _: list_files(Path(run.folder)))
        except OSError:  # deleted meanwhile, which the next look says
            return
        if files is not None and self._has("#files"):
            text = texts.files_text(news.checkpoints, news.artifacts, files, run.folder)
            self.query_one("#files", Static).update(text)

    @work(exclusive=True, group="result")
    async def bring_result(self) -> None:
        results = await self.ask(lambda workbench: workbench.registry.results(self.run_id))
        if results is not None and self._has("#result"):
            self.query_one("#result", Static).update(texts.results_text(results))

    def _draw_facts(self) -> None:
        run, news = self.run, self._news
        if run is not None and news is not None:
            self.query_one("#facts", Static).update(texts.facts_text(run, news.checkpoints))
            self.query_one("#recent", Static).update(texts.recent_text(self._recent))

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        self.tick()

    # --- panes --------------------------------------------------------------------------------------------------------

    def action_pane(self, name: str) -> None:
        if self.maximized is not None:
            self.minimize()
        self.query_one("#panes", TabbedContent).active = f"{name}-pane"
        self._focus_pane(name)
        self._slow_at.clear()
        self.tick()

    def _focus_pane(self, name: str) -> None:
        pane = self.query_one(f"#{name}-pane")
        inside = next(iter(pane.query("Chart, LogLines, VerticalScroll")), None)
        if inside is not None:  # at once: a widget that is hidden gives the focus to the tabs
            self.set_focus(inside)

    @on(TabbedContent.TabActivated)
    def _pane_opened(self) -> None:
        self._slow_at.clear()

    def action_maximize(self) -> None:
        if self.maximized is not None:
            self.minimize()
            return
        pane = self.query_one(f"#{self.pane}-pane")
        inside = next(iter(pane.query("Chart, LogView, VerticalScroll")), None)
        if inside is not None:
            self.maximize(inside, container=False)

    def action_log(self, direction: int) -> None:
        if self._logs:
            at = self._logs.index(self._log) if self._log in self._logs else 0
            self._show_log(self._logs[(at + direction) % len(self._logs)])

    def action_pager(self) -> None:
        if self._log:
            self.run_outside(shlex.split(os.environ.get("PAGER") or "less -R"), self._log_path(self._log))

    # --- keys ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "run_command":
            return self.commands.is_possible(str(parameters[0]))
        if action == "post_mortem" and (self.run is None or self.deleted or self.run.state not in RESUMED):
            return False
        if action in ("log", "pager") and self.is_mounted and self.pane != "log":
            return False
        return super().check_action(action, parameters)

    def action_run_command(self, name: str) -> None:
        self.commands.start(name)

    @work(group="post-mortem")
    async def action_post_mortem(self) -> None:
        """Show the error, the end of the log, and what is known about such failures."""
        found = await self.ask(lambda workbench: post_mortem(workbench, self.run_id))
        if found is not None:
            text = "\n".join(safe(line) for line in found.to_text().split("\n"))
            await self.app.push_screen(Details("What went wrong", text))

    def action_open_folder(self) -> None:
        """Open the folder in the user's editor; without one, copy its path."""
        if self.run is None:
            return
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if editor:
            self.run_outside(shlex.split(editor), Path(self.run.folder))
        else:
            self.commands.start("copy_path")
            self.notify("Set EDITOR to open it from here.", timeout=5)

    def state(self) -> dict[str, Any]:
        return {"pane": self.pane, "curves": self.curves.view_state()}

    def restore(self, state: dict[str, Any]) -> None:
        if state.get("pane") in PANES:
            self.action_pane(state["pane"])
        if isinstance(state.get("curves"), dict):
            self.curves.restore_view(state["curves"])
