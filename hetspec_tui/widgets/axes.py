"""Round numbers along an axis, and how they are written. It knows numbers only."""

from __future__ import annotations

import itertools
import math

from hetspec_tui.formatting import duration, number

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_TIMES_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def round_step(span: float, most: int) -> float:
    """The smallest step of 1, 2 or 5 times a power of ten that cuts `span` into at most `most` pieces."""
    rough = span / max(most, 1)
    if not rough > 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** max(-307, math.floor(math.log10(rough)))
    for factor in (1, 2, 5, 10):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10 * power


def ticks(low: float, high: float, most: int, *, time: bool = False) -> list[float]:
    """At most about `most` round values from `low` to `high`, in order.

    Args:
        low: least value.
        high: greatest.
        most: how many there is room for.
        time: the values are seconds: take steps that are round in minutes, hours or days.
    """
    if most < 1 or not high > low:
        return []
    span = high - low
    step = round_step(span, most)
    if time and step > 1:
        step = next((float(one) for one in _TIMES_S if span / one <= most), 86400.0 * round_step(span / 86400, most))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    if not 0 <= last - first + 1 <= 2 * most + 3:
        return []
    found = [place * step for place in range(first, last + 1)]
    if len(found) < 2 <= most and not time:  # one number alone gives no scale: rather one more than there is room for
        finer = round_step(span, most + 1) if round_step(span, most + 1) < step else step / 2
        places = range(math.ceil(low / finer - 1e-9), math.floor(high / finer + 1e-9) + 1)
        return [place * finer for place in places] if 2 <= len(places) <= most + 1 else found
    return found


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values between 10**low and 10**high: powers of ten, with multiples of them when there is room.

    Args:
        low: exponent of the least value.
        high: exponent of the greatest.
        most: how many there is room for.
    """
    if most < 1 or not high > low:
        return []
    first, last = math.floor(low), math.ceil(high)
    if not -308 <= first <= last <= 308:
        first, last = max(first, -308), min(last, 308)
    for factors in (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            factor * 10.0**power
            for power in range(first, last + 1)
            for factor in factors
            if low - 1e-9 <= power + math.log10(factor) <= high + 1e-9
        ]
        if 2 <= len(found) <= most:
            return found
    if last - first > most:
        stride = math.ceil((last - first) / most)
        return [10.0**power for power in range(first, last + 1, stride) if low <= power <= high]
    return [value for value in ticks(10.0**low, 10.0**high, most) if value > 0]


def labels(values: list[float], *, time: bool = False) -> list[str]:
    """How ticks are written: with as many decimals as tell them apart, and one suffix for all."""
    if not values:
        return []
    if time:
        return [duration(value) if value >= 0 else f"-{duration(-value)}" for value in values]
    step = min((after - before for before, after in itertools.pairwise(values)), default=abs(values[0]) or 1.0)
    greatest = max(abs(value) for value in values)
    scale, suffix = next(((scale, suffix) for scale, suffix in _SUFFIXES if greatest >= 10 * scale), (1.0, ""))
    if greatest >= 1e16 or (0 < greatest < 1e-3) or step <= 0:
        return [number(value, 3) for value in values]
    decimals = max(0, math.ceil(-math.log10(step / scale) - 1e-9))
    if decimals > 6:
        return [number(value, 6) for value in values]
    return [f"{value / scale:,.{decimals}f}{suffix if value else ''}" for value in values]


def widen(low: float, high: float, share: float) -> tuple[float, float]:
    """Bounds with some air; bounds that are the same are moved apart."""
    if not high > low:
        pad = abs(low) * 0.05 or 1.0
        return low - pad, high + pad
    pad = (high - low) * share
    if not high + pad > low - pad:
        pad = abs(low) * 0.05 or 1.0
    return low - pad, high + pad
