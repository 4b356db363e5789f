"""The processes that train together: collectives over all ranks, FSDP, and experiment trackers.

FSDP is torch's `fully_shard`: each rank keeps a part of the draft's weights and of the optimizer's moments. A layer's
weights are gathered for its forward and backward, and all of them for an evaluation or a checkpoint, so files and
figures do not depend on sharding. The functions do not change a draft that is not sharded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hetspec_core.documents import flatten
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.errors import NotFoundError
from hetspec_core.spec import RunSpec, Scalar
from hetspec_core.spec.training import TRACKERS


class Processes:
    """Collectives over all ranks of an accelerator."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.world_size = int(accelerator.num_processes)
        self.rank = int(accelerator.process_index)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes for all on its machine; each machine has a run folder of its own."""
        return self.world_size == 1 or int(os.environ.get("LOCAL_RANK", str(self.rank))) == 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a [...] tensor over all ranks, on every rank."""
        if self.world_size == 1:
            return tensor
        total = tensor.to(self.device).clone()
        torch.distributed.all_reduce(total)
        return total

    def max(self, tensor: Tensor) -> Tensor:
        """[...] the largest value of each element over all ranks, on every rank."""
        if self.world_size == 1:
            return tensor
        largest = tensor.to(self.device).clone()
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return largest

    def agree(self, number: float) -> float:
        """The first rank's number, on every rank (waits for the device)."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number, dtype=torch.float64, device=self.device)
        torch.distributed.broadcast(value, src=0)
        return float(value)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank (waits for the device)."""
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """One [...] tensor of the same shape from each rank, in the order of ranks, on the CPU."""
        if self.world_size == 1:
            return [tensor.cpu()]
        mine = tensor.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.world_size)]
        torch.distributed.all_gather(found, mine)
        return [each.cpu() for each in found]

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()


def shard(draft: DraftLM, device: torch.device, world_size: int) -> None:
    """Shard a draft over all ranks, layer by layer and then the rest; its parameters become DTensors."""
    mesh = init_device_mesh(device.type, (world_size,))
    for layer in draft.backbone.decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=False)
    fully_shard(draft, mesh=mesh, reshard_after_forward=False)


@contextmanager
def unsharded(draft: nn.Module) -> Iterator[None]:
    """Inside the block all weights of a draft are on this rank as plain tensors; every rank must enter it."""
    parts = [module for module in draft.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def prepare(accelerator: Accelerator, draft: DraftLM) -> nn.Module:
    """The model that the loop calls: in its precision, and wrapped in DDP when each rank has all weights."""
    is_sharded = isinstance(draft, FSDPModule)
    return accelerator.prepare_model(draft, device_placement=not is_sharded, evaluation_mode=is_sharded)


@contextmanager
def no_grad_sync(accelerator: Accelerator, model: nn.Module, *, until_last: bool) -> Iterator[None]:
    """Exchange no gradients in this block if `until_last`: the last micro-batch exchanges them once."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(not until_last)
        yield
    elif until_last:
        with accelerator.no_sync(model):
            yield
    else:
        yield


def full(tensor: Tensor) -> Tensor:
    """A [...] tensor gathered from the shards of all ranks; every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's shard of a [...] tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A [...] tensor that is the same on every rank, sharded as a parameter of that shape is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def check_trackers(names: Sequence[str]) -> None:
    """Check before any work is done that every tracker is installed; trackers have the names of their packages.

    Raises:
        NotFoundError: a tracker is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise NotFoundError(
            f"training is to be reported to {', '.join(missing)}, which is not installed",
            hint=f"pip install {' '.join(missing)}, or leave training.report_to empty",
        )


def start_trackers(accelerator: Accelerator, spec: RunSpec, folder: Path) -> None:
    """Open the trackers of the accelerator; a resumed run keeps its run id."""
    if not spec.training.report_to:
        return
    names = {"run_id": folder.name, "folder": str(folder)}
    accelerator.init_trackers(
        spec.training.project,
        config=tracker_config(spec.model_dump(mode="json")),
        init_kwargs={
            tracker: {argument: text.format(**names) for argument, text in TRACKERS[tracker].items()}
            for tracker in spec.training.report_to
        },
    )


def tracker_config(record: dict[str, Any]) -> dict[str, Scalar]:
    """A nested record as dotted keys and scalar values, the form that every tracker takes."""
    values = flatten(record, keep_empty=False).items()
    return {key: value if isinstance(value, Scalar) else str(value) for key, value in values if value is not None}


def finish_trackers(accelerator: Accelerator) -> None:
    """Close the trackers of a training that ends with an error; its process group is left open."""
    for tracker in accelerator.trackers:
        tracker.finish()
