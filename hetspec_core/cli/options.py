"""Options that several commands share, and what they mean: which recipe, which draft, which values on top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_RECIPE = "smollm2-llama-eagle"

RunWord = Annotated[str, typer.Argument(metavar="RUN", help="Run id, the beginning of one, or a run's name.")]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe preset; see `presets list recipe`.")]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Recipe preset; see `presets list recipe`.")]
FirstOrOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", help=f"Recipe preset, where it is not the first word; {DEFAULT_RECIPE} if neither names one."
    ),
]
SetOption = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, e.g. decoding.tree=3/2/6.")
]
FileOption = Annotated[Path | None, typer.Option("--file", help="TOML file in the form of a recipe, put over it.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the run.")]
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


BackendOption = Annotated[
    str | None, typer.Option("--backend", help="Who runs base and draft: builtin or sglang; see `catalog backends`.")
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Running server of SGLang, http://HOST:PORT; else one is started."),
]


def backend_options(backend: str | None, url: str | None) -> dict[str, Any]:
    """Keys of the spec for a backend; a URL means SGLang.

    Raises:
        UsageError: a URL is given for another backend.
    """
    from hetspec_core.errors import UsageError

    if url and backend not in (None, "", "sglang"):
        raise UsageError(f"--url names a server of SGLang, and --backend is {backend}", hint="leave one of them out")
    return spec_options(backend="sglang" if url else backend or None, sglang__url=url)


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
    from hetspec_core.config.library import preset_files
    from hetspec_core.errors import UsageError
    from hetspec_core.spec.decode import did_you_mean

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


def trees_of(words: list[str]) -> list[dict[str, int]] | None:
    """Tree shapes from depth/top_k/num_draft_tokens, or None when there is none.

    Raises:
        UsageError: one has another form.
    """
    from pydantic import ValidationError

    from hetspec_core.errors import UsageError
    from hetspec_core.spec import TreeSpec

    shapes = []
    for word in words:
        try:
            shapes.append(TreeSpec.parse(word).model_dump())
        except ValidationError as error:
            raise UsageError(f"--tree {word}: {error.errors()[0]['msg']}") from error
        except ValueError as error:
            raise UsageError(f"--tree: {error}") from error
    return shapes or None


def spec_options(**values: Any) -> dict[str, Any]:
    """Dotted spec keys for a command's own options; `bench__trees=x` stands for `bench.trees`."""
    return {key.replace("__", "."): value for key, value in values.items()}


def worker_options(gpus: int | None, workers: int | None) -> dict[str, Any]:
    """Keys of the resources for a number of GPUs, or of workers on the CPU.

    Raises:
        UsageError: both are given.
    """
    from hetspec_core.errors import UsageError

    if gpus and workers:
        raise UsageError(
            f"--gpus {gpus} and --workers {workers} exclude each other",
            hint="each GPU has one worker; --workers is for the CPU",
        )
    device = "cpu" if workers or gpus == 0 else None
    return spec_options(resources__num_gpus=gpus, resources__num_workers=workers, resources__device=device)
