"""Run folders as the desk makes and holds them, with the origins of the values of their specs.

It knows no registry and starts nothing. A run that an earlier version made, or that was made from a spec alone, has no
origins.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hetspec_core.config.origins import Layer, Origin, Place
from hetspec_core.documents import DocumentError, flatten, read_json
from hetspec_core.errors import NotFoundError
from hetspec_core.events import Journal, Submitted, read_events
from hetspec_core.files import take_lock, write_atomic
from hetspec_core.paths import RunPaths
from hetspec_core.spec import RunSpec
from hetspec_core.spec.run import from_toml, to_toml
from hetspec_core.spec.serving import HIDDEN

if TYPE_CHECKING:
    from hetspec_core.config.resolve import Resolved

_ID_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # no 0 o 1 l i


def fill_folder(paths: RunPaths, asked: RunSpec | Resolved, folder: Path, after: tuple[str, ...] = ()) -> None:
    """Make a new run folder; relative paths of the spec begin at `folder`, and the runs `after` go before it."""
    spec = asked if isinstance(asked, RunSpec) else asked.spec
    paths.folder.mkdir(mode=0o700 if spec.stage == "generate" else 0o750)  # prompts are for their user alone
    paths.logs.mkdir()
    with Journal(paths.desk, "desk") as desk:
        desk.write(Submitted(host=socket.gethostname(), folder=str(folder), after=after))
    if not isinstance(asked, RunSpec) and asked.origins:
        write_atomic(paths.origins, origins_text(spec, asked.origins), mode=0o440)
    write_atomic(paths.spec, to_toml(spec), mode=0o440)  # the last, because it makes the names in the folder durable


def seal(asked: RunSpec | Resolved) -> tuple[RunSpec | Resolved, dict[str, str]]:
    """What is asked with `***` in place of every key, and the keys by the variable that hands each to the workers.

    Raises:
        SpecError: a key was taken out before, as in the spec of another run, and is not in the environment.
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
    """Those of the variables that hold keys which were taken out of the spec of a run.

    Raises:
        SpecError: one is not there.
    """
    try:
        text = paths.spec.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if HIDDEN not in text:  # nearly all
        return {}
    return from_toml(text, name=str(paths.spec)).sglang.opened(variables).sealed()[1]


def new_run_id(stage: str) -> str:
    """An id that sorts by time and says the stage; another desk may make the same one in the same second."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{stamp}-{stage}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"


def submitted(paths: RunPaths) -> Submitted:
    """What the journal says of how the run was submitted: where its relative paths begin, which runs go before it."""
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
    """Hold the run against other desks that would start it; given back by the kernel if this process dies.

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


_GIVEN = Place("option", "set when the run was made")
_LAYERS: tuple[str, ...] = get_args(Layer)


def origins_text(spec: RunSpec, origins: Mapping[str, Origin]) -> str:
    """The content of `origins.json`: dotted key -> layer and source, of every value that stands in `spec`.

    A value that is another than the one that was resolved (the folder of a dataset that a pipeline has made since) has
    been set since.
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
    """The spec of the run in that folder as something to submit again, with what is known of its values."""
    from hetspec_core.config.resolve import Resolved

    values, places = flatten(spec.model_dump(mode="json", exclude_none=True)), read_origins(paths)
    return Resolved(spec, {key: Origin(values[key], place) for key, place in places.items() if key in values})
