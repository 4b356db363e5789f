"""`hetspec-core pipeline`: dataset, training and bench of a recipe as three runs, each waiting for the one before."""

from __future__ import annotations

from typing import Annotated

import typer

from hetspec_core.cli.bench import print_bench
from hetspec_core.cli.follow import DetachOption, follow, is_detached
from hetspec_core.cli.options import FileOption, JsonFlag, RecipeArgument, SetOption
from hetspec_core.cli.output import note, print_json

app = typer.Typer()


@app.command()
def pipeline(
    recipe: RecipeArgument,
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the runs, with their stage behind it.")] = None,
    detach: DetachOption = None,
    json: JsonFlag = False,
) -> None:
    """Make a dataset, train a draft on it, and measure that draft. All three runs are submitted at once; each starts
    when the one before it has succeeded, also without this command. A failure stops those behind it; resuming it goes
    on with them.
    """
    from hetspec_core.service import Workbench
    from hetspec_core.service.launch import LaunchRequest, start

    choice = LaunchRequest(recipe, "pipeline", more=tuple(overrides), file=file, name=name or "")
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
