"""The file of a sweep, and its cells: every combination of values, with the cell that each depends on.

The key of a cell is a hash of its spec without name and ids, and of the key of its parent. So an equal cell is found
again after the file is rewritten, and another cell is another run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from hetspec_core.config.resolve import Resolved, resolve
from hetspec_core.documents import DocumentError, flatten, read_toml
from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.spec import RunSpec
from hetspec_core.spec.decode import Spec, decode

if TYPE_CHECKING:
    from hetspec_core.config.origins import Origin
    from hetspec_core.service.workbench import Workbench


STAGES = ("dataset", "train", "bench")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HINT = "docs/sweeps.md shows a whole file"


class ExistingDraft(Spec):
    """An existing draft: it is measured, not trained."""

    draft: str = Field(min_length=1, description="Train run, or draft directory of any layout.")
    recipe: str = Field(min_length=1, description="Recipe that says what else a bench needs: base, decoding.")
    name: str = Field(default="", description="What it is called in tables; the run or directory when empty.")


class SweepSpec(Spec):
    """A grid of runs."""

    name: str = Field(description="Name of the sweep; its runs carry the tag sweep-NAME.")
    recipes: tuple[str, ...] = Field(default=(), description="Recipes whose drafts are trained and measured.")
    drafts: tuple[ExistingDraft, ...] = Field(default=(), description="Drafts that are measured as they are.")
    dataset: str | None = Field(default=None, description="Hidden states that are there already: run or directory.")
    stages: tuple[str, ...] = Field(default=STAGES, description="How far to go: dataset, train, bench.")
    set: dict[str, Any] = Field(default_factory=dict, description="Keys that all runs have.")
    train: dict[str, Any] = Field(default_factory=dict, description="Key -> values that trainings take, each.")
    bench: dict[str, Any] = Field(default_factory=dict, description="Key -> values that benches take, each.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"name is {name!r}; letters, digits, dots, dashes and underscores are allowed")
        return name

    @model_validator(mode="after")
    def _check(self) -> SweepSpec:
        if not self.recipes and not self.drafts:
            raise ValueError("there is nothing to sweep over: name recipes to train or drafts to measure")
        if list(self.stages) != [stage for stage in STAGES if stage in self.stages] or not self.stages:
            raise ValueError(f"stages is {list(self.stages)}; allowed are some of {', '.join(STAGES)}, in this order")
        if self.drafts and "bench" not in self.stages:
            raise ValueError("drafts that are there already can only be measured, and stages has no bench")
        return self

    @property
    def tag(self) -> str:
        """The tag of its runs."""
        return f"sweep-{self.name}"


def read_sweep(path: Path) -> SweepSpec:
    """Read the file of a sweep.

    Raises:
        NotFoundError: it is not there.
        SpecError: it is not TOML, or not valid; every problem is listed.
    """
    try:
        data = read_toml(path, streams=True)
    except OSError as error:
        raise NotFoundError(f"the sweep {path} cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise SpecError(f"{path} {error}", hint=_HINT) from None
    data.setdefault("name", path.stem)
    for key in ("set", "train", "bench"):
        if isinstance(data.get(key), Mapping):
            data[key] = flatten(data[key], keep_empty=False)
    spec, problems = decode(SweepSpec, data)
    if spec is None:
        raise SpecError(f"{path} does not hold", problems=[str(problem) for problem in problems], hint=_HINT)
    wrong = [
        f"{part}.{key} is {value!r}; a grid needs a list of values"
        for part in ("train", "bench")
        for key, value in getattr(spec, part).items()
        if not isinstance(value, list) or not value
    ]
    if wrong:
        raise SpecError(f"{path} does not hold", problems=wrong, hint=_HINT)
    return spec


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep.

    Attributes:
        key: hash of its content.
        label: name that is unique in the sweep.
        spec: its spec, before it is linked to the run of its parent.
        parent: key of the cell that it depends on; empty when there is none.
        origins: dotted key -> origin of the value in its spec.
    """

    key: str
    label: str
    spec: RunSpec
    parent: str = ""
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)

    @property
    def stage(self) -> str:
        return self.spec.stage

    def linked(self, name: str, parent: str | None) -> Resolved:
        """The resolved spec of the run, whose input is what the run `parent` makes."""
        update: dict[str, Any] = {"name": name}
        if parent is not None:
            update["parents"] = (parent,)
            if self.stage == "train":
                update["training"] = self.spec.training.model_copy(update={"datasets": (parent,)})
            elif self.spec.draft is not None:
                update["draft"] = self.spec.draft.model_copy(update={"checkpoint": parent})
        return Resolved(self.spec.model_copy(update=update), dict(self.origins))


def expand(workbench: Workbench, sweep: SweepSpec) -> tuple[SweepCell, ...]:
    """The cells of a sweep, parents first. Equal cells are one.

    Raises:
        NotFoundError: a recipe, dataset or draft does not exist.
        SpecError: a combination is not valid; all problems of all combinations are listed.
    """
    cells: dict[str, SweepCell] = {}
    problems: list[str] = []
    datasets = _datasets(workbench, sweep, problems)
    for recipe in sweep.recipes:
        parent = datasets.get(recipe)
        if isinstance(parent, SweepCell):
            cells.setdefault(parent.key, parent)
        if "train" not in sweep.stages:
            continue
        for choice in _grid(sweep.train):
            options = dict(sweep.set) | choice
            if isinstance(parent, str):
                options["training.datasets"] = [parent]
            trained = _cell(recipe, "train", options, _label(recipe, choice), parent, problems)
            if trained is None:
                continue
            cells.setdefault(trained.key, trained)
            if "bench" in sweep.stages:
                for bench in _grid(sweep.bench):
                    # A value that shapes the draft is also in the spec of its bench, so that they fit.
                    options = dict(sweep.set) | choice | bench
                    label = _label(trained.label, bench)
                    measured = _cell(recipe, "bench", options, label, trained, problems)
                    if measured is not None:
                        cells.setdefault(measured.key, measured)
    for existing in sweep.drafts:
        folder = workbench.resolve_input(existing.draft, "draft").absolute()
        for bench in _grid(sweep.bench):
            options = dict(sweep.set) | {"draft.checkpoint": str(folder)} | bench
            label = _label(existing.name or existing.draft, bench)
            measured = _cell(existing.recipe, "bench", options, label, None, problems)
            if measured is not None:
                cells.setdefault(measured.key, measured)
    if problems:
        raise SpecError(f"sweep {sweep.name} does not hold", problems=problems, hint="docs/sweeps.md explains the file")
    order = {"dataset": 0, "train": 1, "bench": 2}
    return tuple(sorted(cells.values(), key=lambda cell: order[cell.stage]))


def _datasets(workbench: Workbench, sweep: SweepSpec, problems: list[str]) -> dict[str, SweepCell | str]:
    """Recipe -> its dataset: an existing one, or a cell that is shared by all recipes that can train on it."""
    if not sweep.recipes:
        return {}
    if sweep.dataset is not None:
        folder = str(workbench.resolve_input(sweep.dataset, "hidden_states").absolute())
        return dict.fromkeys(sweep.recipes, folder)
    shared: dict[str, list[str]] = {}
    made: dict[str, SweepCell] = {}
    layers: dict[str, set[int]] = {}
    for recipe in sweep.recipes:
        # A grid may choose other algorithms, which read other layers.
        for choice in _grid(sweep.train):
            cell = _cell(recipe, "dataset", dict(sweep.set) | choice, "dataset", None, problems)
            if cell is None:
                continue
            bare = cell.spec.model_copy(
                update={"dataset": cell.spec.dataset.model_copy(update={"layers": ()}), "draft": None}
            )
            about = bare.model_dump(mode="json", include={"base", "dataset", "resources"})
            group = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
            layers.setdefault(group, set()).update(cell.spec.dataset.layers)
            made.setdefault(group, replace(cell, spec=bare, label=f"{cell.spec.base.name} dataset"))
            if recipe not in shared.setdefault(group, []):
                shared[group].append(recipe)
    found: dict[str, SweepCell | str] = {}
    for group, recipes in shared.items():
        cell = made[group]
        data = cell.spec.dataset.model_copy(update={"layers": tuple(sorted(layers[group]))})
        spec = cell.spec.model_copy(update={"dataset": data, "recipe": recipes[0]})
        found |= dict.fromkeys(recipes, replace(cell, spec=spec, key=_key(spec, "")))
    return found


def _cell(
    recipe: str,
    stage: str,
    options: Mapping[str, Any],
    label: str,
    parent: SweepCell | str | None,
    problems: list[str],
) -> SweepCell | None:
    above = parent.key if isinstance(parent, SweepCell) else ""
    try:
        resolved = resolve(recipe, stage=stage, options=options)
    except SpecError as error:
        found = [f"{label} ({stage}): {problem}" for problem in error.problems or [error.message]]
        problems += [problem for problem in found if problem not in problems]
        return None
    return SweepCell(_key(resolved.spec, above), label, resolved.spec, above, resolved.origins)


def _key(spec: RunSpec, parent: str) -> str:
    """Key of a cell. Sections that the stage does not use are left out: other prompts make no other training."""
    unused = {
        "dataset": {"training", "decoding", "bench", "algorithm", "draft", "recipe"},
        "train": {"dataset", "bench"},
        "bench": {"dataset", "training"},
    }[spec.stage]
    about = spec.model_dump(mode="json", exclude={"name", "parents", "prompts", *unused})
    canonical = json.dumps([about, parent], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _grid(axes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of one value of each key."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _label(head: str, choice: Mapping[str, Any]) -> str:
    return " ".join([head, *(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in choice.items())])


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
