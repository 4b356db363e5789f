"""A card with the cost of a launch: time, memory and disk of every stage, whether it fits, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from hetspec_tui.formatting import count, duration, safe, size


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage.

    Attributes:
        stage: its name.
        seconds: expected duration; None = unknown.
        device_bytes: peak memory of one device, or of the machine when it runs on a processor; `device` says which.
        free_device_bytes: free memory there; None = unknown.
        disk_bytes, free_disk_bytes: bytes that it writes, and free bytes.
        base, draft: numbers of parameters; None for a stage without a draft.
        about: further figures in words, for example samples and steps.
        refused: whether it does not fit.
    """

    stage: str
    seconds: float | None
    device: str
    device_bytes: int
    free_device_bytes: int | None
    disk_bytes: int
    free_disk_bytes: int
    base: int
    draft: int | None
    about: str = ""
    refused: bool = False


@dataclass(frozen=True)
class LaunchFindings:
    """Faults must be corrected, refusals can be overruled; notes and assumptions are information."""

    faults: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


class CostCard(VerticalScroll):
    """The card. A low one has one line per stage, a high one every figure."""

    can_focus = False
    DEFAULT_CSS = """
    CostCard {
        height: auto;
        padding: 0 1;
        scrollbar-size-vertical: 1;

        Static { height: auto; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, can_focus=False)
        self._costs: tuple[StageCost, ...] = ()
        self._verdict = LaunchFindings()
        self._waiting = True

    def compose(self) -> ComposeResult:
        yield Static(id="cost-text", markup=False)

    def show(self, costs: Sequence[StageCost], verdict: LaunchFindings) -> None:
        """Show these costs and findings."""
        self._costs, self._verdict, self._waiting = tuple(costs), verdict, False
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    @property
    def text(self) -> str:
        """The text of the card without styles."""
        return self._content().plain

    def _draw(self) -> None:
        if self.is_mounted:
            self.query_one("#cost-text", Static).update(self._content())

    def _content(self) -> Content:
        if self._waiting:
            return Content.styled("looking ...", "$foreground-muted")
        roomy = self.size.height >= 12
        lines = [self._summary()]
        for cost in self._costs:
            lines += self._stage(cost, roomy)
        verdict = self._verdict
        if roomy:
            lines.append(Content(""))
        lines += [_line("✖", text, "$text-error") for text in verdict.faults]
        lines += [_line("!", f"does not fit: {text}", "$text-warning") for text in verdict.refusals]
        lines += [_line("·", text, "$foreground-muted") for text in verdict.notes]
        if roomy and self._costs:
            lines += [_line("·", f"assumed: {text}", "$foreground-muted") for text in verdict.assumptions]
        return Content("\n").join(lines)

    def _summary(self) -> Content:
        verdict = self._verdict
        if verdict.faults:
            number = len(verdict.faults)
            text = "1 thing does not hold" if number == 1 else f"{number} things do not hold"
            return Content.assemble(("✖ cannot start: ", "bold $text-error"), (text, "$text-error"))
        known = [cost.seconds for cost in self._costs if cost.seconds is not None]
        time = f"about {duration(sum(known))}" if len(known) == len(self._costs) else "time not known beforehand"
        disk = size(sum(cost.disk_bytes for cost in self._costs))
        whole = f"{time}, {disk} on disk"
        if verdict.refusals:
            return Content.assemble(("! does not fit  ", "bold $text-warning"), whole)
        return Content.assemble(("✔ ready  ", "bold $text-success"), whole)

    def _stage(self, cost: StageCost, roomy: bool) -> list[Content]:
        sign, style = ("✖", "$text-error") if cost.refused else ("▪", "$primary")
        time = "unknown" if cost.seconds is None else duration(cost.seconds)
        head = Content.assemble(
            (f"{sign} ", style),
            (f"{cost.stage:<8}", "bold"),
            f" {time:>7}  {size(cost.device_bytes):>8} {cost.device}  {size(cost.disk_bytes):>8} disk",
        )
        if not roomy:
            return [head]
        free = "unknown" if cost.free_device_bytes is None else size(cost.free_device_bytes)
        models = f"base {count(cost.base)}" + (f", draft {count(cost.draft)}" if cost.draft is not None else "")
        details = [models, cost.about, f"free: {free} {cost.device}, {size(cost.free_disk_bytes)} disk"]
        return [Content(""), head, *(_line(" ", text, "$foreground-muted") for text in details if text)]


def _line(sign: str, text: str, style: str) -> Content:
    return Content.assemble((f"{sign} {safe(text)}", style))
