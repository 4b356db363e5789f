"""Which hidden states of the base an EAGLE-3 draft reads, by the keys under which published configurations name them.

Two ways of counting are in use. HetSpec, speculators and vLLM count as Hugging Face does (0 = embeddings, i = output of
layer i); SGLang, SpecForge and ModelOpt count the outputs of layers from 0, so their id is one less. A key tells which
way it is: inside `eagle_config`, and under the name `target_layer_ids`, outputs are counted.
"""

from __future__ import annotations

from typing import Any

from hetspec_core.errors import CheckpointError

KEY = "eagle_aux_hidden_state_layer_ids"
_NAMES = (KEY, "aux_hidden_state_layer_ids", "target_layer_ids")
_MOST = 1 << 12
"""More layers than any base has."""

_EMBEDDINGS = "counted from 0 = embeddings"
_OUTPUTS = "counted by outputs from 0: one added"


def told_layers(config: dict[str, Any], folder: object) -> tuple[tuple[int, ...] | None, str]:
    """Captured layers by Hugging Face id in the order of the file, None where it names none; and where it names them.

    Raises:
        CheckpointError: a key holds something else than a list of layers.
    """
    nested = config.get("eagle_config") or {}
    if not isinstance(nested, dict):
        raise CheckpointError(f"{folder}/config.json: eagle_config is no table", hint="fetch the draft again")
    found: dict[str, tuple[int, ...]] = {}
    for prefix, table in (("eagle_config.", nested), ("", config)):
        for name in _NAMES:
            ids = _ids(table.get(name), f"{prefix}{name}", folder)
            if ids:
                found[f"{prefix}{name}"] = tuple(number + _counts_outputs(f"{prefix}{name}") for number in ids)
    if not found:
        return None, ""
    place, layers = next(iter(found.items()))
    where = f"{place}, {_OUTPUTS if _counts_outputs(place) else _EMBEDDINGS}"
    odd = [f"{other} would give {_shown(ids)}" for other, ids in found.items() if ids != layers]
    return layers, f"{where}; {', '.join(odd)}" if odd else where


def other_count(layers: tuple[int, ...], place: str, base_layers: int | None) -> str:
    """A warning for ids that are the usual layers if they are counted the other way; empty where they are not.

    Args:
        layers: as they were taken.
        place: what `told_layers` said of them.
        base_layers: number of the base's decoder layers; None = not known.
    """
    if base_layers is None or len(layers) != 3:
        return ""
    step = -1 if _OUTPUTS in place else 1
    if tuple(number + step for number in layers) != usual_layers(base_layers):
        return ""
    return (
        f"the layers {_shown(layers)} are taken as the key counts them ({place}); counted the other way they are "
        f"the usual {_shown(usual_layers(base_layers))} of a base of {base_layers} layers, so the file may mean those"
    )


def usual_layers(base_layers: int) -> tuple[int, int, int]:
    """The layers of a draft that names none: 2, N/2 and N-3 by Hugging Face id."""
    return 2, base_layers // 2, base_layers - 3


def _counts_outputs(place: str) -> bool:
    return place.startswith("eagle_config.") or place == "target_layer_ids"


def _ids(value: Any, place: str, folder: object) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(type(number) is int and 0 <= number < _MOST for number in value):
        raise CheckpointError(
            f"{folder}/config.json: {place} is {str(value)[:60]}; it must be a list of layers of the base",
            hint="fetch the draft again, or write the ids as whole numbers",
        )
    return value


def _shown(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers))
