"""Small drawings in one line of text: a bar for a share, a sparkline for a curve. Plain strings, no colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
GAP = " "


def bar(share: float | None, width: int) -> tuple[str, str]:
    """A bar of `width` cells as its full and its empty part; `share` from 0 to 1, None = unknown."""
    if width <= 0:
        return "", ""
    if share is None or not math.isfinite(share):
        return "", "╌" * width
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    full = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return full, "─" * (width - len(full))


def meter(share: float | None, width: int) -> tuple[str, str]:
    """As `bar`, of solid cells: for what goes up and down."""
    if width <= 0:
        return "", ""
    if share is None or not math.isfinite(share):
        return "", "·" * width
    full = round(min(max(share, 0.0), 1.0) * width)
    return "■" * full, "·" * (width - full)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A curve in `width` cells at most, each the mean of its stretch; what is not finite is a gap.

    A constant curve is drawn in the middle. Values may be of any size.
    """
    return area(values, width, 1)[0]


def area(values: Sequence[float | None], width: int, height: int) -> list[str]:
    """As `sparkline`, in `height` lines, the upper one first; few values are drawn wide."""
    levels = _levels(values, width, len(BLOCKS) * height - 1)
    if height > 1 and levels and len(levels) < width:
        levels = [levels[cell * len(levels) // width] for cell in range(width)]
    lines = []
    for floor in range(len(BLOCKS) * (height - 1), -1, -len(BLOCKS)):
        cells = [GAP if level is None or level < floor else BLOCKS[min(level - floor, 7)] for level in levels]
        lines.append("".join(cells))
    return lines


def _levels(values: Sequence[float | None], width: int, top: int) -> list[int | None]:
    """The curve as heights from 0 to `top`, one for each cell; None = a gap."""
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
    span = high / 2 - low / 2  # halves, so that the widest span of floats is still one
    if span == 0:
        return [None if mean is None else top // 2 for mean in means]
    return [None if mean is None else round((mean / 2 - low / 2) / span * top) for mean in means]
