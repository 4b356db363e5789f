"""Options of several commands, and options that are keys of the spec.

A command lists the keys of the spec that it has options for in one table, `{"--lr": "training.optimizer.lr"}`.
`spec_options` takes the type, the bounds and the help of each option from the field of the spec, and adds --set and
--file. The command receives all of it as one `SpecOptions`, which resolves to a spec.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from hetspec_core.config import Resolved, resolve
from hetspec_core.config.library import preset_files
from hetspec_core.errors import UsageError
from hetspec_core.spec import RunSpec, TreeSpec
from hetspec_core.spec.decode import did_you_mean
from hetspec_core.spec.run import spec_field

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

DEFAULT_RECIPE = "smollm2-llama-eagle"

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

RunWord = Annotated[str, typer.Argument(metavar="RUN", help="Run id, the beginning of one, or a run's name.")]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe preset; see `presets list recipe`.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Recipe preset; see `presets list recipe`.")]
FirstOrOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", help=f"Recipe preset, where it is not the first word; {DEFAULT_RECIPE} if neither names one."
    ),
]
GpusOption = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs to use, one worker on each; 0 = the CPU.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Workers on the CPU, which is then used whatever GPUs there are.")
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar="RUN_OR_DIR",
        help="Train run or draft directory; if absent the best by benches that compare, else the newest.",
    ),
]
SavedOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN_OR_DIR",
        help="Take configuration and draft of a run or draft directory, instead of a recipe and --draft.",
    ),
]

SpecValues = dict[str, Any]
"""Dotted key of the spec -> value. A key without a value, or with the value None, is left to the recipe."""


@dataclass
class SpecOptions:
    """What a command line puts over a recipe.

    Attributes:
        values: of the options that are keys of the spec; the command may add to them.
        overrides: words of --set, `KEY=VALUE`.
        file: the file of --file.
    """

    values: SpecValues = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    file: Path | None = None

    def resolve(self, workbench: Workbench, recipe: str, stage: str, *, saved: str | None = None) -> Resolved:
        """The spec of one stage of a recipe, or of the saved configuration in its place."""
        layers: dict[str, Any] = {"overrides": self.overrides, "file": self.file, "options": self.values}
        if saved is None:
            return resolve(recipe, stage=stage, **layers)
        from hetspec_core.service.saved import resolve_saved  # `presets` imports this file for its flags alone

        return resolve_saved(workbench, recipe, saved, stage=stage, **layers)

    def resolve_with_draft(
        self,
        workbench: Workbench,
        recipe: str,
        stage: str,
        find: Callable[[RunSpec], Path | None],
        *,
        saved: str | None = None,
    ) -> Resolved:
        """As `resolve`, with the draft that `find` gives for the spec without it; with --plain there is none."""
        if "decoding.plain" not in self.values:
            folder = find(self.resolve(workbench, recipe, stage, saved=saved).spec)
            if folder is not None:
                self.values["draft.checkpoint"] = str(folder)
        return self.resolve(workbench, recipe, stage, saved=saved)


_SHARED = (
    inspect.Parameter(
        "overrides",
        inspect.Parameter.KEYWORD_ONLY,
        default=[],
        annotation=Annotated[
            list[str],
            typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, e.g. decoding.tree=3/2/6."),
        ],
    ),
    inspect.Parameter(
        "file",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Path | None, typer.Option("--file", help="TOML file in the form of a recipe, put over it.")
        ],
    ),
)


def spec_options(table: Mapping[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command --set, --file, and an option for each key of a table. It receives them as its parameter `given`.

    The options have no default: what is not given comes from the recipe. The option of a list may be repeated, that of
    a truth value is a flag, and that of a tree takes depth/top_k/num_draft_tokens. --url and --engine imply sglang.

    Args:
        table: flag -> dotted key of the spec, e.g. `{"--lr": "training.optimizer.lr"}`.
    """
    options = [*(_option(flag, key) for flag, key in table.items()), *_SHARED]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**arguments: Any) -> None:
            found = {key: _value(spec_field(key), arguments.pop(_parameter(key))) for key in table.values()}
            values = _with_backend({key: value for key, value in found.items() if value is not None})
            given = SpecOptions(values, arguments.pop("overrides"), arguments.pop("file"))
            command(given=given, **arguments)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            parameters += options if parameter.name == "given" else [parameter]
        setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010 - Typer reads it
        return run

    return decorate


def _option(flag: str, key: str) -> inspect.Parameter:
    """The parameter of a key, in the form that Typer reads."""
    field = spec_field(key)
    kind, repeated = _kind(field)
    about = (field.description or "").rstrip(".")
    if kind is TreeSpec:
        about += ", as depth/top_k/num_draft_tokens (top_k 1 is a chain), or auto" if repeated else ""
    words = ("N", *found) if (found := _words_beside_numbers(kind)) else ()
    low, high = (None, None) if repeated else _bounds(field, kind)
    option = typer.Option(
        flag,
        help=f"{about}; may be repeated." if repeated else f"{about}.",
        metavar="|".join(get_args(kind)) if get_origin(kind) is Literal else "|".join(words) if words else None,
        min=low,
        max=high,
    )
    simple: Any = kind if kind in (bool, int, float) else str
    optional = list[simple] if repeated else bool if simple is bool else simple | None
    return inspect.Parameter(
        _parameter(key),
        inspect.Parameter.KEYWORD_ONLY,
        default=[] if repeated else False if simple is bool else None,
        annotation=Annotated[optional, option],
    )


def _parameter(key: str) -> str:
    return key.replace(".", "__")


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """The type of one value, and whether the field is a list of them."""
    branches = get_args(field.annotation)
    if get_origin(field.annotation) is tuple:
        return branches[0], True
    present = [branch for branch in branches if branch is not type(None)]
    return (present[0], False) if len(present) < len(branches) else (field.annotation, False)


def _bounds(field: FieldInfo, kind: Any) -> tuple[int | None, int | None]:
    """Least and greatest value that Typer can check; an excluded bound is one only for whole numbers."""
    found = {name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "lt") if hasattr(item, name)}
    if kind is not int:
        return found.get("ge"), None
    low, high = found.get("gt"), found.get("lt")
    return found.get("ge") if low is None else low + 1, None if high is None else high - 1


def _value(field: FieldInfo, given: Any) -> Any:
    """What an option gives for its key; None where it is not given."""
    kind, repeated = _kind(field)
    if _words_beside_numbers(kind):
        words = [_number_or_word(word) for word in (given if repeated else [given]) if word is not None]
        return (words if repeated else words[0]) if words else None
    if kind is not TreeSpec:
        return given or None if repeated or kind is bool else given
    if repeated:
        return trees_of(given)
    return None if given is None else (trees_of([given]) or [None])[0]


def _words_beside_numbers(kind: Any) -> tuple[str, ...]:
    """The words that a kind takes besides whole numbers; empty where it takes only one sort of value."""
    branches = get_args(get_args(kind)[0] if get_origin(kind) is Annotated else kind)
    words = [get_args(branch) for branch in branches if get_origin(branch) is Literal]
    return words[0] if int in branches and words else ()


def _number_or_word(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else text


BACKEND_OPTIONS = {"--backend": "backend", "--url": "sglang.url"}


def _with_backend(values: SpecValues) -> SpecValues:
    """The values with the backend that a URL or --engine stands for.

    Raises:
        UsageError: a URL is given for another backend.
    """
    backend, url = values.pop("backend", None), values.get("sglang.url")
    if url and backend not in (None, "", "sglang"):
        raise UsageError(f"--url names a server of SGLang, and --backend is {backend}", hint="leave one of them out")
    if url or (backend is None and "sglang.engine" in values):
        backend = "sglang"
    return values | ({"backend": backend} if backend else {})


def recipe_and_texts(words: list[str], recipe: str | None, saved: str | None) -> tuple[str, list[str]]:
    """Which recipe is meant, and the texts that are left, of a command line `[RECIPE] TEXT...`.

    The first word is the recipe if a recipe has that name, and if --recipe does not name one. Any other word is a text.

    Args:
        words: the arguments.
        recipe: the value of --recipe.
        saved: the value of --from, which takes the place of a recipe.

    Raises:
        UsageError: the first word is nearly the name of a recipe, or it is one beside --from.
    """
    if recipe is not None or not words:
        return recipe or DEFAULT_RECIPE, words
    first, recipes = words[0].removeprefix("recipe/"), preset_files("recipe")
    if first in recipes:
        if saved is not None:
            raise UsageError(
                f"{words[0]} is the name of a recipe, and --from {saved} takes the place of a recipe",
                hint="leave one of them out",
            )
        return first, words[1:]
    near = did_you_mean(first, recipes) if "-" in first and not any(map(str.isspace, first)) else ""
    if near and saved is None:
        raise UsageError(f"there is no recipe {first!r}{near}", hint="if it is a text, name the recipe with --recipe")
    return DEFAULT_RECIPE, words


def trees_of(words: list[str]) -> list[dict[str, Any]] | None:
    """Tree shapes from depth/top_k/num_draft_tokens or auto, or None when no word is given.

    Raises:
        UsageError: a word has another form.
    """
    shapes = []
    for word in words:
        try:
            shapes.append(TreeSpec.parse(word).model_dump())
        except ValidationError as error:
            raise UsageError(f"--tree {word}: {error.errors()[0]['msg']}") from error
        except ValueError as error:
            raise UsageError(f"--tree: {error}") from error
    return shapes or None


def worker_options(gpus: int | None, workers: int | None) -> SpecValues:
    """Keys of the resources for a number of GPUs, or of workers on the CPU.

    Raises:
        UsageError: both are given.
    """
    if gpus and workers:
        raise UsageError(
            f"--gpus {gpus} and --workers {workers} exclude each other",
            hint="each GPU has one worker; --workers is for the CPU",
        )
    device = "cpu" if workers or gpus == 0 else None
    given = {"resources.num_gpus": gpus, "resources.num_workers": workers, "resources.device": device}
    return {key: value for key, value in given.items() if value is not None}
