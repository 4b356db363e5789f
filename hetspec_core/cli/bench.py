"""`hetspec-core bench`: measure a draft against plain decoding, and print what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.follow import DetachOption, launch_detached
from hetspec_core.cli.formats import format_number
from hetspec_core.cli.options import (
    DEFAULT_RECIPE,
    BackendOption,
    DraftOption,
    FileOption,
    NameOption,
    RecipeArgument,
    SavedOption,
    SetOption,
    UrlOption,
    backend_options,
    spec_options,
    trees_of,
)
from hetspec_core.cli.output import JsonFlag, console, launch, note, print_json
from hetspec_core.errors import UsageError
from hetspec_core.quantities import load_note
from hetspec_core.temperature import is_greedy

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer()


@app.command()
def bench(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    draft: DraftOption = None,
    saved: SavedOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="The base alone, without a draft.")] = False,
    prompts: Annotated[str | None, typer.Option(help="MT-Bench form: FILE[:N] or shipped:NAME.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First so many conversations.")] = None,
    category: Annotated[list[str], typer.Option(help="Only this category; may be repeated.")] = [],  # noqa: B006
    sample_id: Annotated[
        list[str], typer.Option(metavar="ID", help="Only the conversation of this id; may be repeated.")
    ] = [],  # noqa: B006
    tree: Annotated[
        list[str], typer.Option(help="depth/top_k/num_draft_tokens; may be repeated. top_k 1 is a chain.")
    ] = [],  # noqa: B006
    chat_template: Annotated[
        str | None,
        typer.Option(
            help="How prompts are written; sglang = as SGLang's MT-Bench script, with its system message. "
            "The base's own when absent."
        ),
    ] = None,
    first_turn_only: Annotated[bool, typer.Option("--first-turn-only", help="Leave the second turns out.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of one answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 = greedy.")] = None,
    batch_size: Annotated[
        list[int], typer.Option(min=1, help="Conversations decoded together; by SGLang it may be repeated.")
    ] = [],  # noqa: B006
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Times each prompt is measured; the median counts.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Number type: float32, bfloat16 or float16.")] = None,
    backend: BackendOption = None,
    url: UrlOption = None,
    engine: Annotated[bool, typer.Option("--engine", help="Measure SGLang's offline engine, not a server.")] = False,
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = None,
    name: NameOption = None,
    detach: DetachOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to append the result to, one JSON line a run.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Measure speculative against plain decoding on the same prompts, interleaved in one process."""
    from hetspec_core.prompts import MT_BENCH_SYSTEM_PROMPT
    from hetspec_core.service import Workbench
    from hetspec_core.service.lines import append_line, result_line
    from hetspec_core.service.saved import measured_draft, resolve_saved

    options = spec_options(
        name=name,
        base__chat_template=chat_template,
        base__system_prompt=MT_BENCH_SYSTEM_PROMPT if chat_template == "sglang" else None,
        bench__prompts=prompts,
        bench__limit=limit,
        bench__categories=category or None,
        bench__sample_ids=sample_id or None,
        bench__trees=trees_of(tree),
        bench__first_turn_only=first_turn_only or None,
        bench__batch_size=batch_size[0] if len(batch_size) == 1 else None,
        bench__repeats=repeats,
        decoding__max_new_tokens=max_new_tokens,
        decoding__plain=plain or None,
        decoding__sampling__temperature=temperature,
        resources__dtype=dtype,
        sglang__engine=engine or None,
        sglang__batch_sizes=batch_size or None,
    ) | backend_options("sglang" if engine and backend is None else backend, url)
    if len(batch_size) > 1 and options["backend"] != "sglang":
        raise UsageError(
            "the built-in bench has one --batch-size", hint="run it once for each, or use --backend sglang"
        )
    with Workbench() as workbench:
        given: dict[str, Any] = {"stage": "bench", "overrides": overrides, "file": file, "options": options}
        if not plain:
            spec = resolve_saved(workbench, recipe, saved, **given).spec
            found = measured_draft(workbench, draft, saved, spec, say=note)
            if found is not None:
                options["draft.checkpoint"] = str(found)
        asked = resolve_saved(workbench, recipe, saved, **given)
        if detach and out is not None:
            raise UsageError("--out needs the result, and --detach does not wait for it", hint="leave one of them out")
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
    setup, plain, trees = result["setup"], result["plain"], result["trees"]
    about = f"{setup['base']} with draft {setup['draft']}" if setup["draft"] else f"{setup['base']} alone"
    if setup["draft"] and setup["draft_parameters"] is not None:
        vocabulary = format_number(setup["draft_vocab_size"])
        about += f" ({setup['draft_parameters'] / 1e6:.1f} M parameters, vocabulary {vocabulary})"
    _say(about)
    _say(
        f"{setup['questions']} prompts of {setup['prompts']}, {format_number(setup['prompt_tokens'])} prompt tokens, "
        f"up to {setup['max_new_tokens']} new tokens, {_sampling(setup['sampling'])}, {setup['dtype']}, "
        f"batch {setup.get('batch_size', 1)}, median of {setup['repeats']}"
    )
    _say(
        f"{setup['device']} ({setup['cpu']}, {setup['threads']} threads), torch {setup['torch']}, "
        f"transformers {setup['transformers']}"
    )
    for reason, found in setup.get("left_out", {}).items():
        _say(f"left out: {found['count']} {reason} ({found['named'][0]})")
    load = load_note(setup)
    if load:
        _say(f"measured at {load}: other work shared the processor and slowed these figures")
    served = setup.get("sglang")
    if served is not None:
        _say(f"SGLang {served['version']}, {served['mode']} {served.get('url', '')}".rstrip())
    rows: list[Sequence[str]] = []
    if plain is not None:
        rows.append(("plain", "-", "-", _rate(plain["decode_tokens_per_s"]), "1.00", "-"))
    for tree in trees:
        lossless = tree["lossless"]
        rows.append(
            (
                tree["tree"],
                _number(tree["accept_length"]),
                _interval(tree["accept_length_interval"]),
                _rate(tree["decode_tokens_per_s"]),
                _number(tree["speedup"]),
                "-" if lossless is None else f"{lossless['identical']}/{lossless['prompts']}",
            )
        )
    _table(("tree", "accept length", "95 %", "tokens/s", "speedup", "identical"), rows)
    ends = [] if plain is None else [f"plain {_rate(plain['end_to_end_tokens_per_s'])}"]
    ends += [
        f"{tree['tree']} {_rate(tree['end_to_end_tokens_per_s'])} ({_number(tree['speedup_end_to_end'])})"
        for tree in trees
    ]
    _say(f"with prefill, tokens/s (speedup): {', '.join(ends)}")
    for batch in (plain or {}).get("sglang", {}).get("batches", ()):
        _say(f"plain, {_throughput(batch)}")
    for tree in trees:
        _print_tree(tree)
    first = served is None or served["mode"] != "engine"
    _say(f"tree: depth/top_k/num_draft_tokens. tokens/s: {'after the first token' if first else 'prefill included'}.")
    _say("Accept length: committed tokens per verify step, bonus token included. identical: answers equal to plain's.")


def _print_tree(tree: dict[str, Any]) -> None:
    histogram = "  ".join(f"{length}: {count}" for length, count in tree["histogram"].items())
    _say(f"\n{tree['tree']}: {format_number(tree['verify_steps'])} verify steps by committed tokens: {histogram}")
    rates = "  ".join(
        f"{row['depth']}: {_percent(row['acceptance_rate'])} ({_percent(row['joint_rate'])})"
        for row in tree["by_depth"]
    )
    if rates:
        _say(f"acceptance by depth, given its parent (joint): {rates}")
    if counted := tree.get("sglang"):
        _say(
            f"as SGLang counts: {counted['completion_tokens']} tokens / {counted['spec_verify_ct']} verify steps = "
            f"{_number(counted['accept_length'])} (the first token is in it), flags {counted['flags']}"
        )
        for batch in counted["batches"]:
            _say(_throughput(batch))
    if tree.get("costs"):
        costs = tree["costs"]
        spent = {name[:-2]: costs[name] for name in costs if name.endswith("_s")}
        whole = sum(spent.values()) or 1.0
        shares = ", ".join(f"{name} {seconds:.2f} s ({seconds / whole:.0%})" for name, seconds in spent.items())
        _say(f"where the time goes at batch 1: {shares}")
    if tree["phases"]:
        phases = ", ".join(f"{name[:-2]} {seconds * 1e3:.1f} ms" for name, seconds in tree["phases"].items())
        _say(f"a step, in a profiled pass of its own: {phases}")
    if len(tree["categories"]) > 1:
        _table(
            ("category", "prompts", "accept length", "tokens/s", "speedup"),
            [
                (
                    name,
                    str(row["prompts"]),
                    _number(row["accept_length"]),
                    _rate(row["decode_tokens_per_s"]),
                    _number(row["speedup"]),
                )
                for name, row in tree["categories"].items()
            ],
        )
    for found in (tree["lossless"] or {"differences": ()})["differences"][:5]:
        gap = (
            "" if found["top2_gap"] is None else f"; the base's two likeliest tokens are {found['top2_gap']:.2g} apart"
        )
        _say(f"prompt {found['question']} differs from plain decoding at token {found['token']}{gap}")


def _throughput(batch: dict[str, Any]) -> str:
    speed = f"{_rate(batch['tokens_per_s'])} tokens/s" if not batch.get("note") else f"not measured: {batch['note']}"
    return f"{batch['batch_size']} prompts at once: {speed}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)


def _say(text: str) -> None:
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def _sampling(sampling: dict[str, Any]) -> str:
    return (
        "greedy"
        if is_greedy(sampling["temperature"])
        else f"temperature {sampling['temperature']}, seed {sampling['seed']}"
    )


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _interval(value: Sequence[float] | None) -> str:
    return "-" if value is None else f"{value[0]:.2f}-{value[1]:.2f}"
