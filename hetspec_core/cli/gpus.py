"""`hetspec-core gpus`: the GPUs of this machine, and which run has which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from hetspec_core.cli.options import JsonFlag
from hetspec_core.cli.output import note, print_json
from hetspec_core.service import Workbench

if TYPE_CHECKING:
    from hetspec_core.service import GpuReport

app = typer.Typer()


@app.command()
def gpus(json: JsonFlag = False) -> None:
    """Show every GPU: memory, load, temperature, power, processes, and the run that leases it."""
    with Workbench() as workbench:
        report = workbench.gpus()
    if json:
        print_json(report.to_json())
    elif report.gpus:
        _print(report)
    else:
        note(f"no GPUs: {report.reason}")


def _print(report: GpuReport) -> None:
    from hetspec_core.cli.tables import print_table

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
