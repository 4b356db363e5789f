"""A run or a draft directory in the place of a recipe.

A run has its whole spec; a draft of HetSpec names its run, recipe and base; a draft of another program names its base.
The rest comes from the recipe of that base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetspec_core.catalog import list_cards
from hetspec_core.config import library, load_base, resolve
from hetspec_core.config.library import Preset, PresetFile
from hetspec_core.config.origins import Leaf, Place, to_table
from hetspec_core.config.resolve import Resolved, resolve_preset
from hetspec_core.documents import DocumentError, read_json
from hetspec_core.errors import HetSpecError, NotFoundError
from hetspec_core.paths import RunPaths
from hetspec_core.service.drafts import find_draft
from hetspec_core.spec import AlgorithmSpec, RunSpec
from hetspec_core.spec.run import read_spec

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

_OF_THE_RUN = ("schema_version", "stage", "recipe", "name", "parents", "prompts")
_ORIGIN_BASE = "speculative_decoding_base_model_path"
_ORIGIN_RUN = "specforge_het.json"


@dataclass(frozen=True)
class Saved:
    """What a run or a draft directory is, as a configuration.

    Attributes:
        spec: of the run itself, or of the run that made the draft; None when that run is not here.
        recipe: used when there is no spec.
        draft: the draft directory; None when there is none.
    """

    spec: RunSpec | None
    recipe: str
    draft: Path | None


def find_saved(workbench: Workbench, word: str) -> Saved:
    """The saved configuration of a run, a run folder or a draft directory of any layout.

    Raises:
        NotFoundError: it does not exist, or names nothing by which a recipe is found.
        SpecError: its spec cannot be read by this version.
    """
    folder = Path(word).expanduser()
    if not folder.is_dir():
        folder = workbench.paths(workbench.resolve_run(word)).folder
    spec = _spec_in(folder) or _spec_in(folder.parent)
    if spec is not None:
        checkpoint = spec.draft.checkpoint if spec.draft is not None and spec.stage != "train" else None
        if (RunPaths(folder).draft / "config.json").is_file() or (folder / "config.json").is_file():
            return Saved(spec, spec.recipe, workbench.resolve_input(str(folder), "draft"))
        return Saved(spec, spec.recipe, workbench.resolve_input(checkpoint, "draft") if checkpoint else None)
    draft = workbench.resolve_input(word, "draft")
    about = _table(_json(draft / "config.json").get("hetspec"))
    run_id = str(about.get("run_id") or "")
    trained = _spec_in(workbench.paths(run_id).folder) if run_id else None
    if trained is not None:
        return Saved(trained, trained.recipe, draft)
    recipe = str(about.get("recipe") or "")
    if recipe in library.preset_files("recipe"):
        return Saved(None, recipe, draft)
    return Saved(None, _recipe_of(str(about.get("base") or _origin_base(draft)), draft, _algorithm_of(draft)), draft)


def resolve_saved(
    workbench: Workbench,
    recipe: str,
    saved: str | None,
    *,
    stage: str,
    overrides: Sequence[str] = (),
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Resolved:
    """As `config.resolve`; a saved configuration replaces the recipe."""
    if saved is None:
        return resolve(recipe, stage=stage, overrides=overrides, file=file, options=options)
    found = find_saved(workbench, saved)
    if found.spec is None:
        return resolve(found.recipe, stage=stage, overrides=overrides, file=file, options=options)
    return resolve_preset(_as_preset(found.spec, saved), stage=stage, overrides=overrides, file=file, options=options)


def saved_draft(
    workbench: Workbench,
    draft: str | None,
    saved: str | None,
    base: str,
    *,
    say: Callable[[str], None] | None = None,
) -> Path:
    """The named draft, else that of the saved configuration, else the default one of `find_draft`.

    Raises:
        NotFoundError: there is none.
    """
    if draft is None and saved is not None:
        found = find_saved(workbench, saved).draft
        if found is None:
            raise NotFoundError(f"{saved} has no draft", hint="name one with --draft, or decode with --plain")
        return found
    return find_draft(workbench, draft, base, say=say)


def measured_draft(
    workbench: Workbench,
    draft: str | None,
    saved: str | None,
    spec: RunSpec,
    *,
    say: Callable[[str], None] | None = None,
) -> Path | None:
    """As `saved_draft`; None when none is named and the run uses a running server, which has its own.

    Raises:
        NotFoundError: there is none.
    """
    if draft is None and saved is None and spec.backend == "sglang" and spec.sglang.url:
        return None
    return saved_draft(workbench, draft, saved, spec.base.name, say=say)


def _as_preset(spec: RunSpec, word: str) -> Preset:
    data = spec.model_dump(mode="json", exclude=set(_OF_THE_RUN), exclude_none=True)
    if spec.draft is not None:
        data["draft"].pop("checkpoint", None)  # the draft that it started from, not the one that it made
    data["bench"].pop("limit", None)
    file = PresetFile("recipe", spec.recipe or "saved", Path(word), shipped=False)
    place = Place("file", f"the saved configuration of {word}")
    return Preset(file, to_table(data, lambda _: place), (file,))


def _spec_in(folder: Path) -> RunSpec | None:
    path = RunPaths(folder).spec
    return read_spec(path) if path.is_file() else None


def _algorithm_of(draft: Path) -> str:
    """Card of the algorithm of a draft: that of its configuration, else the default of a spec."""
    for folder in (draft, draft / "draft_model"):
        config = _json(folder / "config.json")
        made_by = _table(config.get("hetspec")).get("algorithm")
        if isinstance(made_by, dict) and made_by.get("name"):
            return str(made_by["name"])
        architectures = config.get("architectures")
        named = (
            *(architectures if isinstance(architectures, list) else ()),
            config.get("speculators_model_type") or "",
        )
        for card in list_cards("algorithms"):
            word = card.capabilities.get("architecture_word")
            if isinstance(word, str) and any(word in str(name).lower() for name in named):
                return card.name
    return AlgorithmSpec().name


def _recipe_of(base: str, draft: Path, algorithm: str) -> str:
    """The recipe with the shortest lineage for a base preset or repository, if possible of the draft's algorithm."""
    names = [base]
    for name in library.preset_files("base"):
        try:
            source = load_base(name).source
        except HetSpecError:  # a preset of the user that is not valid
            continue
        if source.kind != "path" and base and source.repo_id.lower() == base.lower():
            names.append(name)
    fitting: list[tuple[bool, int, str]] = []
    for recipe in library.preset_files("recipe"):
        try:
            preset = library.load("recipe", recipe)
            if _chosen(preset, "base") in names:
                card = library.load("algorithm", _chosen(preset, "algorithm")).table.get("name")
                other = not isinstance(card, Leaf) or card.value != algorithm
                fitting.append((other, len(preset.lineage), recipe))
        except HetSpecError:
            continue
    if fitting:
        return min(fitting)[2]
    raise NotFoundError(
        f"{draft} is for {f'the base {base}' if base else 'a base that it does not name'}, and no recipe has that base",
        hint="name a recipe and --draft; a base of your own needs a base preset and a recipe, see docs/presets.md",
    )


def _chosen(preset: Preset, part: str) -> str:
    """Name of a recipe's preset for a part."""
    section = preset.table.get(part)
    leaf = section.get("preset") if isinstance(section, dict) else None
    return str(leaf.value) if isinstance(leaf, Leaf) else ""


def _origin_base(draft: Path) -> str:
    """The base that a combined model of specforge_het names, or the configuration of its run."""
    for folder in (draft, draft.parent, draft.parent.parent):
        combined = _json(folder / "config.json").get(_ORIGIN_BASE)
        run = _json(folder / _ORIGIN_RUN)
        named = combined or run.get("modeling.model_path") or run.get("model_path")
        if isinstance(named, str) and named:
            return named
    return ""


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, DocumentError):
        return {}
    return found if isinstance(found, dict) else {}
