"""From a sweep to its runs: every combination, with what each stands on. It resolves specs and starts nothing.

A cell is known by its content: the hash of its spec without name and ids, and of the cells that it stands on. So the
same cell is found again however the file is written, and another cell is another run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hetspec_core.config.resolve import Resolved, resolve
from hetspec_core.errors import SpecError
from hetspec_core.service.sweeps.document import SweepSpec
from hetspec_core.spec import RunSpec

if TYPE_CHECKING:
    from hetspec_core.config.origins import Origin
    from hetspec_core.service.workbench import Workbench


@dataclass(frozen=True)
class SweepCell:
    """One run of a sweep.

    Attributes:
        key: hash of its content.
        label: what tells it from the others.
        spec: its spec, before it is linked to the run of its parent.
        parent: key of the cell that it stands on; empty when there is none.
        origins: dotted key -> where the value in its spec came from.
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
        """The resolved spec of the run, which takes what the run `parent` makes."""
        update: dict[str, Any] = {"name": name}
        if parent is not None:
            update["parents"] = (parent,)
            if self.stage == "train":
                update["training"] = self.spec.training.model_copy(update={"datasets": (parent,)})
            elif self.spec.draft is not None:
                update["draft"] = self.spec.draft.model_copy(update={"checkpoint": parent})
        return Resolved(self.spec.model_copy(update=update), dict(self.origins))


def expand(workbench: Workbench, sweep: SweepSpec) -> tuple[SweepCell, ...]:
    """The cells of a sweep, those that others stand on first. Equal cells are one.

    Raises:
        NotFoundError: a recipe, dataset or draft is not there.
        SpecError: a combination does not hold; all problems of all combinations are listed.
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
            trained = _cell(recipe, "train", options, _said(recipe, choice), parent, problems)
            if trained is None:
                continue
            cells.setdefault(trained.key, trained)
            if "bench" in sweep.stages:
                for bench in _grid(sweep.bench):
                    # What shapes the draft shapes the spec of its bench too, so that they fit.
                    options = dict(sweep.set) | choice | bench
                    label = _said(trained.label, bench)
                    measured = _cell(recipe, "bench", options, label, trained, problems)
                    if measured is not None:
                        cells.setdefault(measured.key, measured)
    for existing in sweep.drafts:
        folder = workbench.resolve_input(existing.draft, "draft").absolute()
        for bench in _grid(sweep.bench):
            options = dict(sweep.set) | {"draft.checkpoint": str(folder)} | bench
            label = _said(existing.name or existing.draft, bench)
            measured = _cell(existing.recipe, "bench", options, label, None, problems)
            if measured is not None:
                cells.setdefault(measured.key, measured)
    if problems:
        raise SpecError(f"sweep {sweep.name} does not hold", problems=problems, hint="docs/sweeps.md explains the file")
    order = {"dataset": 0, "train": 1, "bench": 2}
    return tuple(sorted(cells.values(), key=lambda cell: order[cell.stage]))


def _datasets(workbench: Workbench, sweep: SweepSpec, problems: list[str]) -> dict[str, SweepCell | str]:
    """Recipe -> its dataset: one that is there, or one to make, shared by all recipes that could be trained on it."""
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
    """Content of a cell. What a stage does not use does not count: other prompts make no other training."""
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


def _said(head: str, choice: Mapping[str, Any]) -> str:
    return " ".join([head, *(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in choice.items())])


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
