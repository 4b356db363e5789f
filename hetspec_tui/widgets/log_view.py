"""A log with a filter and a status line. It follows the end of the log until the user scrolls up."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from hetspec_tui.widgets.log_lines import LineFilter, LogLines, PatternError

Search = Callable[[str], "re.Match[str] | None"]
LOOK_S = 0.1
_QUIET_LOOKS = 20  # looks without news, after which the view looks less often
_SPARE = 64  # lines fetched beyond those in view


class LineState(Protocol):
    """What is known of the lines of a source; see `service.logs.LogState`."""

    @property
    def generation(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def closed(self) -> int: ...
    @property
    def complete(self) -> bool: ...


class LineSource(Protocol):
    """Numbered lines that may grow. Lines hold no control characters but SGR escapes."""

    async def look(self) -> LineState:
        """What is known now; the view asks repeatedly."""
        ...

    async def lines(self, numbers: Sequence[int]) -> list[str]: ...

    async def tail(self, most: int) -> list[str]:
        """The last lines; available before all earlier lines are known."""
        ...

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        """Numbers of the closed lines from `start` on that match (inverse: do not match), and where to continue."""
        ...


@dataclass(frozen=True)
class Known:
    """A plain `LineState`."""

    generation: int = 0
    count: int = 0
    closed: int = 0
    complete: bool = True


class ListSource:
    """Lines in memory; they only grow, unless `clear` is called."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._lines = list(lines)
        self._generation = 0

    def extend(self, lines: Sequence[str]) -> None:
        self._lines.extend(lines)

    def clear(self) -> None:
        self._lines.clear()
        self._generation += 1

    async def look(self) -> LineState:
        return Known(self._generation, len(self._lines), len(self._lines))

    async def lines(self, numbers: Sequence[int]) -> list[str]:
        return [self._lines[number] for number in numbers if number < len(self._lines)]

    async def tail(self, most: int) -> list[str]:
        return self._lines[-most:] if most > 0 else []

    async def find(self, search: Search, start: int, inverse: bool) -> tuple[Sequence[int], int]:
        stop = min(len(self._lines), start + 4096)
        return [n for n in range(start, stop) if (search(self._lines[n]) is None) == inverse], stop


class LogView(Vertical):
    """A log view; `set_source` sets what it shows.

    Args:
        empty: text shown while there are no lines.
        follow: begin at the end and stay there; otherwise begin at the first line.
    """

    ALLOW_MAXIMIZE = True
    DEFAULT_CSS = """
    LogView {
        width: 1fr;
        height: 1fr;

        & > .log-status { height: 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
        & > .log-status.-paused { color: $text-warning; }
        & > Input { height: 1; border: none; padding: 0; display: none; background: $surface; }
        & > Input:focus { border: none; height: 1; }
        & > Input.-wrong { color: $text-error; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "slash", "filter", "Filter", id="log.filter", key_display="/", tooltip="Regular expression; !x = not x"
        ),
        Binding("n", "match(1)", "Next match", id="log.next", show=False),
        Binding("N", "match(-1)", "Match before", id="log.previous", show=False),
        Binding("m", "matches_only", "Matches only", id="log.matches-only", show=False),
        Binding("w", "wrap", "Wrap", id="log.wrap"),
        Binding("c", "copy", "Copy", id="log.copy", tooltip="Copy the lines on the screen"),
        Binding("escape", "no_filter", "No filter", id="log.no-filter", show=False),
    ]

    def __init__(
        self, *, empty: str = "no lines yet", follow: bool = True, id: str | None = None, classes: str | None = None
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.empty = empty
        self.follow = follow
        self.source: LineSource = ListSource()
        self.filter: LineFilter | None = None
        self.only_matches = True
        self.matches: array[int] = array("Q")
        self._before: LineFilter | None = None
        self._searched = 0
        self._state: LineState = Known()
        self._paused_at = 0
        self._looking = False
        self._wrong = ""
        self._quiet = 0

    def compose(self) -> ComposeResult:
        yield LogLines(id="lines")
        yield Input(
            placeholder="regular expression; !x shows the lines without x", classes="log-filter", select_on_focus=False
        )
        yield Static(classes="log-status", markup=False)

    def on_mount(self) -> None:
        self.lines.following = self.follow
        self.set_interval(LOOK_S, self._beat)
        self.call_after_refresh(self._update_status)

    @property
    def lines(self) -> LogLines:
        return self.query_one(LogLines)

    def set_source(self, source: LineSource, *, empty: str | None = None) -> None:
        self.source = source
        self.empty = self.empty if empty is None else empty
        self._state = Known(generation=-1)
        self._restart_filter()
        if self.is_mounted:
            self.lines.following = self.follow
            self.lines.forget()
            self._tick()

    # --- what is new --------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Look at every beat while lines arrive, and at every fourth after a quiet time."""
        self._quiet += 1
        if self._quiet < _QUIET_LOOKS or self._quiet % 4 == 0:
            self._tick()

    def _tick(self) -> None:
        if not self._looking and self.is_on_screen:
            self._looking = True
            self.run_worker(self._look(), group="look", exit_on_error=False)

    async def _look(self) -> None:
        try:
            source = self.source
            while source is self.source and self.is_mounted:
                state = await source.look()
                if source is not self.source:
                    return
                await self._take(source, state)
                if state.complete and (self.filter is None or self._searched >= state.closed):
                    return
        except OSError as error:
            self._set_status(f"cannot be read: {error.strerror or error}")
        finally:
            self._looking = False

    async def _take(self, source: LineSource, state: LineState) -> None:
        lines = self.lines
        known = self._state
        if state.generation != known.generation:
            self._restart_filter()
            lines.forget()
        matches = len(self.matches)
        if self.filter is not None and self._searched < state.closed:
            await self._search(source)
        changed = (state.generation, state.count, state.closed) != (known.generation, known.count, known.closed)
        self._state = state
        if changed:
            self._quiet = 0
        if not changed and state.count == state.closed and len(self.matches) == matches:
            return
        numbers = self._shown()
        fresh: dict[int, str] = {}
        if lines.following:
            rows = state.count if numbers is None else len(numbers)
            height = max(1, lines.size.height)
            wanted = [n if numbers is None else numbers[n] for n in range(max(0, rows - height), rows)]
            if not state.complete and numbers is None:  # show the end before all earlier lines are known
                texts = await source.tail(height)
                fresh = dict(zip(wanted[::-1], texts[::-1]))
            else:
                fresh = dict(zip(wanted, await source.lines(wanted)))
        if source is self.source:
            # Until all lines are known, the last lines have wrong numbers.
            closed = min(state.closed, known.closed) if state.complete and known.complete else 0
            lines.show(state.count, fresh, numbers=numbers, closed=closed)
            self._update_status()

    def _shown(self) -> Sequence[int] | None:
        return self.matches if self.filter is not None and self.only_matches else None

    @on(LogLines.Wanted)
    def _fetch(self, message: LogLines.Wanted) -> None:
        message.stop()
        first, last = message.numbers[0], message.numbers[-1]
        numbers = message.numbers
        if self._shown() is None:
            numbers = list(range(max(0, first - _SPARE), min(self._state.count, last + 1 + _SPARE)))
        self.run_worker(self._bring(self.source, numbers), group="fetch", exit_on_error=False)

    async def _bring(self, source: LineSource, numbers: list[int]) -> None:
        try:
            texts = await source.lines(numbers)
        except OSError as error:
            self._set_status(f"cannot be read: {error.strerror or error}")
            return
        if source is self.source and self.is_mounted:
            self.lines.supply(dict(zip(numbers, texts)))

    # --- filter -------------------------------------------------------------------------------------------------------

    def _restart_filter(self) -> None:
        self.matches = array("Q")
        self._searched = 0

    async def _search(self, source: LineSource) -> None:
        wanted = self.filter
        if wanted is None:
            return
        numbers, searched = await source.find(wanted.pattern.search, self._searched, wanted.inverse)
        if wanted is self.filter and source is self.source:
            self.matches.extend(numbers)
            self._searched = searched

    def set_filter(self, wanted: LineFilter | None) -> None:
        """Show the lines that pass a filter; None = all lines."""
        if wanted == self.filter:
            return
        self.filter = wanted
        self._restart_filter()
        lines = self.lines
        lines.pattern = wanted.pattern if wanted is not None and not wanted.inverse else None
        lines.here = None
        lines.following = self.follow
        lines.show(self._state.count, {}, numbers=self._shown())
        lines.redraw()
        self._update_status()
        self._tick()

    def action_filter(self) -> None:
        self._before = self.filter
        entry = self.query_one(Input)
        entry.add_class("-open")
        entry.display = True
        entry.value = self.filter.text if self.filter else ""
        self.screen.set_focus(entry)  # now: the next letters must not reach the keys of the screen

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        entry = self.query_one(Input)
        if not entry.has_class("-open"):
            return
        try:
            wanted = LineFilter.parse(event.value)
        except PatternError as error:
            self._wrong = str(error)
        else:
            self._wrong = ""
            self.set_filter(wanted)
        entry.set_class(bool(self._wrong), "-wrong")
        self._update_status()

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self._close_entry()

    def _close_entry(self) -> None:
        self._wrong = ""
        entry = self.query_one(Input)
        entry.remove_class("-open", "-wrong")
        entry.display = False
        self.screen.set_focus(self.lines)
        self._update_status()

    def action_no_filter(self) -> None:
        """Cancel the typing of a filter; otherwise show all lines again."""
        if self.query_one(Input).has_class("-open"):
            self.set_filter(self._before)
            self._close_entry()
        else:
            self.set_filter(None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "no_filter":
            return self.filter is not None or (self.is_mounted and self.query_one(Input).has_class("-open"))
        if action in ("match", "matches_only"):
            return self.filter is not None
        return super().check_action(action, parameters)

    def action_matches_only(self) -> None:
        """Show the matches only, or among all lines."""
        self.only_matches = not self.only_matches
        lines = self.lines
        number = lines.number(lines.top) if 0 <= lines.top < lines.rows else 0
        lines.show(self._state.count, {}, numbers=self._shown())
        lines.redraw()
        if not lines.following:
            lines.go_to(bisect_left(self.matches, number) if self.only_matches else number)
        self._update_status()

    def action_match(self, direction: int) -> None:
        """Go to the next match (1) or the one before (-1)."""
        lines = self.lines
        if not self.matches:
            self.app.bell()
            return
        here = lines.here
        if here is None:
            here = (lines.number(lines.top) if lines.rows else 0) - (direction > 0)
        index = bisect_right(self.matches, here) if direction > 0 else bisect_left(self.matches, here) - 1
        index %= len(self.matches)  # after the last comes the first
        lines.here = self.matches[index]
        lines.go_to(index if self._shown() is not None else lines.here)
        self._update_status()

    def action_wrap(self) -> None:
        self.lines.wrap = not self.lines.wrap
        self.lines.scroll_to(x=0, animate=False)
        self.lines.redraw()

    def action_copy(self) -> None:
        texts = self.lines.texts_in_view()
        self.app.copy_to_clipboard("\n".join(texts))
        self.notify(f"{len(texts)} lines are on the clipboard.", timeout=2)

    # --- status line --------------------------------------------------------------------------------------------------

    @on(LogLines.Moved)
    def _moved(self, message: LogLines.Moved) -> None:
        message.stop()
        self._update_status()

    def _update_status(self) -> None:
        lines, state = self.lines, self._state
        if lines.following:
            self._paused_at = state.count
        parts = []
        if self._wrong:
            parts.append(f"not a pattern: {self._wrong}")
        if not state.count:
            parts.append(self.empty)
        elif lines.following or not self.follow:
            parts.append(f"{state.count:,} lines" + ("" if state.complete else " so far"))
        else:
            row = min(lines.top, max(0, lines.rows - 1))
            parts.append(f"line {(lines.number(row) if lines.rows else 0) + 1:,}/{state.count:,}")
            new = state.count - self._paused_at
            parts.append(f"+{new:,} new lines, End follows" if new > 0 else "End follows")
        if self.filter is not None:
            searched = "" if self._searched >= state.closed else " so far"
            parts.append(f"filter {self.filter.text}  {len(self.matches):,}/{state.count:,}{searched}")
        self._set_status("  ·  ".join(parts), paused=self.follow and not lines.following)

    def _set_status(self, text: str, *, paused: bool = False) -> None:
        if self.is_mounted:
            status = self.query_one(".log-status", Static)
            status.update(Content(text))
            status.set_class(paused, "-paused")

    def view_state(self) -> dict[str, Any]:
        return {"wrap": self.lines.wrap}

    def restore_view(self, state: dict[str, Any]) -> None:
        if (state.get("wrap") is True) != self.lines.wrap:
            self.action_wrap()
