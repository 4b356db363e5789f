"""`hetspec-core plan`: what a run needs of memory, disk and time, before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hetspec_core.cli.console import console, format_number, print_json
from hetspec_core.cli.follow import launch
from hetspec_core.cli.options import (
    FileOption,
    GpusOption,
    JsonFlag,
    RecipeArgument,
    SetOption,
    WorkersOption,
    worker_options,
)
from hetspec_core.errors import ResourceError, UsageError
from hetspec_core.quantities import format_bytes, format_duration

if TYPE_CHECKING:
    from hetspec_core.service.plan import Plan, ProbeFacts
    from hetspec_core.service.workbench import Workbench
    from hetspec_core.spec import RunSpec

app = typer.Typer()


@app.command()
def plan(
    recipe: RecipeArgument,
    stage: Annotated[str, typer.Option(help="Stage to plan: dataset, train, bench or generate.")] = "train",
    probe: Annotated[bool, typer.Option("--probe", help="Measure first: a dataset run of 20 conversations.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Exit with 0 even if it cannot fit.")] = False,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = None,
    json: JsonFlag = False,
) -> None:
    """Say what a run needs, what is free, and whether it fits. Nothing is loaded or started without --probe."""
    from hetspec_core.config import resolve
    from hetspec_core.service.launch import with_folders
    from hetspec_core.service.plan import gather_facts
    from hetspec_core.service.plan import plan as make_plan
    from hetspec_core.service.workbench import Workbench

    if probe and stage not in ("dataset", "train"):
        raise UsageError(f"--probe measures for stages dataset and train, not for {stage}", hint="leave --probe out")
    options = worker_options(gpus, workers)
    spec = resolve(recipe, stage=stage, overrides=overrides, file=file, options=options).spec
    with Workbench() as workbench:
        spec = with_folders(workbench, spec)
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
    _print(made)
    if not made.fits and not force:
        raise ResourceError(
            f"{recipe}, stage {stage}, cannot fit: {'; '.join(made.refusals)}",
            hint=f"{made.remedy}; --force accepts it as it is",
        )


def _measure(workbench: Workbench, spec: RunSpec, *, quiet: bool) -> ProbeFacts:
    from hetspec_core.service.planning.facts import probe_spec, read_probe

    report = launch(workbench, probe_spec(spec), quiet=quiet)
    return read_probe(report, workbench.paths(report.summary.run_id))


def _print(made: Plan) -> None:
    from rich.text import Text

    out = console()

    def line(name: str, text: str) -> None:
        out.print(Text.assemble((f"{name:<12}", "bold"), text), soft_wrap=True)

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
    for text in made.assumptions:
        line("assumed", text)
    for text in made.notes:
        line("note", text)
    for text in made.refusals:
        line("refused", text)


def _parameters(total: int, exact: bool) -> str:
    return f"{'' if exact else 'about '}{format_number(total)} parameters"


def _print_parts(made: Plan) -> None:
    from hetspec_core.cli.console import print_table

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
