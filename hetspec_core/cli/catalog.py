"""`hetspec-core catalog`: the cards of every axis, read without importing any part."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(name="catalog")
def catalog(
    axis: Annotated[str | None, typer.Argument(help="One axis, e.g. backbones; all when absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List algorithms, backbones, formats, stages, executors and backends."""
    from hetspec_core.catalog import broken, list_cards
    from hetspec_core.cli.console import print_json, say
    from hetspec_core.cli.tables import print_table

    cards, faults = list_cards(axis), broken()
    if as_json:
        print_json(
            {
                "cards": [
                    {
                        "axis": card.axis,
                        "name": card.name,
                        "summary": card.summary,
                        "target": card.target,
                        "options": card.options,
                        "capabilities": dict(card.capabilities),
                        "source": card.source,
                        "provider": card.provider,
                    }
                    for card in cards
                ],
                "broken": [{"entry": item.entry, "provider": item.provider, "reason": item.reason} for item in faults],
            }
        )
        return
    rows = [(card.axis, card.name, card.summary, card.source or None, card.provider) for card in cards]
    print_table(("axis", "name", "summary", "source", "provider"), rows)
    for item in faults:
        say(f"not usable: {item.entry} of {item.provider}: {item.reason}", file=sys.stderr)
