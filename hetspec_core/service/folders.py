"""Run folders as the desk makes, holds and reads them without the registry, with the origins of their specs' values.

A run that an earlier version made, or that was made from a spec alone, has no origins.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hetspec_core.config.origins import Layer, Origin, Place
from hetspec_core.documents import DocumentError, flatten, read_json
from hetspec_core.errors import NotFoundError, ResourceError, RunError
from hetspec_core.events import Journal, RunFacts, RunState, Submitted, read_events, read_facts
from hetspec_core.files import sync_folder, take_lock, write_atomic
from hetspec_core.jobs import Executor, look_at, run_state
from hetspec_core.paths import RunPaths
from hetspec_core.runs.folders import is_run
from hetspec_core.spec import RunSpec
from hetspec_core.spec.run import from_toml, to_toml
from hetspec_core.spec.serving import HIDDEN

if TYPE_CHECKING:
    from hetspec_core.config.resolve import Resolved

_QUEUE_LOCK_S = 3.0  # for a queue that another process holds
_ID_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # no 0 o 1 l i


def make_run_folder(runs: Path, asked: RunSpec | Resolved, folder: Path, after: tuple[str, ...] = ()) -> RunPaths:
    """Make a run folder below `runs`, complete or not at all.

    Args:
        runs: folder of all runs.
        asked: what to do.
        folder: where relative paths of the spec begin.
        after: runs that go before it.

    Raises:
        ResourceError: it cannot be written.
    """
    spec = asked if isinstance(asked, RunSpec) else asked.spec
    while True:
        paths = RunPaths(runs / new_run_id(spec.stage))
        staging = RunPaths(runs / f".new-{paths.run_id}")
        try:
            _fill_folder(staging, asked, folder, after)
            staging.folder.rename(paths.folder)
        except FileExistsError:
            continue
        except OSError as error:
            if paths.folder.exists():  # another desk made this id in the same second
                continue
            reason = error.strerror or str(error)
            raise ResourceError(f"the run folder cannot be written below {runs}: {reason}") from error
        finally:
            shutil.rmtree(staging.folder, ignore_errors=True)
        sync_folder(runs)
        return paths


def _fill_folder(paths: RunPaths, asked: RunSpec | Resolved, folder: Path, after: tuple[str, ...]) -> None:
    spec = asked if isinstance(asked, RunSpec) else asked.spec
    paths.folder.mkdir(mode=0o700 if spec.stage == "generate" else 0o750)  # prompts are for their user alone
    paths.logs.mkdir()
    with Journal(paths.desk, "desk") as desk:
        desk.write(Submitted(host=socket.gethostname(), folder=str(folder), after=after))
    if not isinstance(asked, RunSpec) and asked.origins:
        write_atomic(paths.origins, origins_text(spec, asked.origins), mode=0o440)
    write_atomic(paths.spec, to_toml(spec), mode=0o440)  # the last, because it makes the names in the folder durable


def seal(asked: RunSpec | Resolved) -> tuple[RunSpec | Resolved, dict[str, str]]:
    """(what is asked with `***` in place of every key, variable of the workers -> key).

    Raises:
        SpecError: a key was removed before, as in the spec of another run, and is not in the environment.
    """
    spec = asked if isinstance(asked, RunSpec) else asked.spec
    sglang, keys = spec.sglang.sealed()
    sglang.opened({**os.environ, **keys})
    if sglang == spec.sglang:
        return asked, keys
    sealed = spec.model_copy(update={"sglang": sglang})
    if isinstance(asked, RunSpec):
        return sealed, keys
    values = flatten(sealed.model_dump(mode="json", exclude_none=True))
    origins = {
        key: replace(origin, value=values[key]) if key.startswith("sglang.") and key in values else origin
        for key, origin in asked.origins.items()
    }
    return replace(asked, spec=sealed, origins=origins), keys


def keys_of(paths: RunPaths, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that hold the keys which were removed from the spec of a run.

    Raises:
        SpecError: a variable is missing.
    """
    try:
        text = paths.spec.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if HIDDEN not in text:  # nearly all
        return {}
    return from_toml(text, name=str(paths.spec)).sglang.opened(variables).sealed()[1]


def new_run_id(stage: str) -> str:
    """An id that sorts by time and names the stage; another desk may make the same one in the same second."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{stamp}-{stage}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"


def submitted(paths: RunPaths) -> Submitted:
    """The event that says how the run was submitted: where its relative paths begin, which runs go before it."""
    for event in read_events(paths.desk)[0]:
        if isinstance(event, Submitted):
            return event
    return Submitted()


def submit_folder(paths: RunPaths) -> Path | None:
    """Where relative paths of the spec begin; None when the journal does not say."""
    folder = submitted(paths).folder
    return Path(folder) if folder else None


@contextlib.contextmanager
def desk_lock(paths: RunPaths) -> Iterator[None]:
    """Lock the run against other desks that would start it; the kernel frees the lock if this process dies.

    Raises:
        NotFoundError: there is no such run.
    """
    try:
        file = take_lock(paths.folder / ".desk.lock", patience_s=None, make_folder=False)
    except FileNotFoundError:
        raise NotFoundError(f"there is no run {paths.run_id!r}") from None
    assert file is not None
    try:
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def queue_lock(data: Path) -> Iterator[None]:
    """Hold the queue's lock; nothing is held where it cannot be had, because a run must be stoppable all the same."""
    try:
        lock = take_lock(data / "queue.lock", patience_s=_QUEUE_LOCK_S)
    except OSError:
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def look_into(executor: Executor, paths: RunPaths) -> tuple[RunFacts, RunState]:
    """The facts in the two journals of a run now, and its state; no registry is needed.

    Raises:
        NotFoundError: there is no such run.
    """
    if not is_run(paths):
        raise no_run(paths.run_id)
    facts = read_facts(paths)
    state = run_state(executor, paths, facts)
    if state in ("lost", "cancelled"):  # its process has ended, so its journal is complete now
        facts = read_facts(paths)
        state = run_state(executor, paths, facts)
    return facts, state


def no_run(run_id: str) -> NotFoundError:
    """The error for an id that no run has."""
    return NotFoundError(f"there is no run {run_id!r}", hint="`hetspec-core runs list` shows those there are")


def refuse_copy(executor: Executor, paths: RunPaths, facts: RunFacts) -> None:
    """Raise if a run seems lost only because its folder is a copy of one that is at work.

    Raises:
        RunError: it is such a copy.
    """
    process = facts.process
    if process is None or facts.ended == facts.attempt:
        return
    seen = look_at(executor, paths, facts)
    if seen.phase == "copied":
        where = f"in {seen.original}" if seen.original else f"as process {process.pid}, in another folder"
        raise RunError(
            f"this is a copy of run {paths.run_id}, which works {where}; it is not touched",
            hint="cancel it with the HETSPEC_HOME that it was started with",
        )


_GIVEN = Place("option", "set when the run was made")
_LAYERS: tuple[str, ...] = get_args(Layer)


def origins_text(spec: RunSpec, origins: Mapping[str, Origin]) -> str:
    """The content of `origins.json`: dotted key -> layer and source of every value in `spec`.

    A value that differs from the resolved one was set later, such as the dataset folder of a pipeline.
    """
    found: dict[str, dict[str, str]] = {}
    for key, value in flatten(spec.model_dump(mode="json", exclude_none=True)).items():
        known = origins.get(key)
        place = known.place if known is not None and known.value == value else _GIVEN
        found[key] = {"layer": place.layer, "source": str(place)}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def read_origins(paths: RunPaths) -> dict[str, Place]:
    """Dotted key -> where its value came from; empty when there is no such file, or it cannot be read."""
    try:
        found = read_json(paths.origins)
    except (OSError, DocumentError):
        return {}
    places: dict[str, Place] = {}
    for key, place in found.items() if isinstance(found, dict) else ():
        layer, source = (place.get("layer"), place.get("source")) if isinstance(place, dict) else (None, None)
        if layer in _LAYERS and isinstance(source, str):
            places[key] = Place(layer, source)
    return places


def resolved_as(spec: RunSpec, paths: RunPaths) -> Resolved:
    """The spec of a run, to be submitted again, with the origins of its values."""
    from hetspec_core.config.resolve import Resolved

    values, places = flatten(spec.model_dump(mode="json", exclude_none=True)), read_origins(paths)
    return Resolved(spec, {key: Origin(values[key], place) for key, place in places.items() if key in values})
