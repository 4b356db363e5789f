"""A base and a draft that are too large for one device: layers on several devices, everything else on the first.

Embedding, norms, heads and fusion stay on the first device, which decoding uses. One hidden state moves from layer to
layer, and keys and values are on the device of their layer. The base fills the devices from the last one on, so that
the free memory is on the first one, where the draft and the logits are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hetspec_core.errors import ResourceError, SpecError
from hetspec_core.quantities import format_bytes

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?", re.IGNORECASE)


def memory_bytes(text: str) -> int:
    """Bytes of a size like 17.5GiB or 800MB.

    Raises:
        SpecError: it has another form.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SpecError(f"resources.max_memory has {text!r}; a size is a number with a unit, e.g. 17.5GiB")
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


class Room:
    """The memory that several devices have for weights, and the part in use.

    Args:
        max_memory: index of a device -> size.
        kind: of the devices.

    Raises:
        ResourceError: a device is not there.
        SpecError: a size has no meaning.
    """

    def __init__(self, max_memory: Mapping[str, str], *, kind: str = "cuda") -> None:
        budgets = {int(index): memory_bytes(size) for index, size in max_memory.items()}
        count = torch.cuda.device_count() if kind == "cuda" else len(budgets)
        if missing := [index for index in budgets if index >= count]:
            raise ResourceError(
                f"resources.max_memory names device {missing[0]}, and this run sees {count}",
                hint="set resources.num_gpus to as many devices as it names; they count from 0 within the run",
            )
        self._kind = kind
        self._budgets = dict(sorted(budgets.items()))
        # A model that was freed holds nothing: the chat frees drafts when it changes them.
        self._held: WeakKeyDictionary[nn.Module, dict[int, int]] = WeakKeyDictionary()

    @property
    def main(self) -> torch.device:
        """The first device, which has everything except layers."""
        return self.device(next(iter(self._budgets)))

    def device(self, index: int) -> torch.device:
        return torch.device(self._kind, index)

    def left(self) -> dict[int, int]:
        """Bytes that each device may still take."""
        left = dict(self._budgets)
        for held in self._held.values():
            for index, size in held.items():
                left[index] -= size
        return left

    def hold(self, model: nn.Module, held: dict[int, int]) -> None:
        """Record the bytes that a model takes of each device."""
        self._held[model] = held


def place_layers(
    layers: Sequence[int], ends: int, left: Mapping[int, int], *, what: str = "the base", from_last: bool = True
) -> list[int]:
    """Device of each layer, in the order of the devices.

    Args:
        layers: bytes of each layer.
        ends: bytes that are on the first device in any case.
        left: device -> bytes that it may take.
        what: is placed, for the error.
        from_last: fill the devices from the last one to the first, instead of from the first to the last.

    Raises:
        ResourceError: they do not fit.
    """
    devices, free = sorted(left), dict(left)
    free[devices[0]] -= ends
    placed: list[int] = []
    order = devices[::-1] if from_last else devices
    at = 0
    for size in reversed(layers) if from_last else layers:
        while at < len(order) and free[order[at]] < size:
            at += 1
        if at == len(order):
            break
        free[order[at]] -= size
        placed.append(order[at])
    if len(placed) < len(layers) or free[devices[0]] < 0:
        rooms = ", ".join(f"{index}: {format_bytes(size)}" for index, size in sorted(left.items()))
        raise ResourceError(
            f"{what} needs {format_bytes(sum(layers) + ends)}, {format_bytes(ends)} of it on device {devices[0]}, and "
            f"does not fit what resources.max_memory leaves ({rooms}); a layer has up to "
            f"{format_bytes(max(layers, default=0))}",
            hint="raise the sizes, name another GPU, or take bfloat16: resources.dtype",
        )
    return placed[::-1] if from_last else placed


def place_base(model: Any, decoder: Any, room: Room) -> list[torch.device]:
    """Move a base's layers to devices; inputs follow.

    Returns:
        The device of each layer.

    Raises:
        ResourceError: the base does not fit.
    """
    layers: nn.ModuleList = decoder.layers
    inside = {id(parameter) for parameter in layers.parameters()}
    ends = sum(weight_bytes(parameter) for parameter in model.parameters() if id(parameter) not in inside)
    placed = place_layers([block_bytes([layer]) for layer in layers], ends, room.left())
    move_parts(model, decoder, [[layer] for layer in layers], placed, ends, room)
    return [room.device(index) for index in placed]


def move_parts(
    model: nn.Module, decoder: Any, blocks: Sequence[Sequence[nn.Module]], placed: Sequence[int], ends: int, room: Room
) -> None:
    """Move the blocks to their devices, and everything else to the first one."""
    main, layers = room.main, decoder.layers
    decoder.layers = nn.ModuleList()
    model.to(main)
    decoder.layers = layers
    held = dict.fromkeys(room.left(), 0)
    held[next(iter(held))] = ends
    for block, index in zip(blocks, placed, strict=True):
        held[index] += block_bytes(block)
        for layer in block:
            follow(layer.to(room.device(index)), room.device(index))
    for name, module in decoder.named_children():
        if module is not layers and any(True for _ in module.parameters()) and name != "embed_tokens":
            follow(module, main)  # the final norm follows the last layer
    room.hold(model, held)


def follow(module: nn.Module, device: torch.device) -> None:
    """Move the arguments of a module's calls to its device."""

    def move(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _moved(args, device), {key: _moved(value, device) for key, value in kwargs.items()}

    module.register_forward_pre_hook(move, with_kwargs=True)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value  # a cache keeps its tables on the devices of the layers by itself


def weight_bytes(parameter: Tensor) -> int:
    """Bytes of the elements of a [...] tensor."""
    return parameter.numel() * parameter.element_size()


def block_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of the parameters of some modules; one that they share counts once."""
    return sum(map(weight_bytes, {parameter for module in modules for parameter in module.parameters()}))
