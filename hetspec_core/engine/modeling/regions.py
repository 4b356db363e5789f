"""Compiles the layers of a decoder one by one: alike layers share one compiled region.

A program that compiles a base as a whole traces and compiles every layer again, which takes a minute for 32 layers. The
layers of one class differ in their weights only, so one compilation serves all. What two neighbouring layers could have
fused across their border is little: a product ends the first, a norm, which needs its whole sum, begins the second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

_MOST_SHAPES = 256  # compiled forms of one function: programs of several batch sizes, trees and capacities

Work = TypeVar("Work", bound=Callable[..., Any])


def fuse(work: Work, *, tuned: bool = False) -> Work:
    """The same work, compiled into fewer kernels for the shapes that it is called with.

    Args:
        work: a function or method.
        tuned: try several sizes for every kernel, and write products with one row as reductions that fuse with what
            stands around them. It pays for one token at a time and takes twice as long.
    """
    return cast(Work, torch.compile(work, dynamic=False, options={"coordinate_descent_tuning": tuned}))


class Regions:
    """The compiled forms of a decoder's layers, its final norm and its rotary embedding, or of the whole decoder.

    Args:
        decoder: a Hugging Face decoder.
        tuned: as in `fuse`.
    """

    def __init__(self, decoder: nn.Module, *, tuned: bool = False) -> None:
        self._patches: list[tuple[nn.Module, Callable[..., Any]]] = []
        compiled: dict[type[nn.Module], Callable[..., Any]] = {}

        def region_of(module: nn.Module) -> Callable[..., Any]:
            kind = type(module)
            if kind not in compiled:
                compiled[kind] = fuse(kind.forward, tuned=tuned)
            return compiled[kind]

        layers = layers_of(decoder)
        for layer in layers:
            self._patches.append((layer, _layer_forward(layer, region_of(layer))))
        for part in (getattr(decoder, "norm", None), getattr(decoder, "rotary_emb", None)) if layers else (decoder,):
            if isinstance(part, nn.Module):
                self._patches.append((part, _forward(part, region_of(part))))

    def run(self, work: Work) -> Work:
        """The same work, in which the decoder runs through its compiled regions."""

        def through_regions(*args: Any) -> Any:
            with self._active():
                return work(*args)

        return cast(Work, through_regions)

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        for module, forward in self._patches:
            module.forward = forward
        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES, accumulated_recompile_limit=_MOST_SHAPES):
                yield
        finally:
            for module, _ in self._patches:
                del module.forward


def layers_of(decoder: nn.Module) -> list[nn.Module]:
    """The layers that can be compiled one by one: those with an attention that knows its number."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return []
    return [layer for layer in layers if hasattr(getattr(layer, "self_attn", None), "layer_idx")]


def _forward(module: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: compiled(module, *args, **kwargs)


def _layer_forward(layer: Any, compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of one layer through a region that layers share.

    The number of a layer is a constant of its compiled code, so all run as number 0 with the part of the cache that is
    theirs.
    """

    def forward(hidden: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        number = layer.self_attn.layer_idx
        part = None if past_key_values is None else past_key_values.part(number)
        layer.self_attn.layer_idx = 0
        try:
            return compiled(layer, hidden, *args, past_key_values=part, **kwargs)
        finally:
            layer.self_attn.layer_idx = number

    return forward
