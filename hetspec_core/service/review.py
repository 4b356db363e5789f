"""Everything that can be said of a choice before it is started: values and their origins, faults, costs, what fits.

It looks and starts nothing. Nothing that a user can say makes it fail: what does not hold is a fault with its key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from hetspec_core.errors import HetSpecError, ResourceError, SpecError
from hetspec_core.service.gpus import gpu_request
from hetspec_core.service.launch import (
    LaunchRequest,
    Pair,
    check_inputs,
    linked,
    pairs,
    resolve_choice,
    resolve_stage,
    with_folders,
)
from hetspec_core.service.plan import Plan, gather_facts, plan
from hetspec_core.service.presets import ResolvedValue
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec

Answer = TypeVar("Answer")
_KEY = re.compile(r"(?P<key>[A-Za-z0-9_.-]+): (?P<text>.*?)(?: \[--set [^\]]*\])?", re.DOTALL)
_SEE = re.compile(r"see ([a-z_.]+)")


@dataclass(frozen=True)
class Fault:
    """Why a choice cannot be started.

    Attributes:
        key: the dotted key that it is about, `datasets` or `draft` for what a run is given, or empty.
        text: one sentence.
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


@dataclass(frozen=True)
class Review:
    """What follows from a choice.

    Attributes:
        choice: the choice.
        values: dotted key -> what it will be, with its source; of what is beneath when the choice does not hold.
        beneath: the same without the values that the choice itself sets: what a reset goes back to.
        faults: why it cannot be started; empty when it can.
        refusals: why it cannot fit on this machine, in the words of the plan.
        notes: what else the plans have to say.
        plans: stage -> what it needs; stages that could not be planned are left out.
        pairs: every base with every draft.
    """

    choice: LaunchRequest
    values: Mapping[str, ResolvedValue]
    beneath: Mapping[str, ResolvedValue]
    faults: tuple[Fault, ...]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    plans: Mapping[str, Plan]
    pairs: tuple[Pair, ...]

    @property
    def ready(self) -> bool:
        """Whether it can be started; what does not fit can be all the same."""
        return not self.faults

    def fault_of(self, key: str) -> str:
        """What is wrong with a key; empty when nothing is."""
        return next((fault.text for fault in self.faults if fault.key == key), "")


def review(workbench: Workbench, choice: LaunchRequest) -> Review:
    """Look at a choice from all sides."""
    faults: list[Fault] = []
    plans: dict[str, Plan] = {}
    given = {"train": "datasets", "bench": "draft"}
    for stage in choice.stages:
        spec = _try(faults, lambda stage=stage: _spec(workbench, choice, stage), given.get(choice.what, ""))
        if spec is None:
            continue
        _try(faults, lambda spec=spec: gpu_request(spec))
        made = _try(faults, lambda spec=spec: plan(spec, gather_facts(spec, workbench.roots)))
        if made is not None:
            plans[stage] = made
    beneath = _first(lambda: _plain(replace(choice, values={}, more=())), lambda: _plain(LaunchRequest(choice.recipe)))
    values = _first(lambda: _plain(choice), lambda: beneath)
    return Review(
        choice=choice,
        values=values,
        beneath=beneath,
        faults=tuple(dict.fromkeys(faults)),
        refusals=tuple(dict.fromkeys(f"{stage}: {text}" for stage, made in plans.items() for text in made.refusals)),
        notes=tuple(dict.fromkeys(text for made in plans.values() for text in made.notes)),
        plans=plans,
        pairs=_first(lambda: pairs(choice), lambda: ()),
    )


def _spec(workbench: Workbench, choice: LaunchRequest, stage: str) -> RunSpec:
    if choice.what == "pipeline":
        return linked(choice, stage, None).spec
    spec = resolve_stage(workbench, choice, stage).spec
    check_inputs(spec)
    return with_folders(workbench, spec)


def _plain(choice: LaunchRequest) -> dict[str, ResolvedValue]:
    """Values by key, for the stage that needs the most; what runs are given is left out."""
    found = resolve_choice(choice, "dataset" if choice.what == "dataset" else "train", {})
    return {
        key: ResolvedValue(key, origin.value, origin.source, origin.place.layer)
        for key, origin in found.origins.items()
    }


def _first(*ways: Callable[[], Answer]) -> Answer:
    """The answer of the first way that has one; the last must not fail, or its error is the answer's."""
    for way in ways[:-1]:
        try:
            return way()
        except HetSpecError:
            continue
    return ways[-1]()


def _try(faults: list[Fault], question: Callable[[], Answer], key: str = "") -> Answer | None:
    try:
        return question()
    except HetSpecError as error:
        faults += _faults(error, key)
        return None


def _faults(error: HetSpecError, key: str) -> Iterator[Fault]:
    """The faults that an error stands for; what names no key is about `key`."""
    text = error.message + (f"; {error.hint}" if error.hint else "")
    if isinstance(error, SpecError) and error.problems:
        for problem in error.problems:
            match = _KEY.fullmatch(problem)
            yield Fault(match["key"], match["text"]) if match else Fault("", problem)
    elif isinstance(error, ResourceError):
        yield Fault("resources.gpus", text)
    elif seen := _SEE.search(error.hint):
        yield Fault(seen[1], error.message)
    else:
        yield Fault(key, text)
