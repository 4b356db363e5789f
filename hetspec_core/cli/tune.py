"""`hetspec-core tune`: measure tree shapes and batch sizes within a time budget, and say which are the fastest."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hetspec_core.cli.bench import print_parts
from hetspec_core.cli.options import (
    DEFAULT_RECIPE,
    BackendOption,
    DraftOption,
    FileOption,
    NameOption,
    RecipeArgument,
    SetOption,
    backend_options,
    spec_options,
    trees_of,
)
from hetspec_core.cli.output import JsonFlag, launch, note, print_json

app = typer.Typer()


@app.command()
def tune(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    draft: DraftOption = None,
    backend: BackendOption = None,
    tree: Annotated[list[str], typer.Option(help="Shape to try; may be repeated. A usual set when absent.")] = [],  # noqa: B006
    batch_size: Annotated[list[int], typer.Option(min=1, help="Prompts at once; may be repeated.")] = [],  # noqa: B006
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Times that every shape answers every prompt, as far as the time allows.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Time for all of it; 15 when absent.")] = None,
    prompts: Annotated[str | None, typer.Option(help="MT-Bench form: FILE[:N] or shipped:NAME.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First so many conversations.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one answer.")] = None,
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = None,
    name: NameOption = None,
    json: JsonFlag = False,
) -> None:
    """Measure tree shapes and batch sizes in turns, and report the frontier, and the fastest where they differ."""
    from hetspec_core.config import resolve
    from hetspec_core.service import Workbench
    from hetspec_core.service.drafts import find_draft

    options = spec_options(
        name=name,
        tune__trees=trees_of(tree),
        tune__batch_sizes=batch_size or None,
        tune__repeats=repeats,
        tune__budget_s=None if minutes is None else 60 * minutes,
        bench__prompts=prompts,
        bench__limit=limit,
        decoding__max_new_tokens=max_new_tokens,
    ) | backend_options(backend, None)
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
