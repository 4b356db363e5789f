"""Text of sizes and durations, and the temperature below which sampling is greedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LOWEST_TEMPERATURE = 1e-6
"""The lowest temperature of sampling; any lower one, 0 included, takes the most likely token.

Dividing logits by a smaller number overflows float32. SGLang has the same limit (`_SAMPLING_EPS`).
"""


def format_bytes(size: float) -> str:
    """Bytes with a binary unit, as memory is counted: 512 B, 1.5 GiB."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def gigabytes(size: float) -> str:
    """Bytes of a disk or of a machine's memory, in decimal gigabytes: 1,024.5 GB."""
    return f"{size / 1e9:,.1f} GB"


def load_note(facts: Mapping[str, Any]) -> str:
    """`load 12 on 2 cores` when other work shared the processor with a measurement; else empty.

    A measurement uses each core once at most. A load that exceeds the cores by a quarter, and by one at least, is that
    of other work.

    Args:
        facts: of the machine, with `load_average` (the highest of the measurement, over a minute each) and `cores`.
    """
    load, cores = facts.get("load_average"), facts.get("cores")
    if not isinstance(load, int | float) or not isinstance(cores, int) or cores < 1 or not math.isfinite(load):
        return ""
    return f"load {load:.0f} on {cores} core{'s' * (cores > 1)}" if load > cores + max(1.0, cores / 4) else ""


def format_duration(seconds: float | None) -> str:
    """A duration in at most two units: 12s, 3m 20s, 2h 05m, 4d 03h; an unknown one is a dash."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def is_greedy(temperature: float) -> bool:
    """Whether this temperature always takes the most likely token."""
    return temperature < LOWEST_TEMPERATURE
