"""`hetspec-core doctor` and `gpus`: this machine, this installation, and which run has which GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hetspec_core.cli.console import console, note, print_json, print_table
from hetspec_core.cli.options import JsonFlag
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.service.doctor import Check
    from hetspec_core.service.gpus import GpuReport

doctor_app = typer.Typer()

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@doctor_app.command()
def doctor(json: JsonFlag = False) -> None:
    """Look at Python, torch, GPUs, disks, presets, bases, registry and locks. Exits with 1 if something is wrong."""
    from hetspec_core.service.doctor import diagnose

    found: list[Check] = []
    for check in diagnose():
        found.append(check)
        if not json:
            _print_check(check)
    counts = {status: sum(check.status == status for check in found) for status in _STYLES}
    if json:
        print_json({"counts": counts, "checks": [check.to_json() for check in found]})
    else:
        console().print(f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['error']} errors")
    if counts["error"]:
        raise typer.Exit(1)


def _print_check(check: Check) -> None:
    from rich.text import Text

    out = console()
    out.print(
        Text.assemble((f"{check.status:<8}", _STYLES[check.status]), (f"{check.name:<17}", "bold"), check.message),
        soft_wrap=True,
    )
    if check.hint:
        out.print(Text.assemble(" " * 25, ("hint: ", "bold cyan"), check.hint), soft_wrap=True)


gpus_app = typer.Typer()


@gpus_app.command()
def gpus(json: JsonFlag = False) -> None:
    """Show every GPU: memory, load, temperature, power, processes, and the run that leases it."""
    with Workbench() as workbench:
        report = workbench.gpus()
    if json:
        print_json(report.to_json())
    elif report.gpus:
        _print_gpus(report)
    else:
        note(f"no GPUs: {report.reason}")


def _print_gpus(report: GpuReport) -> None:
    print_table(
        ("gpu", "name", "state", "free", "load", "temp", "power", "processes", "uuid"),
        [
            (
                str(status.gpu.index),
                status.gpu.name,
                f"run {status.run_id}" if status.run_id else status.state,
                f"{status.gpu.free_mib / 1024:.1f} of {status.gpu.memory_mib / 1024:.1f} GiB",
                _or_dash(status.gpu.utilisation, "%"),
                _or_dash(status.gpu.temperature_c, " °C"),
                _or_dash(None if status.gpu.power_w is None else round(status.gpu.power_w), " W"),
                ", ".join(str(process.pid) for process in status.gpu.processes) or "-",
                status.gpu.uuid,
            )
            for status in report.gpus
        ],
    )


def _or_dash(value: int | None, unit: str) -> str:
    return "-" if value is None else f"{value}{unit}"
