"""The meters of a chat: accept length, acceptance by depth, speed against plain decoding, where the time goes.

It draws figures; it makes none.
"""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from hetspec_core.service.chat.meters import Figures
from hetspec_tui.formatting import bar, number

_WIDE = 60
Piece = tuple[str, str]
Line = list[Piece]
_LABEL = "dim"


class Meters(Widget):
    """Figures in as many lines as there is room for."""

    DEFAULT_CSS = """
    Meters { height: auto; padding: 0 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._figures: Figures | None = None

    def show(self, figures: Figures) -> None:
        """Show other figures."""
        if figures != self._figures:
            self._figures = figures
            self.refresh()

    @property
    def figures(self) -> Figures | None:
        """What is shown."""
        return self._figures

    def render(self) -> Content:
        if self._figures is None:
            return Content("")
        lines = meter_lines(self._figures, self.size.width, self.size.height)
        return Content("\n").join(Content.assemble(*line) for line in lines)


def meter_lines(figures: Figures, width: int, height: int) -> list[Line]:
    """The figures in at most `height` lines of `width` cells, the most telling ones first."""
    if height <= 2:
        return [_brief(figures)][:height]
    lines = [_accept(figures, width), _speed(figures, width)]
    if height >= 4:
        lines.append(_time(figures, width))
    if height >= 5:
        lines.append(_memory(figures))
    rest = height - len(lines)
    if rest >= 3:
        lines += _tables(figures, width, rest)
    return lines


def _brief(figures: Figures) -> Line:
    line: Line = [("accept ", _LABEL), (_two(figures.accept_length), "bold $text-success")]
    line += [(" pooled ", _LABEL), (_two(figures.pooled_accept_length), "")]
    line += [("  ", ""), (_one(figures.tokens_per_s), "bold"), (" tok/s", _LABEL)]
    if figures.speedup is not None:
        line.append((f" {figures.speedup:.2f}x", "bold $text-accent"))
    line += [("  kv ", _LABEL), (f"{figures.kv_tokens:,}/{figures.context_tokens:,}", "")]
    return line


def _accept(figures: Figures, width: int) -> Line:
    step = "-" if figures.step_committed is None else f"{figures.step_committed}"
    line: Line = [("accept   ", _LABEL), (f"{_two(figures.accept_length):<6}", "bold $text-success")]
    line += [("this step ", _LABEL), (f"{step:<4}", ""), ("pooled ", _LABEL), (_two(figures.pooled_accept_length), "")]
    if width >= _WIDE:
        line.append((f" over {figures.pooled_steps:,} steps", _LABEL))
    return line


def _speed(figures: Figures, width: int) -> Line:
    line: Line = [("tok/s    ", _LABEL), (f"{_one(figures.tokens_per_s):<6}", "bold")]
    if figures.plain_tokens_per_s is None:
        line.append(("plain unknown: b measures it" if width >= 45 else "plain ? (b)", _LABEL))
        return line
    line += [("plain ", _LABEL), (f"{_one(figures.plain_tokens_per_s)}", "")]
    if figures.speedup is not None:
        line.append((f"  {figures.speedup:.2f}x", "bold $text-accent"))
    if width >= _WIDE:
        line.append((f"  (plain by {figures.plain_source})", _LABEL))
    return line


def _time(figures: Figures, width: int) -> Line:
    line: Line = [("time     ", _LABEL)]
    if figures.split is None:
        return [*line, ("-", _LABEL)]
    names = (("propose", "$warning"), ("verify", "$primary"), ("other", "dim"))
    room = max(4, width - 9 - 40)
    cells = _cells(figures.split.shares, room)
    line += [(sign * size, colour) for sign, size, (_, colour) in zip("█▓░", cells, names)]
    for sign, share, (name, colour) in zip("█▓░", figures.split.shares, names):
        line += [(f" {sign} ", colour), (f"{name} {share:.0%}", "")]
    return line


def _cells(shares: tuple[float, float, float], room: int) -> list[int]:
    """Cells of a bar, whose sum is `room`."""
    cells = [round(share * room) for share in shares]
    cells[cells.index(max(cells))] += room - sum(cells) if sum(cells) else 0
    return cells


def _memory(figures: Figures) -> Line:
    if not figures.context_tokens:
        return [("kv cache ", _LABEL), ("-", _LABEL)]
    share = figures.kv_tokens / figures.context_tokens
    full, rest = bar(share, 12)
    return [
        ("kv cache ", _LABEL),
        (full, "$primary"),
        (rest, "dim"),
        (f" {figures.kv_tokens:,} of {figures.context_tokens:,} tokens", ""),
        (f"  answer {figures.tokens:,}", _LABEL),
    ]


def _tables(figures: Figures, width: int, height: int) -> list[Line]:
    """Acceptance by depth at the left, tokens a step at the right."""
    left = max(20, width // 2 - 2)
    depths: list[Line] = [[(f"{'accepted by depth':<{left}}", _LABEL)]]
    for row in figures.by_depth[: height - 1]:
        rate = row.acceptance_rate
        full, rest = bar(rate, left - 13)
        text = f"{row.depth:>2} "
        depths.append([(text, _LABEL), (full, "$success"), (rest, "dim"), (f"{_share(rate):>5}     "[:left], "")])
    counts = figures.histogram
    steps = sum(counts.values())
    columns: list[Line] = [[("steps by tokens", _LABEL)]]
    for tokens in sorted(counts)[: height - 1]:
        share = counts[tokens] / steps
        full, rest = bar(share, max(4, width - left - 14))
        columns.append([(f"{tokens:>2} ", _LABEL), (full, "$accent"), (rest, "dim"), (f" {counts[tokens]}", "")])
    lines: list[Line] = []
    for at in range(min(height, max(len(depths), len(columns)))):
        here = depths[at] if at < len(depths) else []
        used = sum(len(text) for text, _ in here)
        lines.append([*here, (" " * max(2, left + 2 - used), ""), *(columns[at] if at < len(columns) else [])])
    return lines


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _one(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1000 else number(value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
