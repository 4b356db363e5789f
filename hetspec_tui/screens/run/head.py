"""The two lines above everything of a run: what it is, how it is, how far it is, how long it still takes."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from hetspec_core.events import AT_WORK
from hetspec_tui.formatting import STATE_COLOURS, STATE_SIGNS, count, duration, number, safe

if TYPE_CHECKING:
    from hetspec_core.service.report import RunSummary

_SAMPLES_S = 60.0
MUTED = "$foreground-muted"


class RunHead(Static):
    """State, name, stage; progress, elapsed time, time left, key figures; of a failed run its error."""

    DEFAULT_CSS = """
    RunHead { height: 2; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    RunHead.-failed { background: $error 20%; }
    """

    def __init__(self) -> None:
        super().__init__(id="run-head", markup=False)
        self._samples: deque[tuple[float, float]] = deque()
        self._run: RunSummary | None = None
        self._gone = False

    def show(self, run: RunSummary) -> None:
        """Show the run as it is now."""
        now = time.monotonic()
        if self._run is None or run.task != self._run.task or (run.done or 0) < (self._run.done or 0):
            self._samples.clear()
        if run.done is not None and (not self._samples or self._samples[-1][1] != run.done):
            self._samples.append((now, run.done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _SAMPLES_S:
            self._samples.popleft()
        self._run = run
        self.draw()

    def show_gone(self) -> None:
        """The run is not there any more."""
        self._gone = True
        self.draw()

    def draw(self) -> None:
        """Draw it again, with the present time."""
        if self._run is not None:
            self.set_class(self._run.state in ("failed", "lost", "unreadable") or self._gone, "-failed")
            self.update(head(self._run, self.size.width - 2, self.time_left(), gone=self._gone))

    def on_resize(self) -> None:
        self.draw()

    def time_left(self) -> float | None:
        """Seconds to the end of the present task, by the speed of the last minute; None = cannot be told."""
        run = self._run
        if run is None or run.state not in AT_WORK or not run.total or run.done is None or len(self._samples) < 2:
            return None
        (first_time, first), (last_time, last) = self._samples[0], self._samples[-1]
        if last <= first or last_time <= first_time or last >= run.total:
            return None
        return (run.total - last) * (last_time - first_time) / (last - first)


def runtime_s(run: RunSummary) -> float | None:
    """Seconds since the first start, to the end if it has ended."""
    if run.started is None:
        return None
    return max(0.0, (run.ended or time.time()) - run.started)


def head(run: RunSummary, width: int, left_s: float | None, *, gone: bool = False) -> Content:
    """The two lines."""
    state = "deleted" if gone else run.state
    sign, colour = STATE_SIGNS.get(state, "✖"), STATE_COLOURS.get(state, "$error")
    parts = [
        Content.styled(f"{sign} {state}", f"bold {colour}"),
        Content.styled(safe(run.name) or run.run_id, "bold"),
        Content(run.stage),
    ]
    if run.name:
        parts.append(Content.styled(run.run_id, MUTED))
    if run.starred:
        parts.append(Content.styled("★", "$warning"))
    parts += [Content.styled(f"#{safe(tag)}", "$accent") for tag in run.tags]
    first = Content("  ").join(parts)
    return Content("\n").join([first, _second(run, width, left_s, gone)])


def _second(run: RunSummary, width: int, left_s: float | None, gone: bool) -> Content:
    if gone:
        return Content.styled("Its folder is not there any more: it was deleted or moved. esc goes back.", "$error")
    if run.error and run.state == "unreadable":
        return Content.styled(f"It cannot be read: {safe(run.error['message'])}", "$error")
    if run.error and run.state == "failed":
        text = safe(run.error["message"].split("\n")[0])
        return Content.styled(f"{text}  ", "$error") + Content.styled("e: what went wrong", "bold")
    if run.state == "lost":
        return Content.styled("its worker exited without an end event  ", "$error") + Content.styled(
            "e: what went wrong", "bold"
        )
    parts: list[Content] = []
    if run.progress is not None:
        cells = max(6, min(24, width // 5))
        filled = round(run.progress * cells)
        bar = Content.styled("━" * filled, STATE_COLOURS[run.state]) + Content.styled("─" * (cells - filled), MUTED)
        parts.append(bar + Content(f" {run.progress:.0%}"))
    if run.done is None and run.task and run.state in AT_WORK:
        parts.append(Content(safe(run.task)))
    if run.done is not None:
        total = f"/{count(run.total)}" if run.total else ""
        parts.append(Content(f"{safe(run.task)} {count(run.done)}{total} {safe(run.unit)}".strip()))
    if run.waits:
        parts.append(Content(safe(run.waits)))
    parts.append(Content.styled("not begun", MUTED) if run.started is None else Content(duration(runtime_s(run))))
    if left_s is not None:
        parts.append(Content.styled(f"{duration(left_s)} left", "bold"))
    if run.accept_length is not None:
        parts.append(Content(f"accept length {number(run.accept_length, 3)}"))
    if run.speedup is not None:
        parts.append(Content(f"speedup {number(run.speedup, 3)}"))
    if run.note:
        parts.append(Content.styled(safe(run.note), f"italic {MUTED}"))
    return Content("  ").join(parts)
