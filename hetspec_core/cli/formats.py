"""How numbers, times and sizes are written for people. It knows no runs and no console."""

from __future__ import annotations

import math
import time


def format_number(value: float | None) -> str:
    """Four significant digits, whole numbers whole, thousands apart; an absent value is a dash."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_bytes(size: float) -> str:
    """Bytes in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_duration(seconds: float) -> str:
    """The two largest units: 42s, 3m 05s, 2h 10m, 4d 3h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_age(then: float) -> str:
    """Time since `then` (unix seconds) in its largest unit: 42s, 3m, 2h, 4d."""
    return format_duration(time.time() - then).split(" ")[0]


def format_time(then: float | None) -> str:
    """Local date and time; a dash when absent."""
    return "-" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))
