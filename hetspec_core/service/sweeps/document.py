"""The file of a sweep: which drafts, and which keys take which values. It knows TOML, not what comes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from hetspec_core.documents import DocumentError, flatten, read_toml
from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.spec.decode import Spec, decode

STAGES = ("dataset", "train", "bench")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ExistingDraft(Spec):
    """A draft that is there already: it is measured, not trained."""

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
        SpecError: it is no TOML file, or does not hold; every problem is listed.
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


_HINT = "docs/sweeps.md shows a whole file"
