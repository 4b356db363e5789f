"""One colour and one sign for a thing that is shown in several places: the same in table, chart and legend.

The colours of data cannot come from a theme, which has too few; there is one row for dark themes and one for light
ones, of the 256 that most terminals have.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

DARK = ("#5fafff", "#ffaf5f", "#87d75f", "#ff87d7", "#d7d75f", "#af87ff", "#5fd7d7", "#ff8787", "#d7afaf", "#87afaf")
LIGHT = ("#005fd7", "#af5f00", "#008700", "#af0087", "#878700", "#5f00d7", "#008787", "#d70000", "#875f5f", "#5f5f87")
SIGNS = "●■▲◆▼★○□△◇"
"""Signs of the same order as the colours, for terminals and eyes that do not tell colours apart."""


def places(keys: Iterable[str]) -> dict[str, int]:
    """Key -> place in the rows above. It follows from the key alone, unless an earlier key has that place already.

    Later keys never change the places of earlier ones, so adding a run to a chart changes no colour.
    """
    found: dict[str, int] = {}
    taken: set[int] = set()
    for key in keys:
        if key in found:
            continue
        place = zlib.crc32(key.encode(errors="replace")) % len(DARK)
        if len(taken) < len(DARK):
            while place in taken:
                place = (place + 1) % len(DARK)
            taken.add(place)
        found[key] = place
    return found


def colour(place: int, *, dark: bool = True) -> str:
    """The colour of a place, as #rrggbb."""
    row = DARK if dark else LIGHT
    return row[place % len(row)]


def sign(place: int) -> str:
    """The sign of a place, one cell wide."""
    return SIGNS[place % len(SIGNS)]
