"""`hetspec-core pipeline` and `demo`: dataset, training and bench of a recipe as three runs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.bench import print_bench
from hetspec_core.cli.console import format_number, note, print_json, print_line
from hetspec_core.cli.follow import DetachOption, follow, is_detached, launch
from hetspec_core.cli.options import JsonFlag, RecipeArgument, SpecOptions, spec_options
from hetspec_core.events.results import read_bench
from hetspec_core.quantities import format_bytes, format_duration, load_note
from hetspec_core.service.bench_view import number
from hetspec_core.service.launch import LaunchRequest, start
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.service.report import RunReport

app = typer.Typer()
demo_app = typer.Typer()


@app.command()
@spec_options({})
def pipeline(
    *,
    recipe: RecipeArgument,
    given: SpecOptions,
    name: Annotated[str | None, typer.Option("--name", help="Name of the runs, with their stage behind it.")] = None,
    detach: DetachOption = None,
    json: JsonFlag = False,
) -> None:
    """Make a dataset, train a draft on it, and measure that draft. All three runs are submitted at once; each starts
    when the one before it has succeeded, also without this command. A failure stops the later runs; resuming the failed
    run continues them.
    """
    choice = LaunchRequest(recipe, "pipeline", more=tuple(given.overrides), file=given.file, name=name or "")
    with Workbench() as workbench:
        made = start(workbench, choice)
        if is_detached(detach, json=json):
            if json:
                print_json({stage: run_id for stage, run_id in zip(choice.stages, made)})
                return
            for stage, run_id in zip(choice.stages, made):
                note(f"{stage}: run {run_id}")
            note(f"follow the first: hetspec-core runs follow {made[0]}; all: hetspec-core runs list")
            return
        for number, (stage, run_id) in enumerate(zip(choice.stages, made), 1):
            if not json:
                note(f"{number}/{len(made)}  {stage}")
            follow(workbench, run_id, json=json)
        result = workbench.show(made[-1]).results.get("bench")
    if not json and result is not None:
        print_bench(result)


_TARGET_TREE = "6/10/60"


@demo_app.command()
@spec_options({})
def demo(
    *,
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe preset of all three runs.")] = "quick-demo",
    given: SpecOptions,
    json: JsonFlag = False,
) -> None:
    """Generate a dataset, train a draft on it, and measure it on prompts that it has not seen. Minutes on two cores."""
    started = time.monotonic()
    with Workbench() as workbench:
        runs: list[RunReport] = []

        def stage(name: str, title: str, inputs: dict[str, Any]) -> RunReport:
            """Run one stage of the recipe as a child of the run before it."""
            if not json:
                note(title)
            parents = [report.summary.run_id for report in runs[-1:]]
            values = {"name": f"demo-{name}", "parents": parents or None, **inputs}
            asked = replace(given, values=values).resolve(workbench, recipe, name)
            runs.append(launch(workbench, asked, quiet=json))
            return runs[-1]

        data = stage("dataset", "1/3  The base answers prompts, and its hidden states are kept.", {})
        if not json:
            made = data.results["dataset"]
            print_line(
                f"{format_number(made['samples'])} conversations, {format_number(made['tokens'])} tokens, "
                f"{made['supervised_share']:.0%} of them the base's own; {format_bytes(made['bytes'])} on disk"
            )
        trained = stage(
            "train", "2/3  A draft learns them.", {"training.datasets": [_folder(workbench, data, "hidden_states")]}
        )
        measured = stage(
            "bench",
            "3/3  The draft is measured on prompts that it has not seen.",
            {"draft.checkpoint": _folder(workbench, trained, "draft")},
        )
    took = time.monotonic() - started
    result = measured.results["bench"]
    memory = max(map(_peak_memory, runs))
    if json:
        run_ids = [report.summary.run_id for report in runs]
        print_json({"runs": run_ids, "took_s": took, "peak_memory_bytes": memory, "bench": result})
        return
    print_bench(result)
    print_line(f"\n{verdict(result)}")
    print_line(f"The demo took {format_duration(took)}; its largest process {format_bytes(memory)}.")
    print_line(
        'Go on: hetspec-core generate "Why is the sky blue?"   '
        f"hetspec-core runs show {measured.summary.run_id}   hetspec-core presets list"
    )


def _folder(workbench: Workbench, report: RunReport, kind: Any) -> str:
    return str(workbench.resolve_input(report.summary.run_id, kind))


def verdict(result: dict[str, Any]) -> str:
    """The result of the demo on this machine, in a sentence or two."""
    trees = read_bench(result).record.trees
    best = max(trees, key=lambda tree: tree.speedup or 0.0)
    wide = next((tree for tree in trees if tree.tree == _TARGET_TREE), best)
    sentence = f"Accept length {number(wide.accept_length)} with the tree {wide.tree}."
    if best.speedup is None:
        return sentence
    load = load_note(result.get("setup") or {})
    if load:
        return f"{sentence} Other work shared the processor ({load}), so the speeds do not tell which is faster."
    if best.speedup >= 1:
        return f"{sentence} On this machine {best.tree} decodes {best.speedup:.2f} times as fast as plain decoding."
    return (
        f"{sentence} On this machine no measured tree is faster than plain decoding: the best, {best.tree}, decodes "
        f"{best.speedup:.2f} times as fast. A verify step costs more here than the accepted tokens save."
    )


def _peak_memory(report: RunReport) -> int:
    for result in report.results.values():
        peak = result.get("peak_memory_bytes") or result.get("setup", {}).get("peak_memory_bytes")
        if peak:
            return int(peak["process"])
    return 0
