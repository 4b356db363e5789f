"""`hetspec-core doctor`, `gpus` and `plan`: this machine, its GPUs, and what a run needs of it before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hetspec_core.cli.console import console, format_number, note, print_json, print_line, print_table
from hetspec_core.cli.follow import launch
from hetspec_core.cli.options import (
    GpusOption,
    JsonFlag,
    RecipeArgument,
    SpecOptions,
    WorkersOption,
    spec_options,
    worker_options,
)
from hetspec_core.errors import ResourceError, UsageError
from hetspec_core.quantities import format_bytes, format_duration
from hetspec_core.service.doctor import diagnose
from hetspec_core.service.launch import with_folders
from hetspec_core.service.plan import gather_facts
from hetspec_core.service.plan import plan as make_plan
from hetspec_core.service.planning.facts import probe_spec, read_probe
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.service.doctor import Check
    from hetspec_core.service.gpus import GpuReport
    from hetspec_core.service.plan import Plan, ProbeFacts
    from hetspec_core.spec import RunSpec

doctor_app = typer.Typer()
gpus_app = typer.Typer()
plan_app = typer.Typer()

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


@doctor_app.command()
def doctor(json: JsonFlag = False) -> None:
    """Check Python, torch, GPUs, disks, presets, bases, registry and locks. Exits with 1 if there is an error."""
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
    print_line(
        Text.assemble((f"{check.status:<8}", _STYLES[check.status]), (f"{check.name:<17}", "bold"), check.message)
    )
    if check.hint:
        print_line(Text.assemble(" " * 25, ("hint: ", "bold cyan"), check.hint))


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


@plan_app.command()
@spec_options({})
def plan(
    *,
    recipe: RecipeArgument,
    given: SpecOptions,
    stage: Annotated[str, typer.Option(help="Stage to plan: dataset, train, bench or generate.")] = "train",
    probe: Annotated[bool, typer.Option("--probe", help="Measure first: a dataset run of 20 conversations.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Exit with 0 even if it cannot fit.")] = False,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    json: JsonFlag = False,
) -> None:
    """Show what a run needs, what is free, and whether it fits. Nothing is loaded or started without --probe."""
    if probe and stage not in ("dataset", "train"):
        raise UsageError(f"--probe measures for stages dataset and train, not for {stage}", hint="leave --probe out")
    given.values |= worker_options(gpus, workers)
    with Workbench() as workbench:
        spec = with_folders(workbench, given.resolve(workbench, recipe, stage).spec)
        before = make_plan(spec, gather_facts(spec, workbench.roots))
        measured = None
        if probe and (before.fits or force):
            measured = _measure(workbench, spec, quiet=json)
        made = before
        if measured is not None:
            made = make_plan(spec, gather_facts(spec, workbench.roots, probe=measured))
    if json:
        print_json(made.to_json())
        if not made.fits and not force:
            raise typer.Exit(ResourceError.exit_code)
        return
    _print_plan(made)
    if not made.fits and not force:
        raise ResourceError(
            f"{recipe}, stage {stage}, cannot fit: {'; '.join(made.refusals)}",
            hint=f"{made.remedy}; --force accepts it as it is",
        )


def _measure(workbench: Workbench, spec: RunSpec, *, quiet: bool) -> ProbeFacts:
    report = launch(workbench, probe_spec(spec), quiet=quiet)
    return read_probe(report, workbench.paths(report.summary.run_id))


def _print_plan(made: Plan) -> None:
    out = console()

    def line(name: str, text: str) -> None:
        print_line(Text.assemble((f"{name:<12}", "bold"), text))

    workers = f"{made.num_devices} x " if made.num_devices > 1 else ""
    line("run", f"{made.recipe}, stage {made.stage}, on {workers}{made.device_name}")
    line("estimate", "measured by a probe run" if made.basis == "probe" else "cost model, nothing measured")
    if made.probe is not None:
        peak = ", ".join(f"{format_bytes(size)} ({name})" for name, size in made.probe.memory_bytes.items())
        line("probe", f"{made.probe.run_id}: {made.probe.samples} conversations, peak memory {peak}")
    line("base", _parameters(made.base.total, made.base.exact))
    if made.draft is not None:
        line("draft", f"{_parameters(made.draft.total, made.draft.exact)} (embedding and head are the base's)")
    if made.mean_tokens is not None:
        samples = "an unknown number of" if made.samples is None else format_number(made.samples)
        total = "" if made.tokens is None else f", {format_number(made.tokens)} tokens"
        line("data", f"{samples} conversations of {made.mean_tokens:.0f} tokens{total}")
        size = "" if made.store_bytes is None else f", {format_bytes(made.store_bytes)} in all"
        line("states", f"{format_number(made.bytes_per_token)} bytes per token on disk{size}")
    if made.stage == "train":
        steps = "an unknown number of steps" if made.steps is None else f"{format_number(made.steps)} steps at most"
        each = "" if made.tokens_per_step is None else f" of {format_number(made.tokens_per_step)} tokens"
        line("training", f"{steps}{each}")
    _print_parts(made)
    out.print()
    if made.phases is None or made.seconds is None:
        line("time", "not known: it depends on the number of conversations")
    else:
        shares = ", ".join(f"{phase.name} {format_duration(phase.seconds)}" for phase in made.phases)
        line("time", f"about {format_duration(made.seconds)}: {shares}")
    for tree in made.trees:
        line("expected", tree.sentence)
    for text in made.assumptions:
        line("assumed", text)
    for text in made.notes:
        line("note", text)
    for text in made.refusals:
        line("refused", text)


def _parameters(total: int, exact: bool) -> str:
    return f"{'' if exact else 'about '}{format_number(total)} parameters"


def _print_parts(made: Plan) -> None:
    where = {True: "GPU memory", False: "memory"}
    rows = [
        (where[part.on_device and made.device == "cuda"], part.name, format_bytes(part.bytes)) for part in made.memory
    ]
    rows += [("disk", part.name, format_bytes(part.bytes)) for part in made.disk]
    if made.device == "cuda":
        free = "unknown" if made.free_device_bytes is None else format_bytes(made.free_device_bytes)
        rows.append(("GPU memory", "in all, per GPU", f"{format_bytes(made.device_bytes)} of {free} free"))
    rows.append(("memory", "in all", f"{format_bytes(made.host_bytes)} of {format_bytes(made.free_memory_bytes)} free"))
    rows.append(
        (
            "disk",
            f"in all, {made.disk_path}",
            f"{format_bytes(made.disk_bytes)} of {format_bytes(made.free_disk_bytes)} free",
        )
    )
    console().print()
    print_table(("where", "what", "bytes"), rows)
