"""The drafts that can be chosen for a base, and which one is the default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.documents import DocumentError, read_toml
from hetspec_core.errors import NotFoundError
from hetspec_core.events.results import BenchSetup, TreeResult, read_bench
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench


@dataclass(frozen=True)
class DraftChoice:
    """A draft that can be chosen.

    Attributes:
        name: shown in lists.
        folder: its directory.
        run_id: the run that trained it.
        ended: when that run ended, in unix seconds.
    """

    name: str
    folder: Path
    run_id: str = ""
    ended: float = 0.0

    @property
    def label(self) -> str:
        """Its name and the end of the run's id, because several runs may have the same name."""
        return self.name if self.name == self.run_id else f"{self.name} {self.run_id.rpartition('-')[2]}".strip()


_NAMED = 3  # drafts that a sentence names


def draft_name(folder: Path) -> str:
    """The name of a draft: that of its directory; if that is `draft`, that of the run or checkpoint that holds it.

    A named run is shown with its name and the end of its id, because other runs may have the same name.
    """
    folder = folder.absolute()
    if folder.name != "draft":
        return folder.name
    owner = folder.parent
    if owner.parent.name == "checkpoints":
        return f"{_run_name(owner.parent.parent)} {owner.name}"
    return _run_name(owner)


def _run_name(folder: Path) -> str:
    try:
        name = read_toml(RunPaths(folder).spec).get("name")
    except (OSError, DocumentError):  # no run
        name = None
    return f"{name} {folder.name.rpartition('-')[2]}" if isinstance(name, str) and name else folder.name


@dataclass(frozen=True)
class DefaultDraft:
    """The draft that is used when none is named.

    Attributes:
        draft: the draft.
        reason: a sentence for the user that names the others; empty when there is only one.
        measured: True when benches decided, False when it is the newest.
    """

    draft: DraftChoice
    reason: str
    measured: bool


def find_draft(workbench: Workbench, word: str | None, base: str, *, say: Callable[[str], None] | None = None) -> Path:
    """Resolve a run or directory to the directory of its draft; an absent word means that of `default_draft`.

    Args:
        workbench: where runs are.
        word: run or directory.
        base: name of the base.
        say: called with the reason when no draft is named and there are several.

    Raises:
        NotFoundError: there is none.
    """
    if word is not None:
        return workbench.resolve_input(word, "draft")
    found = default_draft(workbench, base)
    if found.reason and say is not None:
        say(found.reason)
    return found.draft.folder


def default_draft(workbench: Workbench, base: str) -> DefaultDraft:
    """The best draft trained on this base by comparable benches; the newest when there are none.

    Benches are comparable when they have the same prompt tokens, tree, sampling and number of new tokens. Of each such
    group, the one with the most drafts decides, and of several the newest; in it, the accept length pooled over the
    verify steps of all benches.

    Raises:
        NotFoundError: there is no draft.
    """
    choices = draft_choices(workbench, base)
    if not choices:
        raise NotFoundError(
            f"no draft has been trained on {base} yet",
            hint="train one (`hetspec-core demo` does, in minutes), name one with --draft, or decode with --plain",
        )
    if len(choices) == 1:
        return DefaultDraft(choices[0], "", measured=False)
    lengths, conditions = _compared(workbench, base, choices)
    if len(lengths) < 2:
        newest, others = choices[0], _named(choices[1:])
        why = f"warning: {newest.label} is taken because it is the newest draft on {base}; no bench compares it with "
        return DefaultDraft(newest, f"{why}{others}; name one with --draft, or bench them on the same prompts", False)
    best = max((one for one in choices if one.run_id in lengths), key=lambda one: lengths[one.run_id])
    beaten = sorted(
        (one for one in choices if one.run_id in lengths and one != best), key=lambda one: -lengths[one.run_id]
    )
    unknown = [one for one in choices if one.run_id not in lengths]
    others = _named(beaten, lengths) + (f"; not measured like that: {_named(unknown)}" if unknown else "")
    why = f"{best.label} is taken: accept length {lengths[best.run_id]:.2f} with {conditions}, against {others}"
    return DefaultDraft(best, f"{why}; --draft names another", measured=True)


def _compared(workbench: Workbench, base: str, choices: Sequence[DraftChoice]) -> tuple[dict[str, float], str]:
    """(run id of a draft -> accept length, conditions) of the group of benches with the most drafts."""
    steps: dict[tuple[Any, ...], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    trained = {one.run_id: one for one in choices}
    for bench in workbench.runs(stage="bench", state="succeeded"):  # newest first
        if bench.base != base:
            continue
        read = read_bench(workbench.registry.results(bench.run_id).get("bench"))
        setup = read.record.setup
        draft = _owner(setup.draft, trained)
        # A bench says nothing of a draft that was trained further since, and a damaged record decides nothing.
        if draft is None or (bench.ended or 0.0) < draft.ended or read.problems:
            continue
        for tree in read.record.trees:
            key, found = _conditions(setup, tree), _pooled(tree)
            if key is not None and found is not None:
                steps[key][draft.run_id].append(found)
    if not steps:
        return {}, ""
    key = max(steps, key=lambda one: len(steps[one]))  # of equals the first, which is the newest
    lengths = {run_id: sum(t for t, _ in found) / sum(n for _, n in found) for run_id, found in steps[key].items()}
    tree, temperature = key[0], key[1]
    return lengths, f"tree {tree} at temperature {temperature:g} on the same prompts"


def _owner(checkpoint: str, trained: dict[str, DraftChoice]) -> DraftChoice | None:
    """The draft that was measured. It is named by its run, or by a folder in the run, also of a home that was moved."""
    path = Path(checkpoint)
    return trained.get(checkpoint) or (trained.get(path.parent.name) if path.name == "draft" else None)


def _conditions(setup: BenchSetup, tree: TreeResult) -> tuple[Any, ...] | None:
    """What must be equal for accept lengths to be comparable; None when the prompt tokens are not known."""
    sampling, prompts = setup.sampling, setup.prompt_ids_hash
    if sampling is None or not prompts:
        return None
    chosen = (0, 1.0) if sampling.temperature == 0 else (sampling.top_k, sampling.top_p)
    return (tree.tree, sampling.temperature, *chosen, prompts, setup.base_fingerprint, setup.max_new_tokens)


def _pooled(tree: TreeResult) -> tuple[float, float] | None:
    """Committed tokens and verify steps of one measurement."""
    total = sum(tree.histogram.values())
    if total > 0:
        return sum(length * count for length, count in tree.histogram.items()), total
    return (tree.accept_length, 1.0) if tree.accept_length is not None else None


def _named(drafts: Sequence[DraftChoice], lengths: dict[str, float] | None = None) -> str:
    """Drafts in a sentence: the first ones, and how many more there are."""
    shown = [one.label + (f" ({lengths[one.run_id]:.2f})" if lengths else "") for one in drafts[:_NAMED]]
    more = len(drafts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def draft_choices(workbench: Workbench, base: str, limit: int | None = None) -> list[DraftChoice]:
    """Drafts trained on this base, newest first."""
    found: list[DraftChoice] = []
    for run in workbench.runs(stage="train", state="succeeded"):
        if run.base != base or (limit is not None and len(found) >= limit):
            continue
        try:
            folder = workbench.resolve_input(run.run_id, "draft")
        except NotFoundError:
            continue
        found.append(DraftChoice(run.name or run.run_id, folder, run.run_id, run.ended or 0.0))
    return found


def checkpoint_choices(workbench: Workbench, base: str) -> list[DraftChoice]:
    """Drafts in the checkpoints of runs on this base, in any state; newest run and last step first."""
    found: list[DraftChoice] = []
    for run in workbench.runs(stage="train"):
        if run.base != base:
            continue
        steps = sorted((workbench.roots.runs / run.run_id).glob("checkpoints/step-*/draft/config.json"), reverse=True)
        for file in steps:
            folder = file.parent.absolute()
            found.append(DraftChoice(f"{run.name or run.run_id} {folder.parent.name}", folder, run.run_id))
    return found
