"""Tables of the listing commands: with headings on a terminal, plain lines in a pipe. Data is never read as markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print rows under their columns.

    Args:
        columns: headings, shown on a terminal only.
        rows: cells; anything but text is shown as JSON, None as a dash.
        title: line above the table, on a terminal only.
    """
    from hetspec_core.cli.console import console, say

    cells = [[cell_text(cell) for cell in row] for row in rows]
    if not console().is_terminal:
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:  # whole lines, whatever their length: a pipe folds nothing
            say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    if title:
        console().print(Text(title))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", no_wrap=number == 0)
    for row in cells:
        table.add_row(*map(Text, row))
    console().print(table)


def cell_text(value: object) -> str:
    """A value as a cell: printable text as it is, None as a dash, the rest as JSON, so that it stays on its line."""
    if value is None:
        return "-"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
