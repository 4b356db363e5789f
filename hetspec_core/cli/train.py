"""`hetspec-core train`: train a draft on hidden states, and print the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.console import format_number, print_line
from hetspec_core.cli.follow import DetachOption, is_detached, launch, launch_detached
from hetspec_core.cli.options import (
    GpusOption,
    JsonFlag,
    SpecOptions,
    WorkersOption,
    spec_options,
    worker_options,
)
from hetspec_core.errors import UsageError
from hetspec_core.quantities import format_duration
from hetspec_core.service.launch import check_inputs, training_inputs
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.spec import TrainingSpec

app = typer.Typer()


@app.command()
@spec_options(
    {
        "--name": "name",
        "--max-steps": "training.max_steps",
        "--epochs": "training.epochs",
        "--max-minutes": "training.max_minutes",
        "--lr": "training.optimizer.lr",
        "--report-to": "training.report_to",
        "--nodes": "resources.num_nodes",
        "--node-rank": "resources.node_rank",
        "--rendezvous": "resources.rendezvous",
    }
)
def train(
    *,
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="Recipe preset; with --from alone, the configuration saved there."),
    ] = None,
    dataset: Annotated[
        list[str], typer.Option("--dataset", metavar="RUN_OR_DIR", help="Hidden states to train on; may be repeated.")
    ] = [],  # noqa: B006
    eval_dataset: Annotated[
        str | None, typer.Option(metavar="RUN_OR_DIR", help="Held-out hidden states; else a share is held out.")
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="RUN_OR_DIR", help="Begin from the draft of a run or directory; without RECIPE, as saved."
        ),
    ] = None,
    given: SpecOptions,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    detach: DetachOption = None,
    json: JsonFlag = False,
) -> None:
    """Train a draft on hidden states of its base. The run continues without this command. While the command follows the
    run, Ctrl-C stops the run, and it can be resumed.
    """
    if recipe is None and initial is None:
        raise UsageError("there is no recipe", hint="name one, see `presets list recipe`; or --from RUN_OR_DIR")
    with Workbench() as workbench:
        given.values |= training_inputs(workbench, dataset, held_out=eval_dataset, initial=initial)
        given.values |= worker_options(gpus, workers)
        resolved = given.resolve(workbench, recipe or "", "train", saved=initial if recipe is None else None)
        spec = resolved.spec
        _check_epochs(given.values.get("training.epochs"), spec.training)
        check_inputs(spec)
        if is_detached(detach, json=json):
            launch_detached(workbench, resolved, json=json)
            return
        report = launch(workbench, resolved, json=json)
    if not json:
        _print_result(report.results["train"], spec.recipe or "RECIPE", report.summary.run_id)


def _check_epochs(epochs: int | None, training: TrainingSpec) -> None:
    """Refuse --epochs where it would be ignored, because steps or minutes are set too."""
    if epochs is None:
        return
    for key in ("max_steps", "max_minutes"):
        value = getattr(training, key)
        if value is not None:
            raise UsageError(
                f"--epochs {epochs} has no effect: training.{key} is {value:g}",
                hint=f"leave --epochs out, or take a recipe without {key}",
            )


def _print_result(result: dict[str, Any], recipe: str, run_id: str) -> None:
    length = result["accept_length"]
    judged = "nothing was held out" if length is None else f"simulated accept length {length:.2f}"
    print_line(
        f"step {format_number(result['best_step'])} of {format_number(result['step'])} is the best: {judged}; "
        f"{format_number(result['supervised_tokens'])} supervised tokens in {format_duration(result['wall_s'])}"
    )
    print_line(f"draft: {result['draft']}")
    print_line(f"next: hetspec-core bench {recipe} --draft {run_id}")
