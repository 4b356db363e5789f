"""`hetspec-core tune`: measure tree shapes and batch sizes within a time budget, and say which are the fastest."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hetspec_core.cli.bench import BatchSizes, print_parts
from hetspec_core.cli.options import (
    DEFAULT_RECIPE,
    DraftOption,
    FileOption,
    JsonFlag,
    RecipeArgument,
    SetOption,
    SpecValues,
    spec_options,
    with_backend,
)
from hetspec_core.cli.output import launch, note, print_json

app = typer.Typer()


@app.command()
@spec_options(
    {
        "--name": "name",
        "--backend": "backend",
        "--tree": "tune.trees",
        "--repeats": "tune.repeats",
        "--prompts": "bench.prompts",
        "--limit": "bench.limit",
        "--max-new-tokens": "decoding.max_new_tokens",
    }
)
def tune(
    *,
    recipe: RecipeArgument = DEFAULT_RECIPE,
    draft: DraftOption = None,
    given: SpecValues,
    batch_size: BatchSizes = [],  # noqa: B006
    minutes: Annotated[float | None, typer.Option(help="Time for all of it; 15 when absent.")] = None,
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure tree shapes and batch sizes in turns, and report the frontier, and the fastest where they differ."""
    from hetspec_core.config import resolve
    from hetspec_core.service import Workbench
    from hetspec_core.service.drafts import find_draft

    options = with_backend(given) | {
        "tune.batch_sizes": batch_size or None,
        "tune.budget_s": None if minutes is None else 60 * minutes,
    }
    with Workbench() as workbench:
        base = resolve(recipe, stage="tune", overrides=overrides, file=file, options=options).spec.base.name
        options["draft.checkpoint"] = str(find_draft(workbench, draft, base, say=note))
        asked = resolve(recipe, stage="tune", overrides=overrides, file=file, options=options)
        report = launch(workbench, asked, quiet=json)
    result = report.results["tune"]
    if json:
        print_json({"run_id": report.summary.run_id, **result})
    else:
        print_tuning(result)


def print_tuning(result: dict[str, Any]) -> None:
    """Print every trial and the verdict of each batch size."""
    from hetspec_core.service.bench_view import tune_lines

    print_parts(tune_lines(result))
