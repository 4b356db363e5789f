"""Text for small places: numbers, times, sizes, states, bars and sparklines, as plain strings.

Text from outside (logs, names, tokens) goes through `safe` before it is drawn.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from hetspec_core.quantities import format_bytes as size
from hetspec_core.quantities import format_duration as duration

__all__ = [
    "BLOCKS",
    "STATE_COLOURS",
    "STATE_SIGNS",
    "ago",
    "area",
    "bar",
    "count",
    "duration",
    "meter",
    "number",
    "places",
    "safe",
    "size",
    "sparkline",
]

BLOCKS = "▁▂▃▄▅▆▇█"
"""Heights of a sparkline's cell."""

STATE_SIGNS = {
    "queued": "◌",
    "starting": "◔",
    "running": "▶",
    "succeeded": "✔",
    "failed": "✖",
    "cancelled": "■",
    "lost": "?",
    "unreadable": "!",
}
"""State of a run -> a sign of one cell, so that no state is told by colour alone."""

STATE_COLOURS = {
    "queued": "$foreground-muted",
    "starting": "$accent",
    "running": "$primary",
    "succeeded": "$success",
    "failed": "$error",
    "cancelled": "$warning",
    "lost": "$error",
    "unreadable": "$error",
}
"""State of a run -> theme variable."""


def number(value: float | None, digits: int = 4) -> str:
    """A figure in at most `digits` significant digits: 0.0003, 12.3, 4.56e+09; an absent or odd one as a word."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 10**6:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def places(value: float | None, digits: int) -> str:
    """A figure with so many decimal places; an absent one as -."""
    return "-" if value is None else f"{value:.{digits}f}"


def count(value: float) -> str:
    """A count with a suffix: 950, 1.2k, 34M, 5.6B."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.1f}{suffix}" if abs(scaled) < 10 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}"


def ago(seconds: float) -> str:
    """An age in one unit: now, 12s, 5m, 3h, 2d."""
    if seconds < 1:
        return "now"
    for limit, unit, divisor in ((60, "s", 1), (3600, "m", 60), (86400, "h", 3600)):
        if seconds < limit:
            return f"{int(seconds // divisor)}{unit}"
    return f"{int(seconds // 86400)}d"


def safe(text: str) -> str:
    """Text without anything that could move the cursor or break a line: control and format characters as escapes."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter == " " or not unicodedata.category(letter).startswith(("C", "Zl", "Zp")) else _escape(letter)
        for letter in text
    )


def _escape(letter: str) -> str:
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\0": "\\0"}.get(letter)
    if named is not None:
        return named
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def bar(share: float | None, width: int) -> tuple[str, str]:
    """A bar of `width` cells as its full and its empty part; `share` is from 0 to 1, None = unknown."""
    if width <= 0:
        return "", ""
    if share is None or not math.isfinite(share):
        return "", "╌" * width
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    full = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return full, "─" * (width - len(full))


def meter(share: float | None, width: int) -> tuple[str, str]:
    """Like `bar`, of whole cells: for a share that rises and falls."""
    if width <= 0:
        return "", ""
    if share is None or not math.isfinite(share):
        return "", "·" * width
    full = round(min(max(share, 0.0), 1.0) * width)
    return "■" * full, "·" * (width - full)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A curve in at most `width` cells, each the mean of its values; a value that is not finite is a gap.

    A constant curve is drawn in the middle.
    """
    return area(values, width, 1)[0]


def area(values: Sequence[float | None], width: int, height: int) -> list[str]:
    """Like `sparkline`, in `height` lines, the upper one first; few values are drawn wide."""
    levels = _levels(values, width, len(BLOCKS) * height - 1)
    if height > 1 and levels and len(levels) < width:
        levels = [levels[cell * len(levels) // width] for cell in range(width)]
    lines = []
    for floor in range(len(BLOCKS) * (height - 1), -1, -len(BLOCKS)):
        cells = [" " if level is None or level < floor else BLOCKS[min(level - floor, 7)] for level in levels]
        lines.append("".join(cells))
    return lines


def _levels(values: Sequence[float | None], width: int, top: int) -> list[int | None]:
    """Heights from 0 to `top`, one for each cell; None = a gap."""
    cells = min(width, len(values))
    if cells <= 0:
        return []
    means: list[float | None] = []
    for cell in range(cells):
        stretch = values[cell * len(values) // cells : (cell + 1) * len(values) // cells]
        known = [value for value in stretch if value is not None and math.isfinite(value)]
        means.append(math.fsum(value / len(known) for value in known) if known else None)
    known = [mean for mean in means if mean is not None]
    if not known:
        return [None] * cells
    low, high = min(known), max(known)
    span = high / 2 - low / 2  # halves, so that the widest span of floats is finite
    if span == 0:
        return [None if mean is None else top // 2 for mean in means]
    return [None if mean is None else round((mean / 2 - low / 2) / span * top) for mean in means]
