"""A base that is too large for one device: its layers on several, its embedding, norm and head on the first.

So everything that decoding touches, and the draft, stay on one device; what moves from layer to layer is one hidden
state, and the keys and values lie beside the layer that wrote them. It knows modules and sizes, not models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.errors import ResourceError, SpecError

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


def place_layers(layers: Sequence[int], ends: int, budgets: Mapping[int, int]) -> list[int]:
    """Device of each layer, in order: a device is filled before the next one begins.

    Args:
        layers: bytes of each layer.
        ends: bytes of embedding, norm and head, which are on the first device.
        budgets: device -> bytes that it may hold.

    Raises:
        ResourceError: they do not fit.
    """
    devices = sorted(budgets)
    left = {device: budgets[device] for device in devices}
    left[devices[0]] -= ends
    placed: list[int] = []
    at = 0
    for size in layers:
        while at < len(devices) and left[devices[at]] < size:
            at += 1
        if at == len(devices) or left[devices[0]] < 0:
            need = sum(layers) + ends
            raise ResourceError(
                f"the base needs {need / 2**30:.1f} GiB and does not fit the {sum(budgets.values()) / 2**30:.1f} GiB "
                f"of resources.max_memory (embedding and head, {ends / 2**30:.1f} GiB, are on device {devices[0]})",
                hint="raise the sizes, name another GPU, or take bfloat16: resources.dtype",
            )
        left[devices[at]] -= size
        placed.append(devices[at])
    return placed


def spread(model: Any, decoder: Any, max_memory: Mapping[str, str], *, kind: str = "cuda") -> list[torch.device]:
    """Move a model's parts to devices, and have inputs follow.

    Args:
        model: the causal language model, on the CPU.
        decoder: its decoder, with `layers`.
        max_memory: index of a device -> how much of the weights it may hold.
        kind: of the devices.

    Returns:
        The device of each layer.

    Raises:
        ResourceError: a device is not there, or the base does not fit.
    """
    budgets = {int(index): memory_bytes(size) for index, size in max_memory.items()}
    count = torch.cuda.device_count() if kind == "cuda" else len(budgets)
    if missing := [index for index in budgets if index >= count]:
        raise ResourceError(
            f"resources.max_memory names device {missing[0]}, and this run sees {count}",
            hint="set resources.num_gpus to as many devices as it names; they count from 0 within the run",
        )
    layers: nn.ModuleList = decoder.layers
    inside = {id(parameter) for parameter in layers.parameters()}
    ends = sum(_bytes(parameter) for parameter in model.parameters() if id(parameter) not in inside)
    sizes = [sum(map(_bytes, layer.parameters())) for layer in layers]
    devices = [_device(kind, index) for index in place_layers(sizes, ends, budgets)]
    main = _device(kind, min(budgets))
    decoder.layers = nn.ModuleList()
    model.to(main)
    decoder.layers = layers
    for layer, device in zip(layers, devices, strict=True):
        follow(layer.to(device), device)
    for name, module in decoder.named_children():
        if module is not layers and any(True for _ in module.parameters()) and name != "embed_tokens":
            follow(module, main)  # the final norm comes behind the last layer
    return devices


def follow(module: nn.Module, device: torch.device) -> None:
    """Move whatever a module is called with to its device first."""

    def move(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _moved(args, device), {key: _moved(value, device) for key, value in kwargs.items()}

    module.register_forward_pre_hook(move, with_kwargs=True)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value  # a cache keeps its tables beside the layers by itself


def _bytes(parameter: Tensor) -> int:
    return parameter.numel() * parameter.element_size()


def _device(kind: str, index: int) -> torch.device:
    return torch.device(kind, index) if kind == "cuda" else torch.device(kind)
