"""How things are said in one or two words: numbers, times, sizes, states. Plain strings; it knows no widgets.

Whatever comes from outside (logs, names, tokens) goes through `safe` before it is drawn.
"""

from __future__ import annotations

import math
import unicodedata

from hetspec_core.quantities import format_bytes as size
from hetspec_core.quantities import format_duration as duration

__all__ = ["STATE_COLOURS", "STATE_SIGNS", "ago", "count", "duration", "number", "safe", "size"]

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
