"""`hetspec-core presets` and `catalog`: what can be chosen. Presets with the origin of every value, and the cards."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import tomli_w
import typer

from hetspec_core.catalog import broken, list_cards
from hetspec_core.cli.console import print_data, print_json, print_table, say
from hetspec_core.cli.options import JsonFlag
from hetspec_core.config import library, resolve
from hetspec_core.config.library import PresetFile, find_anywhere, load_file
from hetspec_core.config.origins import leaves
from hetspec_core.errors import UsageError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
catalog_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

StageOption = Annotated[str, typer.Option("--stage", help="Stage that a recipe is resolved for.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE over a recipe, the value as TOML; may be repeated.")
]


@app.callback()
def presets() -> None:
    """List, show, compare and copy presets."""


@app.command("list")
def list_presets(
    kind: Annotated[str | None, typer.Argument(help="base, draft, algorithm or recipe; all when absent.")] = None,
    json: JsonFlag = False,
) -> None:
    """List presets; yours replace the shipped ones of the same name."""
    listed = library.list_presets(kind)
    if json:
        print_json([{**_about(item.file), "summary": item.summary, "problem": item.problem} for item in listed])
        return
    rows = [
        (
            item.file.kind,
            item.file.name,
            f"cannot be read: {item.problem}" if item.problem else item.summary,
            _owner(item.file),
        )
        for item in listed
    ]
    print_table(("kind", "name", "summary", "whose"), rows)


@app.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(help="Name, or kind/name.")],
    explain: Annotated[bool, typer.Option("--explain", help="Show where every value comes from.")] = False,
    stage: StageOption = "train",
    overrides: SetOption = None,
    json: JsonFlag = False,
) -> None:
    """Show a recipe as the run spec it resolves to, and any other preset with what it extends."""
    file = find_anywhere(name)
    rows = _values(file, stage, overrides or [])
    lineage = [item.reference for item in load_file(file).lineage[1:]]
    if json:
        values: Any = _tree(rows)
        if explain:
            values = [{"key": key, "value": value, "source": source} for key, value, source in rows]
        print_json({**_about(file), "extends": lineage, "values": values})
    elif explain:
        extends = f", extends {', '.join(lineage)}" if lineage else ""
        print_table(("key", "value", "source"), rows, title=f"{file.reference} ({_owner(file)}{extends})")
    else:
        print_data(tomli_w.dumps(_tree(rows)))


@app.command("diff")
def diff_presets(
    first: Annotated[str, typer.Argument(help="Name, or kind/name.")],
    second: Annotated[str, typer.Argument(help="Another of the same kind.")],
    stage: StageOption = "train",
    json: JsonFlag = False,
) -> None:
    """Show the keys in which two presets differ, recipes after they are resolved."""
    files = find_anywhere(first), find_anywhere(second)
    if files[0].kind != files[1].kind:
        raise UsageError(f"{files[0].reference} and {files[1].reference} are of different kinds and cannot be compared")
    left, right = ({key: value for key, value, _ in _values(file, stage, [])} for file in files)
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key) and key != "recipe"]
    rows = [(key, left.get(key), right.get(key)) for key in keys]
    if json:
        print_json([{"key": key, "first": before, "second": after} for key, before, after in rows])
    elif rows:
        print_table(("key", files[0].name, files[1].name), rows)
    else:
        say("no difference")


@app.command("copy")
def copy_preset(
    name: Annotated[str, typer.Argument(help="Name, or kind/name.")],
    new: Annotated[str, typer.Argument(help="Name of the copy.")],
    json: JsonFlag = False,
) -> None:
    """Copy a preset into your folder, to be edited there."""
    path = library.copy_preset(name, new)
    if json:
        print_json({"path": str(path)})
    else:
        say(str(path))


@app.command("path")
def preset_path(
    shipped: Annotated[bool, typer.Option("--shipped", help="The folder of the shipped presets instead.")] = False,
    json: JsonFlag = False,
) -> None:
    """Print the folder of your presets."""
    if json:
        print_json({"user": str(library.user_folder()), "shipped": str(library.shipped_folder())})
    else:
        say(str(library.shipped_folder() if shipped else library.user_folder()))


def _about(file: PresetFile) -> dict[str, Any]:
    return {
        "kind": file.kind,
        "name": file.name,
        "path": str(file.path),
        "shipped": file.shipped,
        "overrides": file.overrides,
    }


def _owner(file: PresetFile) -> str:
    if file.shipped:
        return "shipped"
    return "yours, over the shipped one" if file.overrides else "yours"


def _values(file: PresetFile, stage: str, overrides: list[str]) -> list[tuple[str, Any, str]]:
    """(dotted key, value, source): a recipe resolved, another preset as it is written."""
    if file.kind == "recipe":
        return list(resolve(file.name, stage=stage, overrides=overrides).explain())
    if overrides:
        raise UsageError(f"--set is for recipes; {file.reference} is not one")
    return [(".".join(key), leaf.value, str(leaf.place)) for key, leaf in leaves(load_file(file).table)]


def _tree(rows: list[tuple[str, Any, str]]) -> dict[str, Any]:
    """Nested tables from dotted keys, without absent values."""
    tree: dict[str, Any] = {}
    for key, value, _ in rows:
        if value is None:
            continue
        *parents, last = key.split(".")
        table = tree
        for name in parents:
            table = table.setdefault(name, {})
        table[last] = value
    return tree


@catalog_app.command()
def catalog(
    axis: Annotated[str | None, typer.Argument(help="One axis, e.g. backbones; all when absent.")] = None,
    json: JsonFlag = False,
) -> None:
    """List algorithms, backbones, formats, stages, executors and backends."""
    cards, faults = list_cards(axis), broken()
    if json:
        print_json(
            {
                "cards": [
                    {
                        "axis": card.axis,
                        "name": card.name,
                        "summary": card.summary,
                        "target": card.target,
                        "options": card.options,
                        "capabilities": dict(card.capabilities),
                        "source": card.source,
                        "provider": card.provider,
                    }
                    for card in cards
                ],
                "broken": [{"entry": item.entry, "provider": item.provider, "reason": item.reason} for item in faults],
            }
        )
        return
    rows = [(card.axis, card.name, card.summary, card.source or None, card.provider) for card in cards]
    print_table(("axis", "name", "summary", "source", "provider"), rows)
    for item in faults:
        say(f"not usable: {item.entry} of {item.provider}: {item.reason}", file=sys.stderr)
