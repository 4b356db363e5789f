"""FSDP: each rank keeps a part of the draft's weights and of the optimizer's moments instead of all of them.

It is torch's own `fully_shard`. A layer's weights come together for its forward and backward; the loop brings all of
them together where the draft is used as a whole, for an evaluation or a checkpoint, so that files and figures are those
of any other run. Nothing here does anything to a draft that is not cut up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hetspec_core.engine.modeling.draft_lm import DraftLM


def shard(draft: DraftLM, device: torch.device, world_size: int) -> None:
    """Cut a draft up over all ranks, layer by layer and what is left; its parameters are DTensors from then on."""
    mesh = init_device_mesh(device.type, (world_size,))
    for layer in draft.backbone.decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    fully_shard(draft, mesh=mesh, reshard_after_forward=False)


@contextmanager
def whole(draft: nn.Module) -> Iterator[None]:
    """All weights of a draft on this rank, as plain tensors, inside the block; every rank has to enter it."""
    parts = [module for module in draft.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def prepare(accelerator: Accelerator, draft: DraftLM) -> nn.Module:
    """The model that the loop calls: with its precision and, if each rank has all of it, the exchange of gradients."""
    is_cut = isinstance(draft, FSDPModule)
    return accelerator.prepare_model(draft, device_placement=not is_cut, evaluation_mode=is_cut)


@contextmanager
def gradients_kept_back(accelerator: Accelerator, model: nn.Module, *, until_last: bool) -> Iterator[None]:
    """Exchange no gradients in this block if `until_last`: they are exchanged once, with the last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not until_last)
        yield
    elif until_last:
        with accelerator.no_sync(model):
            yield
    else:
        yield


def full(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all ranks; every rank has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A whole tensor, the same on every rank, cut up as a parameter is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
