"""A choice of what to run, and what follows from it: the specs, the command line that says the same, faults, costs, the
start.

Command line and dashboard both use it, so that one does what the other shows. A pipeline is a dataset, a training on it
and a bench of its draft: three runs, each of which waits for the one before.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hetspec_core.config import library
from hetspec_core.config.library import NO_DRAFT
from hetspec_core.config.resolve import Resolved, resolve
from hetspec_core.errors import HetSpecError, ResourceError, SpecError, UsageError
from hetspec_core.service.drafts import find_draft
from hetspec_core.service.gpus import gpu_request
from hetspec_core.service.plan import Plan, gather_facts, plan
from hetspec_core.service.presets import ResolvedValue

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench
    from hetspec_core.spec import RunSpec

What = Literal["pipeline", "dataset", "train", "bench"]
PIPELINE = ("dataset", "train", "bench")
PROGRAM = "hetspec-core"
_WORDS: dict[str, tuple[str, ...]] = {
    "pipeline": ("pipeline",),
    "dataset": ("dataset", "generate"),
    "train": ("train",),
    "bench": ("bench",),
}


@dataclass(frozen=True)
class LaunchRequest:
    """What a user wants to run.

    Attributes:
        recipe: name of a recipe preset.
        what: one stage, or all of them as a pipeline.
        parts: base, draft, algorithm -> preset in place of that of the recipe.
        values: dotted key -> right side of `--set`, over the recipe.
        datasets: runs or directories that a training reads; a pipeline makes its own.
        draft: run or directory that a bench measures, or that a training starts from.
        name: of the run; those of a pipeline are called NAME-STAGE.
        file: a TOML file in the form of a recipe, put over it.
    """

    recipe: str
    what: What = "pipeline"
    parts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    draft: str = ""
    name: str = ""
    file: Path | None = None
    more: tuple[str, ...] = ()
    """Further words of `--set`, as they were given on a command line."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it runs, in order."""
        return PIPELINE if self.what == "pipeline" else (self.what,)

    @property
    def overrides(self) -> tuple[str, ...]:
        """`KEY=VALUE` as after `--set`, in order."""
        chosen = tuple(f"{key}={value}" for key, value in {**self.parts, **self.values}.items())
        return (*chosen, *self.more)

    @property
    def command(self) -> str:
        """The command line that does the same, quoted for a shell."""
        return shlex.join(self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of that command line."""
        words = [PROGRAM, *_WORDS[self.what], self.recipe]
        if self.what == "train":
            words += [word for dataset in self.datasets for word in ("--dataset", dataset)]
        if self.draft and self.what in ("train", "bench"):
            words += ["--from" if self.what == "train" else "--draft", self.draft]
        if self.file is not None:
            words += ["--file", str(self.file)]
        words += [word for override in self.overrides for word in ("--set", override)]
        words += ["--name", self.name] if self.name else []
        return (*words, "--detach")


# --- specs ------------------------------------------------------------------------------------------------------------


def resolve_stage(workbench: Workbench, choice: LaunchRequest, stage: str) -> Resolved:
    """The spec of one stage with its inputs, which existing runs or directories hold.

    Raises:
        NotFoundError: there is no such recipe, run or directory.
        SpecError: it is not valid; every problem is listed.
    """
    options: dict[str, Any] = {"name": _name(choice, stage)}
    if choice.what == "train":
        options |= training_inputs(workbench, choice.datasets, initial=choice.draft or None)
    elif choice.what == "bench":
        base = resolve_choice(choice, stage, options).spec.base.name
        options["draft.checkpoint"] = str(find_draft(workbench, choice.draft or None, base))
    return resolve_choice(choice, stage, options)


def training_inputs(
    workbench: Workbench, datasets: Sequence[str], *, held_out: str | None = None, initial: str | None = None
) -> dict[str, Any]:
    """Spec keys of the inputs of a training: their folders, and the runs among them as parents.

    Raises:
        NotFoundError: one does not exist, or has no hidden states or no draft.
    """
    found = [workbench.resolve_input(word, "hidden_states") for word in datasets]
    aside = workbench.resolve_input(held_out, "hidden_states") if held_out else None
    draft = workbench.resolve_input(initial, "draft") if initial else None
    return {
        "training.datasets": [str(folder) for folder in found] or None,
        "training.eval_dataset": aside,
        "draft.checkpoint": draft,
        "parents": _runs_among(workbench, [*found, aside, draft]) or None,
    }


def linked(choice: LaunchRequest, stage: str, parent: str | None) -> Resolved:
    """The resolved spec of one stage of a pipeline: its input is what the run `parent` makes, by that run's id.

    Raises:
        SpecError: it is not valid; every problem is listed.
    """
    options: dict[str, Any] = {"name": _name(choice, stage)}
    if parent is not None:
        key, value = ("training.datasets", [parent]) if stage == "train" else ("draft.checkpoint", parent)
        options |= {key: value, "parents": [parent]}
    return resolve_choice(choice, stage, options)


def with_folders(workbench: Workbench, spec: RunSpec) -> RunSpec:
    """The spec with the folders of the datasets that training names by run.

    Raises:
        NotFoundError: one is not there.
    """
    if not spec.training.datasets:
        return spec
    folders = tuple(str(workbench.resolve_input(word, "hidden_states")) for word in spec.training.datasets)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"datasets": folders})})


# --- starting ---------------------------------------------------------------------------------------------------------


def start(workbench: Workbench, choice: LaunchRequest) -> tuple[str, ...]:
    """Submit and start what was chosen; gives the run ids in the order in which they will work.

    Raises:
        SpecError: a spec is not valid; nothing is submitted then.
        NotFoundError: an input does not exist.
        ResourceError: a run folder cannot be written, or this machine has fewer GPUs than the run needs.
    """
    if choice.what != "pipeline":
        asked = resolve_stage(workbench, choice, choice.what)
        check_inputs(asked.spec)
        run_id = workbench.submit(asked).run_id
        workbench.start(run_id)
        return (run_id,)
    for stage in PIPELINE:  # all must be valid before one is submitted
        linked(choice, stage, "to-come" if stage != "dataset" else None)
    made: list[str] = []
    try:
        for stage in PIPELINE:
            before = tuple(made[-1:])
            asked = linked(choice, stage, before[0] if before else None)
            made.append(workbench.submit(asked, after=before).run_id)
        for run_id in made:
            workbench.start(run_id)
    except HetSpecError:
        for run_id in reversed(made):  # no part of a pipeline runs alone
            _forget(workbench, run_id)
        raise
    return tuple(made)


def check_inputs(spec: RunSpec) -> None:
    """Refuse a training without a dataset.

    Raises:
        UsageError: there is no dataset.
    """
    if spec.stage == "train" and not spec.training.datasets:
        raise UsageError("there is no dataset to train on", hint="name one: --dataset RUN_OR_DIR")


def _forget(workbench: Workbench, run_id: str) -> None:
    try:
        workbench.cancel(run_id)
    except HetSpecError:  # it has ended already
        return


# --- what fits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A base and a draft, and why they do not fit; empty when they do."""

    base: str
    draft: str
    problem: str = ""


def pairs(choice: LaunchRequest) -> tuple[Pair, ...]:
    """Every base with every draft, under the recipe and algorithm of a choice, without its other values."""
    found = []
    plain = replace(choice, values={}, more=(), what="train", name="")
    for base in library.preset_files("base"):
        for draft in library.preset_files("draft"):
            parts = {**choice.parts, "base": base, "draft": draft}
            problem = ""
            try:
                resolve_choice(replace(plain, parts=parts), "train", {})
            except HetSpecError as error:
                problem = "; ".join(getattr(error, "problems", ())) or error.message
            found.append(Pair(base, draft, problem))
    return tuple(found)


def names(kind: str) -> dict[str, str]:
    """Name -> summary of the presets of a kind, and `none` among the drafts."""
    listed = {item.file.name: item.summary or item.problem for item in library.list_presets(kind)}
    return listed | ({NO_DRAFT: "no draft: for a dataset alone"} if kind == "draft" else {})


def resolve_choice(choice: LaunchRequest, stage: str, options: Mapping[str, Any]) -> Resolved:
    """The spec of a stage with further keys; errors as in `config.resolve`."""
    return resolve(choice.recipe, stage=stage, overrides=choice.overrides, file=choice.file, options=options)


def _name(choice: LaunchRequest, stage: str) -> str | None:
    if not choice.name:
        return None
    return f"{choice.name}-{stage}" if choice.what == "pipeline" else choice.name


def _runs_among(workbench: Workbench, folders: Sequence[Path | None]) -> list[str]:
    """Ids of the runs that folders lie in, each once, in order."""
    runs = workbench.roots.runs.absolute()
    inside = [folder for folder in folders if folder is not None and folder.is_relative_to(runs)]
    return list(dict.fromkeys(folder.relative_to(runs).parts[0] for folder in inside))


# --- review -----------------------------------------------------------------------------------------------------------

Answer = TypeVar("Answer")
_KEY = re.compile(r"(?P<key>[A-Za-z0-9_.-]+): (?P<text>.*?)(?: \[--set [^\]]*\])?", re.DOTALL)
_SEE = re.compile(r"see ([a-z_.]+)")


@dataclass(frozen=True)
class Fault:
    """Why a choice cannot be started.

    Attributes:
        key: the dotted key that is at fault, `datasets` or `draft` for an input, or empty.
        text: one sentence.
    """

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


@dataclass(frozen=True)
class Review:
    """What is known of a choice before it is started.

    Attributes:
        choice: the choice.
        values: dotted key -> value with its source; as `beneath` when the choice is not valid.
        beneath: the same without the values that the choice itself sets, to which a reset returns.
        faults: why it cannot be started; empty when it can.
        refusals: why it does not fit on this machine, as the plans say.
        notes: further notes of the plans.
        plans: stage -> plan; a stage that cannot be planned is left out.
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
        """Whether it can be started, even if it does not fit."""
        return not self.faults

    def fault_of(self, key: str) -> str:
        """What is wrong with a key; empty when nothing is."""
        return next((fault.text for fault in self.faults if fault.key == key), "")


def review(workbench: Workbench, choice: LaunchRequest) -> Review:
    """Resolve, check and plan a choice; no user input makes it raise: each error is a fault."""
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
    """Values by key, for the stage that has the most keys, without inputs."""
    found = resolve_choice(choice, "dataset" if choice.what == "dataset" else "train", {})
    return {
        key: ResolvedValue(key, origin.value, origin.source, origin.place.layer)
        for key, origin in found.origins.items()
    }


def _first(*ways: Callable[[], Answer]) -> Answer:
    """The answer of the first way that does not raise; an error of the last one is raised."""
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
    """The faults in an error; `key` is the key of one that names none."""
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
