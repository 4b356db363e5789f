"""`hetspec-core bench` and `tune`: measure a draft against plain decoding, and find the fastest tree shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.console import console, note, print_json, print_line
from hetspec_core.cli.follow import DetachOption, launch, launch_detached
from hetspec_core.cli.options import (
    BACKEND_OPTIONS,
    DEFAULT_RECIPE,
    DraftOption,
    JsonFlag,
    RecipeArgument,
    SavedOption,
    SpecOptions,
    spec_options,
)
from hetspec_core.errors import UsageError
from hetspec_core.prompts import MT_BENCH_SYSTEM_PROMPT
from hetspec_core.service.bench_view import Bars, Grid, bench_lines, tune_lines
from hetspec_core.service.drafts import find_draft
from hetspec_core.service.export import append_line, result_line
from hetspec_core.service.saved import measured_draft
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hetspec_core.service.bench_view import Part

app = typer.Typer()
tune_app = typer.Typer()
BatchSizes = Annotated[
    list[int], typer.Option("--batch-size", min=1, help="Prompts decoded together; may be repeated.")
]


@app.command()
@spec_options(
    {
        "--name": "name",
        "--plain": "decoding.plain",
        "--prompts": "bench.prompts",
        "--limit": "bench.limit",
        "--category": "bench.categories",
        "--sample-id": "bench.sample_ids",
        "--tree": "bench.trees",
        "--draft-vocab": "bench.draft_vocabs",
        "--first-turn-only": "bench.first_turn_only",
        "--max-new-tokens": "decoding.max_new_tokens",
        "--temperature": "decoding.sampling.temperature",
        "--repeats": "bench.repeats",
        "--dtype": "resources.dtype",
        **BACKEND_OPTIONS,
        "--engine": "sglang.engine",
    }
)
def bench(
    *,
    recipe: RecipeArgument = DEFAULT_RECIPE,
    draft: DraftOption = None,
    saved: SavedOption = None,
    given: SpecOptions,
    batch_size: BatchSizes = [],  # noqa: B006
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="How prompts are written; sglang = as SGLang's MT-Bench script, with its system message. "
            "The base's own when absent."
        ),
    ] = None,
    detach: DetachOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to append the result to, one JSON line a run.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure speculative against plain decoding on the same prompts, interleaved in one process."""
    given.values |= {
        "base.chat_template": chat_template,
        "base.system_prompt": MT_BENCH_SYSTEM_PROMPT if chat_template == "sglang" else None,
        "bench.batch_size": batch_size[0] if len(batch_size) == 1 else None,
        "sglang.batch_sizes": batch_size or None,
    }
    if len(batch_size) > 1 and given.values.get("backend") != "sglang":
        raise UsageError(
            "the built-in bench has one --batch-size", hint="run it once for each, or use --backend sglang"
        )
    if detach and out is not None:
        raise UsageError("--out needs the result, and --detach does not wait for it", hint="leave one of them out")
    with Workbench() as workbench:
        asked = given.resolve_with_draft(
            workbench,
            recipe,
            "bench",
            lambda spec: measured_draft(workbench, draft, saved, spec, say=note),
            saved=saved,
        )
        if detach:
            launch_detached(workbench, asked, json=json)
            return
        report = launch(workbench, asked, quiet=json)
    result = report.results["bench"]
    if out is not None:
        append_line(out, result_line(report))
    if json:
        print_json({"run_id": report.summary.run_id, **result})
    else:
        print_bench(result)


def print_bench(result: dict[str, Any]) -> None:
    """Print a bench result: the setting, a table of the ways of decoding, then the details of each tree."""
    print_parts(bench_lines(result))


def print_parts(parts: Sequence[Part]) -> None:
    """Print the lines, tables and bars of a measurement."""
    after_bars = False
    for part in parts:
        if isinstance(part, Grid):
            _table(part)
        elif isinstance(part, Bars):
            shown = "  ".join(f"{bar.name}: {bar.text}" for bar in part.bars)
            print_line(f"{'' if after_bars else chr(10)}{part.title}: {shown}")
        else:
            print_line(part.text)
        after_bars = isinstance(part, Bars)


def _table(grid: Grid) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, column in enumerate(grid.head):
        folds = grid.notes and number == len(grid.head) - 1
        table.add_column(Text(column), justify="right" if number in grid.figures else "left", no_wrap=not folds)
    for row in grid.rows:
        table.add_row(*map(Text, row))
    console().print(table)


@tune_app.command()
@spec_options(
    {
        "--name": "name",
        "--backend": "backend",
        "--tree": "tune.trees",
        "--draft-vocab": "tune.draft_vocabs",
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
    given: SpecOptions,
    batch_size: BatchSizes = [],  # noqa: B006
    minutes: Annotated[float | None, typer.Option(help="Time for all of it; 15 when absent.")] = None,
    json: JsonFlag = False,
) -> None:
    """Measure tree shapes and batch sizes in turns; report the frontier and, if one is faster, the fastest shape."""
    given.values |= {
        "tune.batch_sizes": batch_size or None,
        "tune.budget_s": None if minutes is None else 60 * minutes,
    }
    with Workbench() as workbench:
        asked = given.resolve_with_draft(
            workbench, recipe, "tune", lambda spec: find_draft(workbench, draft, spec.base.name, say=note)
        )
        report = launch(workbench, asked, quiet=json)
    result = report.results["tune"]
    if json:
        print_json({"run_id": report.summary.run_id, **result})
    else:
        print_tuning(result)


def print_tuning(result: dict[str, Any]) -> None:
    """Print every trial and the verdict of each batch size."""
    print_parts(tune_lines(result))
