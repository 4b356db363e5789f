"""`hetspec-core draft`: inspect drafts, import and export them, count the tokens that they shall propose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hetspec_core.cli.console import console, note, print_json, print_line, print_table
from hetspec_core.cli.engine_command import ask_engine, push_folder
from hetspec_core.cli.options import JsonFlag
from hetspec_core.config import load_base
from hetspec_core.errors import CheckpointError, UsageError
from hetspec_core.service.cards import draft_card, draft_origins
from hetspec_core.service.workbench import Workbench

app = typer.Typer(
    help="Drafts in and out of other programs' layouts: inspect, import, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

DraftWord = Annotated[
    str, typer.Argument(metavar="RUN_OR_DIR", help="Training run, its folder, or a draft directory of any layout.")
]
BaseOption = Annotated[
    str | None, typer.Option(help="Base preset: load the draft onto it, and take the default layers of its depth.")
]
_EXCHANGE = "hetspec_core.engine.stages.draft_exchange"


@app.command()
def inspect(draft: DraftWord, base: BaseOption = None, json: JsonFlag = False) -> None:
    """Show the layout of a draft, what was inferred from its files, and what becomes of every tensor."""
    words = ["inspect", str(_folder(draft)), *_base_words(base)]
    answer = ask_engine(_EXCHANGE, words, doing="reading the draft")
    print_json(answer) if json else _print_draft(answer)


@app.command(name="import")
def import_draft(
    source: Annotated[Path, typer.Argument(help="Directory of EAGLE-1/2, EAGLE-3, specforge_het or speculators.")],
    target: Annotated[Path, typer.Argument(help="New directory for HetSpec's draft.")],
    base: BaseOption = None,
    json: JsonFlag = False,
) -> None:
    """Import a draft of another program. Its layout is recognised; nothing but plain tensors is unpickled."""
    words = ["import", str(source.expanduser().absolute()), str(target.expanduser().absolute()), *_base_words(base)]
    answer = ask_engine(_EXCHANGE, words, doing="importing the draft")
    if json:
        print_json(answer)
        return
    _print_draft(answer)
    if base is None:
        note("not loaded onto a base; --base PRESET does so")
    note(f'next: hetspec-core bench --draft {target}   hetspec-core generate "..." --draft {target}')


@app.command()
def export(
    draft: DraftWord,
    target: Annotated[Path, typer.Argument(help="New directory; never inside the draft.")],
    layout: Annotated[
        str, typer.Option(help="eagle (SGLang and the authors), eagle3 (SGLang, SpecForge), speculators (vLLM).")
    ],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; as stored when absent.")] = "",
    json: JsonFlag = False,
) -> None:
    """Write a draft for another program, read it back and compare every tensor."""
    words = ["export", str(_folder(draft)), str(target.expanduser().absolute()), "--layout", layout, "--dtype", dtype]
    answer = ask_engine(_EXCHANGE, words, doing="exporting the draft")
    if json:
        print_json(answer)
        return
    print_line(f"{answer['architecture']}, {answer['parameters']:,} parameters, in {answer['folder']}")
    rows = [(name, _shape(about), about["dtype"]) for name, about in answer["tensors"].items()]
    print_table(("tensor", "shape", "type"), rows)
    if answer["token_map"]:
        note(f"tokens of the reduced vocabulary: {answer['token_map']}")
    for line in answer["notes"]:
        note(line)


@app.command()
def count(
    draft: DraftWord,
    dataset: Annotated[
        str, typer.Argument(metavar="RUN_OR_FILE", help="Dataset run, its folder, or a file of conversations.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Base preset, whose tokenizer and template a file of conversations is read with.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Count the tokens of the answers in a dataset and keep the counts beside a draft, for `--draft-vocab`.

    Drafts that are trained here have their counts already.
    """
    from hetspec_core.cli.engine_command import ask_engine
    from hetspec_core.service.workbench import Workbench

    source = Path(dataset).expanduser().absolute()
    if not source.is_file():
        with Workbench() as workbench:
            source = workbench.resolve_input(dataset, "hidden_states")
    words = ["count", str(_folder(draft)), str(source), *_base_words(base)]
    answer = ask_engine(_EXCHANGE, words, doing="counting tokens")
    if json:
        print_json(answer)
        return
    console().print(_counted(answer), soft_wrap=True)
    rows = [(f"{int(size):,}", f"{share:.1%}") for size, share in answer["coverage"].items()]
    if rows:
        print_table(("commonest tokens", "expected share of new text"), rows)
    note(f"written to {answer['file']}")


@app.command()
def doctor(
    draft: DraftWord,
    base: Annotated[str, typer.Option(help="Base preset that it is to draft for.")],
    dataset: Annotated[
        str | None, typer.Option(metavar="RUN_OR_DIR", help="Hidden states that it was trained on.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    json: JsonFlag = False,
) -> None:
    """Find why a draft does not do what it did in training: hashes, layers, norms, vocabulary, stored states, and the
    logits of training against those of decoding. It names the first fault and what to do.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device is {device!r}; allowed: auto, cpu, cuda")
    words = [str(_folder(draft)), *_base_words(base), "--device", device]
    if dataset is not None:
        with Workbench() as workbench:
            words += ["--dataset", str(workbench.resolve_input(dataset, "hidden_states"))]
    answer = ask_engine("hetspec_core.engine.stages.draft_doctor", words, doing="examining the draft")
    if json:
        print_json(answer)
    else:
        findings = answer["findings"]
        print_table(
            ("property", "", "what is the case"), [(each["name"], each["state"], each["seen"]) for each in findings]
        )
        for each in findings:
            if each["state"] == "doubtful" and each["advice"]:
                note(f"{each['name']}: {each['advice']}")
        first = answer["first"]
        if first is None:
            console().print("nothing is wrong with it", style="green")
        else:
            print_line(f"wrong first: {first['name']}: {first['seen']}", style="red")
            print_line(f"do this: {first['advice']}")
    if not answer["ok"]:
        raise typer.Exit(CheckpointError.exit_code)


@app.command()
def push(
    draft: DraftWord,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Model repository on the hub.")],
    base: BaseOption = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and print the card; send nothing.")
    ] = False,
    card: Annotated[
        Path | None, typer.Option(help="File for the card of --dry-run; one that exists is refused. stdout if absent.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Send a draft to the hub, with a card of its recipe and of what was measured. The token is taken from HF_TOKEN."""
    with Workbench() as workbench:
        folder = workbench.resolve_input(draft, "draft").absolute()
        text = draft_card(draft_origins(workbench, folder), repository, load_base(base) if base else None)
    push_folder(folder, repository, text, kind="model", private=private, dry_run=dry_run, card_file=card, json=json)


def _folder(draft: str) -> Path:
    with Workbench() as workbench:
        return workbench.resolve_input(draft, "draft").absolute()


def _base_words(preset: str | None) -> list[str]:
    if preset is None:
        return []
    return ["--base", load_base(preset).model_dump_json()]


def _counted(counts: dict[str, Any]) -> str:
    return (
        f"{counts['tokens']:,} tokens counted ({counts['source']}), {counts['different']:,} different of "
        f"{counts['vocab_size']:,}"
    )


def _print_draft(answer: dict[str, Any]) -> None:
    out = console()
    size = f"{answer['hidden_size']}" + (
        f" on a base of {answer['base_hidden_size']}" if answer["hidden_size"] != answer["base_hidden_size"] else ""
    )
    rows = [
        ("layout", answer["layout"]),
        ("algorithm", answer["algorithm"]),
        ("backbone", f"{answer['layers']} x {answer['model_type']}, hidden size {size}"),
        ("vocabulary", f"{answer['draft_vocab_size']:,} of {answer['base_vocab_size']:,}"),
        ("base layers", ", ".join(map(str, answer["captured_layers"])) or "final"),
        ("parameters", f"{answer['parameters']:,}"),
    ]
    if answer.get("token_counts"):
        rows.append(("token counts", _counted(answer["token_counts"])))
    if answer.get("base"):
        rows.append(("base", str(answer["base"])))
    if answer.get("fits_base"):
        rows.append(("fits", "the base: every tensor has its place"))
    print_table(("draft", ""), rows)
    if answer["inferred"]:
        out.print()
        print_table(("inferred", "value"), list(answer["inferred"].items()))
    out.print()
    tensors = [
        (each["name"], _shape(each), each["dtype"], each["from"] if each["from"] != each["name"] else None)
        for each in answer["tensors"]
    ]
    tensors += [("(dropped)", None, None, f"{name}: {reason}") for name, reason in answer["dropped"].items()]
    print_table(("tensor", "shape", "type", "in the files"), tensors)
    for line in answer["warnings"]:
        note(f"warning: {line}")


def _shape(about: dict[str, Any]) -> str:
    return " x ".join(str(size) for size in about["shape"])
