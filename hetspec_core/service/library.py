"""Runs that users keep: specs, comparison, lineage, labels, and the trash.

Labels are events in the journal of the run folder, so that they move with the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hetspec_core.documents import DocumentError
from hetspec_core.errors import NotFoundError, ResourceError, RunError
from hetspec_core.events import Journal, Marked, Moved, read_events
from hetspec_core.events.state import FINISHED, UNREADABLE
from hetspec_core.files import NOT_WRITABLE, is_full, is_locked, sync_folder
from hetspec_core.paths import RunPaths
from hetspec_core.runs.folders import run_id_of, run_paths, why_unreadable
from hetspec_core.service.folders import desk_lock, no_run, read_origins, resolved_as, submit_folder, submitted
from hetspec_core.service.names import check_labels, find_run
from hetspec_core.service.report import RunSummary, spec_or_problem
from hetspec_core.service.workbench import Workbench, refuse_unreadable
from hetspec_core.spec import RunSpec
from hetspec_core.spec.run import read_spec

if TYPE_CHECKING:
    from hetspec_core.service.presets import ResolvedValue


@dataclass(frozen=True)
class Relative:
    """A run in the tree of runs that depend on each other; `summary` None = it does not exist."""

    run_id: str
    summary: RunSummary | None
    relatives: tuple[Relative, ...]

    def to_json(self) -> dict[str, Any]:
        known = None if self.summary is None else self.summary.to_json()
        return {"run_id": self.run_id, "run": known, "relatives": [one.to_json() for one in self.relatives]}


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side.

    Attributes:
        runs: their summaries.
        settings: dotted key -> value per run, of the settings that are not the same in all; None = absent.
        results: name -> value per run, of the headline results; None = absent.
    """

    runs: list[RunSummary]
    settings: dict[str, list[Any]]
    results: dict[str, list[float | None]]

    def to_json(self) -> dict[str, Any]:
        return {"runs": [run.to_json() for run in self.runs], "settings": self.settings, "results": self.results}


@dataclass(frozen=True)
class Discarded:
    """A run in the trash; `time` is when it was put there, in unix seconds."""

    run_id: str
    name: str
    stage: str
    time: float
    bytes: int


class Library:
    """What can be done with runs besides submitting and running them.

    Args:
        workbench: whose runs.
    """

    def __init__(self, workbench: Workbench) -> None:
        self.workbench = workbench
        self.trash = workbench.roots.trash

    # --- finding -----------------------------------------------------------------------------------------------------

    def spec(self, run_id: str) -> RunSpec:
        """The spec of a run.

        Raises:
            SpecError: this version cannot read it.
            NotFoundError: there is no such run.
        """
        try:
            return read_spec(self.workbench.paths(run_id).spec)
        except NotFoundError:
            raise no_run(run_id) from None

    def explain(self, run_id: str) -> list[ResolvedValue]:
        """Every value of a run's spec, and its source and layer where they are known; else both are empty.

        Raises:
            NotFoundError: there is no such run.
        """
        from hetspec_core.service.presets import ResolvedValue  # this imports the plans

        if self.workbench.registry.sync(run_id) is None:  # it may be new to the registry
            raise no_run(run_id)
        places = read_origins(self.workbench.paths(run_id))
        found = []
        for key, value in self.workbench.registry.config(run_id).items():
            place = places.get(key)
            found.append(ResolvedValue(key, value, str(place or ""), place.layer if place else ""))
        return found

    def retry(self, run_id: str) -> str:
        """Submit a new run with the spec of one that is not at work; gives its id.

        Raises:
            NotFoundError: there is no such run.
            RunError: it is at work or queued.
            SpecError: this version cannot read its spec.
        """
        row, state = self.workbench.look(run_id)
        refuse_unreadable(row)
        if state not in FINISHED:
            raise RunError(f"run {run_id} is {state}", hint=f"follow it: hetspec-core runs follow {run_id}")
        paths = self.workbench.paths(run_id)
        asked = resolved_as(self.spec(run_id), paths)
        return self.workbench.submit(asked, folder=submit_folder(paths), after=submitted(paths).after).run_id

    def value(self, run: RunSummary, name: str) -> Any:
        """What a run has under the name of a column, metric or setting; None = nothing."""
        column = {"id": "run_id", "hash": "spec_hash"}.get(name, name)
        return getattr(run, column) if hasattr(run, column) else self.values(run.run_id, [name])[name]

    def values(self, run_id: str, names: Sequence[str]) -> dict[str, Any]:
        """Metric or setting -> its value in a run, the newest of a metric; None = it has none."""
        registry = self.workbench.registry
        found: dict[str, Any] = {point.name: point.value for point in registry.last_metrics(run_id)}
        if any(name not in found for name in names):
            found = registry.config(run_id) | found
        return {name: found.get(name) for name in names}

    def lineage(self, run_id: str, direction: Literal["up", "down"]) -> Relative:
        """The runs that a run depends on (up), or that depend on it (down), and so on, as a tree."""
        self.workbench.registry.sync_all()
        parents = self.workbench.registry.lineage()
        near: dict[str, list[str]] = {}
        for child, above in parents.items():
            for parent in above:
                here, there = (child, parent) if direction == "up" else (parent, child)
                near.setdefault(here, []).append(there)
        return self._relative(run_id, near, frozenset())

    def _relative(self, run_id: str, near: dict[str, list[str]], seen: frozenset[str]) -> Relative:
        try:
            summary = self.workbench.summary(run_id)
        except NotFoundError:
            summary = None
        path = seen | {run_id}
        others = [other for other in near.get(run_id, ()) if other not in path]
        return Relative(run_id, summary, tuple(self._relative(other, near, path) for other in others))

    def compare(self, run_ids: Sequence[str]) -> RunComparison:
        """Settings in which runs differ, and their headline results.

        Raises:
            NotFoundError: one of them does not exist.
        """
        registry = self.workbench.registry
        runs = [self.workbench.summary(run_id) for run_id in run_ids]
        configs = [registry.config(run_id) for run_id in run_ids]
        keys = dict.fromkeys(key for config in configs for key in config)
        settings = {key: [config.get(key) for config in configs] for key in keys}
        figures = [self.figures(run_id) for run_id in run_ids]
        names = dict.fromkeys(name for one in figures for name in one)
        return RunComparison(
            runs=runs,
            settings={key: values for key, values in settings.items() if any(value != values[0] for value in values)},
            results={name: [one.get(name) for one in figures] for name in names},
        )

    def figures(self, run_id: str) -> dict[str, float]:
        """All figures of a run: newest values of its metrics, and the numbers of its results."""
        registry = self.workbench.registry
        found = {point.name: point.value for point in registry.last_metrics(run_id) if point.value is not None}
        for kind, data in registry.results(run_id).items():
            for name, value in data.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found[f"{kind}.{name}"] = value
        return found

    # --- labels ------------------------------------------------------------------------------------------------------

    def mark(self, run_id: str, event: Marked) -> RunSummary:
        """Put labels on a run.

        Raises:
            NotFoundError: there is no such run.
            UsageError: a tag or the note is too long.
            RunError: the run cannot be read.
        """
        check_labels(event)
        refuse_unreadable(self.workbench.look(run_id)[0])  # raises if there is no such run, before a journal is made
        with Journal(self.workbench.paths(run_id).desk, "desk") as desk:
            desk.write(event)
        return self.workbench.summary(run_id)

    # --- trash -------------------------------------------------------------------------------------------------------

    def discard(self, run_id: str) -> None:
        """Move a run into the trash.

        Raises:
            NotFoundError: there is no such run.
            RunError: it is at work.
            ResourceError: its folder cannot be moved.
        """
        workbench = self.workbench
        paths = workbench.paths(run_id)
        with self._held(paths), workbench.queue.lock():  # so that no other desk starts it
            state = workbench.state(run_id)
            works = state == UNREADABLE and _is_kept(paths)
            if works or state not in FINISHED | {"queued", UNREADABLE}:
                raise RunError(
                    f"run {run_id} is {'at work' if works else state}",
                    hint=f"stop it first: hetspec-core runs cancel {run_id}",
                )
            workbench.queue.remove(run_id)
            self._move(paths, self.trash / paths.folder.name, "trash", says=state != UNREADABLE)
        workbench.registry.sync(run_id)

    @contextlib.contextmanager
    def _held(self, paths: RunPaths) -> Iterator[None]:
        """The lock of a run; none where no lock file can be written, because no run can be started there either."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(desk_lock(paths))
            except OSError as error:
                if error.errno not in NOT_WRITABLE:
                    raise
            yield

    def restore(self, word: str) -> str:
        """Move a run back from the trash; gives its id.

        Args:
            word: its id, or the beginning of exactly one in the trash, or its name.

        Raises:
            NotFoundError: the trash has no such run, or several.
            RunError: there is a run with this id.
            ResourceError: its folder cannot be moved.
        """
        run_id = self._in_trash(word)
        source = run_paths(self.trash, run_id)
        folder = self.workbench.roots.runs / source.folder.name
        if folder.exists():
            raise RunError(f"there is a run {run_id} already", hint="it was copied back by hand; delete one of the two")
        self._move(source, folder, "runs", says=not why_unreadable(source))
        self.workbench.registry.sync(run_id)
        return run_id

    def discarded(self) -> list[Discarded]:
        """What is in the trash, newest first."""
        found = [_discarded(run_paths(self.trash, name), name) for name in self._trash_names()]
        return sorted(found, key=lambda one: (-one.time, one.run_id))

    def empty_trash(self) -> int:
        """Delete the runs in the trash for good; gives their number.

        Raises:
            ResourceError: some could not be deleted; the others are deleted.
        """
        names = self._trash_names()
        left: list[str] = []
        for name in names:
            try:
                shutil.rmtree(run_paths(self.trash, name).folder)
            except OSError as error:
                left.append(f"{name}: {error.strerror or error}")
        if left:
            raise ResourceError(
                f"{len(left)} of {len(names)} runs in the trash could not be deleted; {left[0]}",
                hint="check the owner and the mode of these folders",
            )
        return len(names)

    def _move(self, paths: RunPaths, target: Path, to: Literal["trash", "runs"], *, says: bool) -> None:
        """Move a run folder; with `says`, note it in its journal first."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if says:
                self._note_move(paths, to)
            os.rename(paths.folder, target)  # noqa: PTH104 - beside the folder that is synced below
        except OSError as error:
            reason = error.strerror or str(error)
            raise ResourceError(f"{paths.folder} cannot be moved to {target}: {reason}") from error
        sync_folder(target.parent)
        sync_folder(paths.folder.parent)

    def _note_move(self, paths: RunPaths, to: Literal["trash", "runs"]) -> None:
        """Note the move in the journal, unless the disk is full: deleting runs is what frees it."""
        try:
            with Journal(paths.desk, "desk") as desk:
                desk.write(Moved(to=to))
        except OSError as error:
            if not is_full(error):
                raise

    def _trash_names(self) -> list[str]:
        try:
            return sorted(run_id_of(entry.name) for entry in self.trash.iterdir() if entry.is_dir())
        except FileNotFoundError:
            return []

    def _in_trash(self, word: str) -> str:
        names = self._trash_names()
        if word in names:
            return word
        named = [one.run_id for one in self.discarded() if word and one.name == word]
        found = named or [name for name in names if word and name.startswith(word)]
        if len(found) != 1:
            means = f"{word!r} means {len(found)} runs in the trash: {', '.join(found[:5])}"
            raise NotFoundError(
                means if found else f"there is no run {word!r} in the trash",
                hint="`hetspec-core runs trash` lists them",
            )
        return found[0]

    # --- words -------------------------------------------------------------------------------------------------------

    def resolve(self, words: Sequence[str]) -> list[str]:
        """Ids of the runs that several words mean, each once; a word is as for `Workbench.resolve_run`.

        Raises:
            NotFoundError: one of them means no run, or more than one.
        """
        self.workbench.registry.sync_all()
        names = self.workbench.registry.names()
        return list(dict.fromkeys(find_run(word, names) for word in words))


def _discarded(paths: RunPaths, run_id: str) -> Discarded:
    moved: list[float] = []
    with contextlib.suppress(OSError, DocumentError):
        moved = [event.time for event in read_events(paths.desk)[0] if isinstance(event, Moved)]
    spec, _ = spec_or_problem(paths)
    try:
        changed = paths.folder.stat().st_mtime
    except OSError:
        changed = 0.0
    return Discarded(
        run_id=run_id,
        name=spec.name if spec else "",
        stage=spec.stage if spec else "",
        time=moved[-1] if moved else changed,
        bytes=sum(_size(Path(folder, name)) for folder, _, names in os.walk(paths.folder) for name in names),
    )


def _size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:  # it was deleted meanwhile
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _is_kept(paths: RunPaths) -> bool:
    """Whether a supervisor holds the run; the journals of an unreadable run do not tell."""
    try:
        return is_locked(paths.folder / ".supervisor.lock")
    except OSError:
        return False
