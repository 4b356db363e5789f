"""`hetspec-core dataset`: generate hidden states of the base, and inspect, verify and merge them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hetspec_core.cli.console import console, note, print_facts, print_json, print_line, print_table
from hetspec_core.cli.engine_command import ask_engine, push_folder
from hetspec_core.cli.follow import DetachOption, is_detached, launch, launch_detached
from hetspec_core.cli.options import (
    GpusOption,
    JsonFlag,
    RecipeArgument,
    SpecOptions,
    WorkersOption,
    spec_options,
    worker_options,
)
from hetspec_core.errors import CorruptFileError, UsageError
from hetspec_core.quantities import format_bytes
from hetspec_core.service.cards import dataset_card, dataset_origins
from hetspec_core.service.workbench import Workbench

app = typer.Typer(
    help="Generate hidden states of the base; inspect, verify, merge them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

StoreWord = Annotated[
    str, typer.Argument(metavar="RUN_OR_DIR", help="Dataset run, its folder, or a dataset directory.")
]
_STORES = "hetspec_core.engine.data.stores"
_VERIFY = "hetspec_core.engine.stages.dataset_verify"
_BAR = 30


@app.command()
@spec_options(
    {
        "--name": "name",
        "--source": "dataset.source",
        "--answers": "dataset.answers",
        "--format": "dataset.format",
        "--limit": "dataset.limit",
    }
)
def generate(
    *,
    recipe: RecipeArgument,
    given: SpecOptions,
    rows: Annotated[
        str | None, typer.Option("--range", metavar="A:B", help="Rows A to B (B excluded) after the shuffle.")
    ] = None,
    gpus: GpusOption = None,
    workers: WorkersOption = None,
    detach: DetachOption = None,
    json: JsonFlag = False,
) -> None:
    """Make a dataset: conversations in, hidden states of the base out. The run continues without this command. While
    the command follows the run, Ctrl-C stops the run, and it can be resumed.
    """
    source = given.values.get("dataset.source")
    if source == "self":
        given.values.setdefault("dataset.answers", "base")  # there is no other way
    given.values |= {"dataset.source": _absolute(source), "dataset.range": _parse_range(rows)}
    given.values |= worker_options(gpus, workers)
    with Workbench() as workbench:
        asked = given.resolve(workbench, recipe, "dataset")
        if is_detached(detach, json=json):
            launch_detached(workbench, asked, json=json)
            return
        report = launch(workbench, asked, json=json)
    if json:
        return
    result = report.results.get("dataset", {})
    print_line(
        f"{result['samples']:,} samples, {result['tokens']:,} tokens, {result['supervised_share']:.0%} supervised, "
        f"{format_bytes(result['bytes'])} ({result['bytes_per_token']:,.0f} bytes a token)"
    )
    for heading, key in (
        ("left out", "left_out"),
        ("fields that were not read", "unused_fields"),
        ("answers that were cut", "cut_answers"),
    ):
        if result.get(key):
            counts = "; ".join(f"{name}: {count}" for name, count in result[key].items())
            print_line(f"{heading}: {counts}")
    for heading, key in (("rows that cannot be read", "unreadable_rows"), ("questions not asked", "unasked_questions")):
        if result.get(key):
            print_line(f"{heading}: {result[key]:,}")
    print_line(f"next: hetspec-core train {recipe} --dataset {report.summary.run_id}")


@app.command()
def inspect(
    dataset: StoreWord,
    samples: Annotated[int, typer.Option(min=0, help="Samples to show, supervised tokens coloured.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Which ones.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Show counts, lengths, the share of supervised tokens, and samples with their supervised tokens coloured."""
    words = ["inspect", str(_store(dataset)), "--samples", str(samples), "--seed", str(seed)]
    answer = ask_engine(_STORES, words, doing="reading the dataset")
    if json:
        print_json(answer)
    else:
        _print_inspection(answer)


@app.command()
def verify(
    dataset: StoreWord,
    samples: Annotated[int, typer.Option(min=1, help="Stored samples that go through the base again.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Which ones.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    json: JsonFlag = False,
) -> None:
    """Compare every shard with its checksum, and stored states with those of a fresh forward."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is {device!r}; allowed: auto, cpu, cuda")
    words = [str(_store(dataset)), "--samples", str(samples), "--seed", str(seed), "--device", device]
    answer = ask_engine(_VERIFY, words, doing="verifying the dataset")
    if json:
        print_json(answer)
    else:
        _print_verification(answer)
    if not answer["ok"]:
        raise typer.Exit(CorruptFileError.exit_code)


@app.command()
def merge(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="Directory to make.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC...", help="Dataset runs, their folders, or directories.")
    ],
    json: JsonFlag = False,
) -> None:
    """Make one dataset of several of the same base: shards are linked, samples that repeat are taken once."""
    with Workbench() as workbench:
        folders = [str(_store(word, workbench)) for word in sources]
    answer = ask_engine(_STORES, ["merge", str(destination.absolute()), *folders], doing="merging the datasets")
    if json:
        print_json(answer)
        return
    print_line(
        f"{answer['samples']:,} samples, {answer['tokens']:,} tokens in {answer['folder']}"
        + (f"; {answer['repeated']:,} samples were there more than once" if answer["repeated"] else "")
        + _not_finite(answer["not_finite"])
    )


@app.command()
def push(
    dataset: StoreWord,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Dataset repository on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and print the card; send nothing.")
    ] = False,
    card: Annotated[
        Path | None, typer.Option(help="File for the card of --dry-run; one that exists is refused. stdout if absent.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Send a dataset to the hub, with a card that says what it was made from. The token is taken from HF_TOKEN."""
    with Workbench() as workbench:
        folder = _store(dataset, workbench).absolute()
        text = dataset_card(dataset_origins(workbench, folder), repository)
    push_folder(folder, repository, text, kind="dataset", private=private, dry_run=dry_run, card_file=card, json=json)


def _store(word: str, workbench: Workbench | None = None) -> Path:
    if workbench is not None:
        return workbench.resolve_input(word, "hidden_states")
    with Workbench() as opened:
        return opened.resolve_input(word, "hidden_states")


def _absolute(source: str | None) -> str | None:
    """The absolute path of a source that is a file, so that the run can be resumed from any folder."""
    if source is None or source == "self" or source.startswith(("hub:", "shipped:")):
        return source
    return str(Path(source).expanduser().absolute())


def _parse_range(text: str | None) -> list[int] | None:
    if text is None:
        return None
    start, colon, end = text.partition(":")
    if not colon or not start.strip().isdigit() or not end.strip().isdigit():
        raise UsageError(f"--range is {text!r}; it needs A:B, e.g. 0:17500")
    return [int(start), int(end)]


# --- what is printed ---------------------------------------------------------------------------------------------


def _print_inspection(answer: dict[str, Any]) -> None:
    out = console()
    counts, identity, about = answer["counts"], answer["identity"], answer["about"]
    facts = {
        "folder": answer["folder"],
        "base": f"{about.get('base', {}).get('name', '?')} ({identity['base_fingerprint']})",
        "template": f"{about.get('template', {}).get('name', '?')} ({identity['template_hash']})",
        "samples": f"{counts['samples']:,} in {answer['shards']:,} shard{'s' if answer['shards'] != 1 else ''}",
        "tokens": f"{counts['tokens']:,}",
        "supervised": f"{counts['supervised_tokens']:,} ({answer['supervised_share']:.1%})",
        "states": f"{identity['dtype']}, H = {identity['hidden_size']}, {identity['norm'].replace('_', ' ')}"
        + (f", layers {', '.join(map(str, identity['layers']))}" if identity["layers"] else ""),
        "size": f"{format_bytes(counts['bytes'])}, {answer['bytes_per_token']:,.0f} bytes a token",
    }
    lengths = answer["lengths"]
    if lengths:
        facts["lengths"] = (
            f"{lengths['min']} to {lengths['max']} tokens; median {lengths['p50']}, mean {lengths['mean']:.0f}, "
            f"a tenth below {lengths['p10']}, a tenth above {lengths['p90']}"
        )
    print_facts(facts.items())
    if lengths:
        most = max(row["samples"] for row in lengths["histogram"])
        for row in lengths["histogram"]:
            bar = "█" * round(_BAR * row["samples"] / most)
            print_line(Text(f"{row['from']:>6} - {row['to']:<6} {row['samples']:>7,} {bar}"))
    plain = not out.is_terminal or out.no_color
    for sample in answer["samples"]:
        out.print()
        head = f"sample {sample['id']}: {sample['tokens']} tokens, {sample['supervised']} supervised"
        print_line(Text(head, style="bold"))
        text = Text()
        for segment in sample["segments"]:
            supervised = segment["supervised"]
            shown = f"[[{segment['text']}]]" if supervised and plain else segment["text"]
            text.append(shown, style="bold green" if supervised else "dim")
        print_line(text)
    if answer["samples"]:
        note("supervised tokens are " + ("in [[ ]]" if plain else "green"))


def _not_finite(found: dict[str, str]) -> str:
    """A sentence about the samples that a merge left out."""
    if not found:
        return ""
    name, where = next(iter(found.items()))
    return f"; {len(found):,} samples have states that are not finite and are left out, the first is {name} ({where})"


def _print_verification(answer: dict[str, Any]) -> None:
    out = console()
    for sentence in answer["damaged"]:
        print_line(Text(f"damaged: {sentence}", style="red"))
    for name, where in answer["not_finite"].items():
        print_line(Text(f"states that are not finite: sample {name} ({where})", style="red"))
    print_table(
        ("sample", "tokens", "cosine", "least of a token", "max error", ""),
        [
            (
                entry["id"],
                f"{entry['tokens']:,}",
                f"{entry['cosine']:.6f}",
                f"{entry['least_token_cosine']:.6f}",
                f"{entry['max_error']:.4g}",
                "" if entry["ok"] else "WRONG",
            )
            for entry in answer["samples"]
        ],
    )
    good = answer["shards"] - len(answer["damaged"])
    print_line(
        f"{good} of {answer['shards']} shards have their checksum; re-forwarded with {answer['base']} in "
        f"{answer['dtype']}: cosine at least {answer['cosine']:.6f}, error at most {answer['max_error']:.4g}"
    )
    verdict = Text("the dataset is good", style="green") if answer["ok"] else Text("the dataset is bad", style="red")
    out.print(verdict)
