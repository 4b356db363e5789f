"""The processes that train together, as the few questions that the loop asks them. One process is the common case."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from torch import Tensor


class Processes:
    """Sums, agreements and gatherings over all ranks.

    Args:
        accelerator: knows how the ranks are joined.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.world_size = int(accelerator.num_processes)
        self.rank = int(accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks and writes for all on its machine. Machines that train together have a run folder
        each, and the same is written into all of them.
        """
        return self.world_size == 1 or int(os.environ.get("LOCAL_RANK", str(self.rank))) == 0

    @property
    def is_first(self) -> bool:
        """Whether this rank is the first of all, whose numbers the others take."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on every rank."""
        if self.world_size == 1:
            return tensor
        total = tensor.to(self._accelerator.device).clone()
        torch.distributed.all_reduce(total)
        return total

    def max(self, tensor: Tensor) -> Tensor:
        """The largest value of each element over all ranks, on every rank."""
        if self.world_size == 1:
            return tensor
        largest = tensor.to(self._accelerator.device).clone()
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return largest

    def agree(self, number: float) -> float:
        """The first rank's number, on every rank (waits for the device)."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number, dtype=torch.float64, device=self._accelerator.device)
        torch.distributed.broadcast(value, src=0)
        return float(value)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank (waits for the device)."""
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(float(flag))) > 0)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """One tensor of the same shape from each rank, in the order of ranks, on the CPU."""
        if self.world_size == 1:
            return [tensor.cpu()]
        mine = tensor.to(self._accelerator.device)
        found = [torch.empty_like(mine) for _ in range(self.world_size)]
        torch.distributed.all_gather(found, mine)
        return [each.cpu() for each in found]

    def wait(self) -> None:
        """Return when every rank has come here."""
        self._accelerator.wait_for_everyone()
