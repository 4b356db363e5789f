"""How numbers and times are written for people. It knows no runs and no console."""

from __future__ import annotations

import math
import time

from hetspec_core.quantities import format_duration


def format_number(value: float | None) -> str:
    """Four significant digits, whole numbers whole, thousands apart; an absent value is a dash."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_age(then: float) -> str:
    """Time since `then` (unix seconds) in its largest unit: 42s, 3m, 2h, 4d."""
    return format_duration(time.time() - then).split(" ")[0]


def format_time(then: float | None) -> str:
    """Local date and time; a dash when absent."""
    return "-" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))
