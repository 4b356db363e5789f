"""Finding what a user means by a word: a run, or the hidden states or draft that a run or a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hetspec_core.errors import NotFoundError
from hetspec_core.events import RunState
from hetspec_core.paths import RunPaths
from hetspec_core.runs import RunName, RunRow

InputKind = Literal["hidden_states", "draft"]
_MARK: dict[InputKind, str] = {"hidden_states": "manifest.json", "draft": "config.json"}
_EAGLE_SUFFIX = ".ckpt"  # EAGLE's offline training data, one file per conversation
_STAGE: dict[InputKind, str] = {"hidden_states": "dataset", "draft": "train"}
_MAKER: dict[InputKind, str] = {"hidden_states": "`hetspec-core dataset generate`", "draft": "`hetspec-core train`"}


def find_run(word: str, rows: Sequence[RunName], *, stage: str | None = None) -> str:
    """The id of the run that is meant.

    Args:
        word: a run id, the beginning of exactly one, or the name of exactly one run.
        rows: what all runs can be called by.
        stage: only names of runs of this stage count.

    Raises:
        NotFoundError: no run, or more than one, is meant.
    """
    ids = [row.run_id for row in rows]
    if word in ids:
        return word
    named = [row.run_id for row in rows if word and row.name == word and stage in (None, row.stage)]
    begun = [run_id for run_id in ids if word and run_id.startswith(word)]
    for found in (named, begun):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise NotFoundError(f"{word!r} means {len(found)} runs: {shown}", hint="say more of the id")
    raise NotFoundError(f"there is no run {word!r}", hint="`hetspec-core runs list` shows those there are")


def product_folder(folder: Path, kind: InputKind) -> Path | None:
    """The hidden states (HetSpec's, or EAGLE's files) or draft in `folder`: itself, or what a run folder has inside."""
    product = getattr(RunPaths(folder), kind)
    for candidate in (folder, product):
        if (candidate / _MARK[kind]).is_file():
            return candidate.absolute()
    if kind == "hidden_states" and next(folder.rglob(f"*{_EAGLE_SUFFIX}"), None) is not None:
        return folder.absolute()
    return None


def explain_missing(word: str, kind: InputKind, run: tuple[RunRow, RunState] | None) -> NotFoundError:
    """The error for a folder (`run` None), or a run in some state, that exists but has no such product."""
    what = kind.replace("_", " ")
    if run is None:
        return NotFoundError(
            f"{word} holds no {what}: there is no {_MARK[kind]} in it, nor in {word}/{kind}",
            hint=f"{_MAKER[kind]} makes one",
        )
    row, state = run
    if row.stage != _STAGE[kind]:
        return NotFoundError(
            f"run {row.run_id} is of stage {row.stage} and has no {what}", hint=f"{_MAKER[kind]} makes one"
        )
    return NotFoundError(
        f"run {row.run_id} has no {what} yet; it is {state}",
        hint=f"see `hetspec-core runs show {row.run_id}`; `hetspec-core runs resume {row.run_id}` goes on with it",
    )
