"""`hetspec-core doctor`: check this machine and this installation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hetspec_core.cli.options import JsonFlag
from hetspec_core.cli.output import console, print_json

if TYPE_CHECKING:
    from hetspec_core.service.doctor import Check

app = typer.Typer()

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@app.command()
def doctor(json: JsonFlag = False) -> None:
    """Look at Python, torch, GPUs, disks, presets, bases, registry and locks. Exits with 1 if something is wrong."""
    from hetspec_core.service.doctor import diagnose

    found: list[Check] = []
    for check in diagnose():
        found.append(check)
        if not json:
            _print(check)
    counts = {status: sum(check.status == status for check in found) for status in _STYLES}
    if json:
        print_json({"counts": counts, "checks": [check.to_json() for check in found]})
    else:
        console().print(f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['error']} errors")
    if counts["error"]:
        raise typer.Exit(1)


def _print(check: Check) -> None:
    from rich.text import Text

    out = console()
    out.print(
        Text.assemble((f"{check.status:<8}", _STYLES[check.status]), (f"{check.name:<17}", "bold"), check.message),
        soft_wrap=True,
    )
    if check.hint:
        out.print(Text.assemble(" " * 25, ("hint: ", "bold cyan"), check.hint), soft_wrap=True)
