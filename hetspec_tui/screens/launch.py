"""The Launch page: choose what to run in a form, see what it costs and the command that does the same, and start it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from hetspec_core.service.launch import LaunchRequest, Review, What, review, start
from hetspec_tui.dialogs import Choose, ChooseMany, Confirm
from hetspec_tui.formatting import safe
from hetspec_tui.launching import (
    PARTS,
    SEVERAL,
    WHATS,
    changed,
    cost_text,
    fields_of,
    items_for,
    reset,
    rows_of,
)
from hetspec_tui.page import Page
from hetspec_tui.pages import OpenPage, OpenRun, RunsTouched
from hetspec_tui.widgets.form import FieldForm

FIRST_RECIPE = "quick-demo"
DEBOUNCE_S = 0.15


class CostCard(VerticalScroll, can_focus=False):
    """What a launch costs. A low card has one line per stage, a high one every figure."""

    DEFAULT_CSS = """
    CostCard {
        height: auto;
        padding: 0 1;
        scrollbar-size-vertical: 1;

        Static { height: auto; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._seen: Review | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="cost-text", markup=False)

    def show(self, seen: Review) -> None:
        self._seen = seen
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    @property
    def content(self) -> Content:
        if self._seen is None:
            return Content.styled("looking ...", "$foreground-muted")
        return cost_text(self._seen, roomy=self.size.height >= 12)

    def _draw(self) -> None:
        if self.is_mounted:
            self.query_one("#cost-text", Static).update(self.content)


class LaunchScreen(Page):
    """A form; beside it, or below where there is little room, its cost; at the bottom the command."""

    CRUMB = "Launch"
    CSS_PATH = "launch.tcss"
    CHANGES = frozenset({"start"})
    VERTICAL_BREAKPOINTS = [(0, "-low"), (20, "-short"), (30, "-tall"), (50, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "start", "Start", id="launch.start"),
        Binding("y", "copy", "Copy command", id="launch.copy"),
        Binding("w", "pick('what')", "What", show=False, id="launch.what"),
        Binding("r", "pick('recipe')", "Recipe", id="launch.recipe"),
        Binding("b", "pick('base')", "Base", id="launch.base"),
        Binding("d", "pick('draft')", "Draft", id="launch.draft"),
        Binding("a", "pick('algorithm')", "Algorithm", show=False, id="launch.algorithm"),
        Binding("g", "pick('gpus')", "GPUs", show=False, id="launch.gpus"),
        Binding("u", "reset_all", "Reset all", show=False, id="launch.reset-all"),
        Binding("p", "preset", "Show preset", show=False, id="launch.preset"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.choice = LaunchRequest(FIRST_RECIPE)
        self.seen: Review | None = None
        self._timer: Timer | None = None

    def compose_page(self) -> ComposeResult:
        with Horizontal(id="launch"):
            yield FieldForm(self._check, id="form")
            yield CostCard(id="cost")
        yield Static(id="command", markup=False)

    def on_mount(self) -> None:
        self.query_one("#form").border_title = "what to run"
        self.query_one("#cost").border_title = "what it takes"
        self.query_one("#command").border_title = "the same from a shell"
        self._draw()
        self.query_one(FieldForm).list.focus()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._look()  # GPUs, disk and datasets may have changed

    def runs_touched(self, run_ids: tuple[str, ...]) -> None:
        if self.is_current:
            self._look()

    # --- what it is told, and what it keeps ---------------------------------------------------------------------------

    def receive(self, about: dict[str, Any]) -> None:
        choice = LaunchRequest(str(about["recipe"])) if "recipe" in about else self.choice
        parts = {part: str(about[part]) for part in PARTS if part in about}
        choice = replace(choice, parts={**choice.parts, **parts})
        if about.get("what") in WHATS:
            choice = replace(choice, what=cast(What, about["what"]))
        if "datasets" in about:
            choice = replace(choice, what="train", datasets=tuple(map(str, about["datasets"])))
        if "trained" in about:
            choice = replace(choice, what="bench", draft=str(about["trained"]))
        self._choose(choice)

    def state(self) -> dict[str, Any]:
        choice = self.choice
        return {
            "recipe": choice.recipe,
            "what": choice.what,
            "parts": dict(choice.parts),
            "values": dict(choice.values),
            "name": choice.name,
        }

    def restore(self, state: dict[str, Any]) -> None:
        texts = {
            name: {str(key): str(value) for key, value in kept.items()}
            for name in ("parts", "values")
            if isinstance(kept := state.get(name), dict)
        }
        what = state.get("what")
        self._choose(
            LaunchRequest(
                str(state.get("recipe") or FIRST_RECIPE),
                cast(What, what if what in WHATS else "pipeline"),
                parts={part: name for part, name in texts.get("parts", {}).items() if part in PARTS},
                values=texts.get("values", {}),
                name=str(state.get("name") or ""),
            )
        )

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _choose(self, choice: LaunchRequest) -> None:
        self.choice = choice
        if self.is_mounted:
            self._draw()
            if self._timer is not None:
                self._timer.stop()
            self._timer = self.set_timer(DEBOUNCE_S, self._look)

    @work(exclusive=True, group="review")
    async def _look(self) -> None:
        choice = self.choice
        seen = await self.ask(lambda workbench: review(workbench, choice))
        if seen is not None and choice == self.choice:
            self.seen = seen
            self._draw()

    def _check(self, key: str, text: str) -> str:
        field = fields_of(self.choice, self.seen).get(key)
        return field.read(text)[1] if field is not None else ""

    @on(FieldForm.Changed)
    def _changed(self, message: FieldForm.Changed) -> None:
        self._choose(changed(self.choice, self.seen, message.key, message.text))

    @on(FieldForm.Reset)
    def _reset(self, message: FieldForm.Reset) -> None:
        self._choose(reset(self.choice, message.key))

    @on(FieldForm.Picked)
    def _picked(self, message: FieldForm.Picked) -> None:
        self.action_pick(message.key)

    @work(exclusive=True, group="pick")
    async def action_pick(self, key: str) -> None:
        choice, seen = self.choice, self.seen
        row = next((row for row in rows_of(choice, seen) if row.key == key), None)
        if row is None:
            return
        items = await self.ask(lambda workbench: items_for(workbench, choice, seen, key))
        if items is None:
            return
        if not items:
            why = "no GPU answers here, the run uses the processor" if key == "gpus" else "there are none yet"
            self.notify(f"{row.title}: {why}.", severity="warning", markup=False)
            return
        chosen, keys = row.text.split(), [item.key for item in items]
        if key in SEVERAL:
            several = await self.app.push_screen_wait(ChooseMany(row.title, items, chosen, help=row.help))
            unlisted = [name for name in chosen if name not in keys]
            answer = None if several is None else " ".join([*unlisted, *sorted(several, key=keys.index)])
        else:
            current = chosen[0] if chosen else None
            answer = await self.app.push_screen_wait(Choose(row.title, items, current, help=row.help))
        if answer is not None:
            self._choose(changed(self.choice, self.seen, key, answer))

    def action_reset_all(self) -> None:
        self._choose(LaunchRequest(self.choice.recipe, self.choice.what))

    def action_preset(self) -> None:
        self.post_message(OpenPage("presets", {"kind": "recipe", "name": self.choice.recipe}))

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.choice.command)
        self.notify(self.choice.command, title="Copied", timeout=3, markup=False)

    @work(exclusive=True, group="start")
    async def action_start(self) -> None:
        """Look once more, and start what was chosen."""
        choice = self.choice
        seen = await self.ask(lambda workbench: review(workbench, choice))
        if seen is None:
            return
        self.seen = seen
        self._draw()
        if seen.faults:
            self._show_fault(seen)
            return
        if seen.refusals:
            question = f"Start {choice.what} of {choice.recipe} although it does not fit?"
            if not await self.app.push_screen_wait(Confirm(question, "\n".join(seen.refusals), yes="Start")):
                return
        made = await self.change(lambda workbench: list(start(workbench, choice)))
        if made is None:
            return
        self.post_message(RunsTouched(tuple(made)))
        if len(made) > 1:
            self.notify(
                f"{len(made)} runs: each starts when the one before has succeeded.", title="Pipeline started", timeout=5
            )
        self.post_message(OpenRun(made[0]))

    def _show_fault(self, seen: Review) -> None:
        form = self.query_one(FieldForm)
        row = form.first_fault()
        if row is not None:
            form.go_to(row.key)
        self.notify("\n".join(map(str, seen.faults[:4])), title="Cannot start yet", severity="error", markup=False)

    def _draw(self) -> None:
        self.query_one(FieldForm).show(rows_of(self.choice, self.seen))
        self.query_one("#command", Static).update(
            Content.assemble(("$ ", "$foreground-muted"), (safe(self.choice.command), "$text-accent"))
        )
        if self.seen is not None:
            self.query_one(CostCard).show(self.seen)
