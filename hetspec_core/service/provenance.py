"""Where the values of a run's spec came from: written beside the spec when the run is made, read by whoever asks.

A run that was made without it (by an earlier version, or from a spec alone) has its values only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from hetspec_core.config.origins import Layer, Origin, Place
from hetspec_core.documents import DocumentError, flatten, read_json
from hetspec_core.paths import RunPaths

if TYPE_CHECKING:
    from hetspec_core.config.resolve import Resolved
    from hetspec_core.spec import RunSpec

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
    """Dotted key -> where its value came from; empty when nobody has written it down, or it cannot be read."""
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
