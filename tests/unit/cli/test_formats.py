"""Numbers, times and sizes as people read them."""

from __future__ import annotations

import math
import time

import pytest

from hetspec_core.cli.console import format_age, format_number, format_time
from hetspec_core.quantities import format_bytes, format_duration


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
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (7800, "2h 10m"),
        (356400, "4d 03h"),
        (math.nan, "-"),
        (-5, "0s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2.5e9, "2.3 GiB"), (2**50, "1024.0 TiB")]
)
def test_sizes(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_ages_and_times() -> None:
    assert format_age(time.time() - 3 * 3600 - 60) == "3h"
    assert format_time(None) == "-"
    assert len(format_time(0.0)) == 19
