"""The first page: GPUs, runs at work and waiting, what came out last, what needs attention. Without runs,
what to begin with.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Resize
from textual.widgets import Static

from hetspec_tui import pages
from hetspec_tui.overview_cards import (
    DIM,
    concern_card,
    gpu_cards,
    live_card,
    queued_card,
    recent_card,
    title_of,
    totals,
)
from hetspec_tui.page import Page
from hetspec_tui.pages import OpenPage, OpenRun
from hetspec_tui.run_commands import RunCommands, run_bindings
from hetspec_tui.widgets.cards import CardList, CardVisual

if TYPE_CHECKING:
    from hetspec_core.service.gpus import GpuReport
    from hetspec_core.service.overview import Overview
    from hetspec_core.service.report import RunSummary

GPU_LOOK_S = 2.0
AGES_S = 20.0  # "3m ago" grows old although nothing happens

LOGO = """\
    ╭─●─╮
 ●──┤ ● ├──●   HetSpec
    ╰─●─╯      a small draft guesses, the base checks: the same, sooner"""

FIRST_STEPS = (
    ("chat", "5", "Chat now", "with the small model that is here, and see what its draft guesses"),
    ("launch", "D", "Run the quick demo", "dataset, training and bench of a real draft, in a few minutes"),
    ("presets", "3", "Browse presets", "bases, drafts and recipes, ready to use, with sizes and memory"),
    ("launch", "n", "Start something of your own", "pick base, draft and data; see what it costs before it starts"),
)


class DashboardScreen(Page):
    """What this machine does for HetSpec now."""

    CRUMB = "Dashboard"
    CSS_PATH = "dashboard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *run_bindings("dashboard", "cancel", "resume", "archive", hidden=("kill", "copy_id", "copy_path")),
        Binding("n", "step('n')", "New run", id="dashboard.new"),
        Binding("D", "step('D')", "Demo", id="dashboard.demo", show=False),
        Binding("plus,f", "maximize_panel", "Enlarge", id="dashboard.enlarge", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.commands = RunCommands(
            self, lambda: () if self.chosen is None else (self.chosen.run_id,), one=lambda: self.chosen
        )
        self._runs: dict[str, RunSummary] = {}
        self._overview: Overview | None = None
        self._gpus: GpuReport | None = None
        self._wanted = ""

    def compose_page(self) -> ComposeResult:
        yield Static("Looking at the runs...", id="totals", markup=False)
        with Horizontal(id="panels"):
            with Vertical(id="left"):
                yield CardList("GPUs", id="gpus", empty="Looking for GPUs...")
                yield CardList("At work", id="active", empty="Looking at the runs...")
            with Vertical(id="right"):
                yield CardList("Needs attention", id="concerns", empty="Nothing. All is well.")
                yield CardList("Recent results", id="recent", empty="Nothing has ended yet.")
        with Vertical(id="first-steps"):
            yield Static(LOGO, id="logo", markup=False)
            yield CardList("Begin", id="steps")
            yield Static(
                "Everything here is also a command: hetspec-core --help.  ? shows the keys, ctrl+p finds anything.",
                id="first-hint",
                markup=False,
            )

    def on_mount(self) -> None:
        steps = self.query_one("#steps", CardList)
        steps.show([_step_card(*step) for step in self._steps()])
        steps.styles.max_height = steps.lines_wanted + 2
        self.query_one("#active").focus()
        self.feed(lambda workbench: workbench.gpus(), self.show_gpus, period_s=GPU_LOOK_S)
        self.set_interval(AGES_S, self._age)

    def on_screen_resume(self) -> None:
        if self.desk_app.overview is not None:
            self.show_overview(self.desk_app.overview)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def show_overview(self, overview: Overview) -> None:
        self._overview = overview
        now = time.time()
        self.set_class(overview.total == 0, "-first-time")
        runs = [*(live.summary for live in overview.active), *overview.queued, *overview.recent]
        runs += [concern.run for concern in overview.concerns if concern.run is not None]
        self._runs = {run.run_id: run for run in runs}
        active, recent = self.query_one("#active", CardList), self.query_one("#recent", CardList)
        concerns = self.query_one("#concerns", CardList)
        active.empty = "Nothing is at work.\nn starts something, 2 shows all runs."
        active.border_title = _counted("At work", len(overview.active), len(overview.queued))
        room = active.size.height - 2 * len(overview.active) - len(overview.queued)
        chart = min(7, room // max(1, len(overview.active)) - 1)
        chart = chart if chart >= 3 else 0
        active.show(
            [
                *(live_card(live, now, chart_lines=chart) for live in overview.active),
                *(queued_card(run, place + 1, now) for place, run in enumerate(overview.queued)),
            ]
        )
        recent.show([recent_card(run, now) for run in overview.recent if run.state != "failed"])
        concerns.border_title = _counted("Needs attention", len(overview.concerns))
        concerns.show([concern_card(one, place, now) for place, one in enumerate(overview.concerns)])
        self.set_class(not overview.concerns, "-well")
        self._show_totals()
        if self._gpus is not None:
            self.show_gpus(self._gpus)
        if overview.total == 0 and not isinstance(self.focused, CardList | None):
            return
        if (overview.total == 0) != (self.focused is self.query_one("#steps")):
            self.query_one("#steps" if overview.total == 0 else "#active").focus()
        if self._wanted in self._runs:
            for cards in self.query(CardList):
                cards.key = self._wanted
            self._wanted = ""
        self.refresh_bindings()

    def _show_totals(self) -> None:
        if self._overview is None:
            return
        self.query_one("#totals", Static).update(Content.assemble(*totals(self._overview)))

    def show_gpus(self, report: GpuReport) -> None:
        """Show the GPUs; where there are none, why, in one line."""
        self._gpus = report
        cards = self.query_one("#gpus", CardList)
        cards.empty = f"No GPU, the processor is used: {report.reason or 'none is there'}"
        cards.show(gpu_cards(report, {run_id: title_of(run) for run_id, run in self._runs.items()}))
        cards.styles.height = min(cards.lines_wanted, 8) + 2

    def on_resize(self, event: Resize) -> None:
        self.call_after_refresh(self._age)  # how much is drawn of a run depends on the room

    def _age(self) -> None:
        if self._overview is not None and self.is_current:
            self.show_overview(self._overview)

    # --- what is chosen -----------------------------------------------------------------------------------------------

    @property
    def chosen(self) -> RunSummary | None:
        """The run under the cursor of the list that has the focus."""
        if not isinstance(self.focused, CardList):
            return None
        return self._runs.get(self.focused.key.partition(" ")[0])

    @on(CardList.OptionSelected)
    def open_chosen(self, message: CardList.OptionSelected) -> None:
        message.stop()
        key = message.option_id or ""
        if message.option_list.id == "steps":
            self.action_step(key)
        elif (run_id := key.partition(" ")[0]) in self._runs:
            self.post_message(OpenRun(run_id))

    @on(CardList.OptionHighlighted)
    def chosen_moved(self) -> None:
        self.refresh_bindings()

    def on_descendant_focus(self) -> None:
        self.refresh_bindings()

    @on(CardList.Left)
    def leave_list(self, message: CardList.Left) -> None:
        lists = [cards for cards in self.query(CardList) if cards.region.area]
        if message.cards not in lists:  # it has just been hidden, by a smaller terminal or an enlarged list
            return
        place = lists.index(message.cards) + message.by
        if 0 <= place < len(lists):
            lists[place].focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "run_command":
            return self.commands.is_possible(str(parameters[0]))
        if action == "step" and all(parameters[0] != key for _, key, *_ in self._steps()):
            return False
        return super().check_action(action, parameters)

    # --- what can be done ---------------------------------------------------------------------------------------------

    def action_run_command(self, name: str) -> None:
        self.commands.start(name)

    def action_step(self, key: str) -> None:
        about: dict[str, dict[str, Any]] = {"D": {"recipe": "quick-demo", "what": "pipeline"}}
        for page, step, *_ in self._steps():
            if step == key:
                self.post_message(OpenPage(page, about.get(key)))

    def action_maximize_panel(self) -> None:
        if self.maximized is not None:
            self.minimize()
        elif self.focused is not None:
            self.maximize(self.focused)

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        self.desk_app.look_now()

    def _steps(self) -> list[tuple[str, str, str, str]]:
        here = {entry.name for entry in pages.available()}
        return [step for step in FIRST_STEPS if step[0] in here]

    def state(self) -> dict[str, Any]:
        run = self.chosen
        return {"run": run.run_id if run is not None else ""}

    def restore(self, state: dict[str, Any]) -> None:
        self._wanted = str(state.get("run", ""))


def _counted(title: str, *counts: int) -> str:
    shown = " + ".join(str(count) for count in counts if count)
    return f"{title} ({shown})" if shown else title


def _step_card(page: str, key: str, title: str, about: str) -> CardVisual:
    return CardVisual(
        key,
        2,
        lambda width: [[(f" {key} ", "bold $accent"), (f" {title}", "bold")], [("    ", ""), (about, DIM)]],
    )
