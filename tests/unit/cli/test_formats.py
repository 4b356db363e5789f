"""Numbers, times and sizes as people read them."""

from __future__ import annotations

import math
import time

import pytest

from hetspec_core.cli.formats import format_age, format_bytes, format_duration, format_number, format_time


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (2.0, "2"),
        (2.34567, "2.346"),
        (1234567, "1,234,567"),
        (12345.678, "12,345.7"),
        (0.000012345, "1.234e-05"),
        (-0.5, "-0.5"),
        (math.nan, "nan"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (185, "3m 05s"), (7800, "2h 10m"), (356400, "4d 3h"), (-5, "0s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (1e15, "1000.0 TB")]
)
def test_sizes(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_ages_and_times() -> None:
    assert format_age(time.time() - 3 * 3600 - 60) == "3h"
    assert format_time(None) == "-"
    assert len(format_time(0.0)) == 19
