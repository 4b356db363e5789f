"""The state of every random number generator of a process, as tensors. It knows no files and no loop.

Exact resume needs all of them: torch's on the CPU and the GPU, numpy's and Python's own, and the noise generator's.
"""

from __future__ import annotations

import random
import struct
import sys

import torch
from torch import Tensor

_PYTHON_VERSION = 3  # of random.getstate()'s tuple, the same since Python 3.2


def capture_rng(device: torch.device, noise: torch.Generator) -> dict[str, Tensor]:
    """The states now. Shapes are the same in every process, so that they can be gathered.

    Args:
        device: the device whose generator counts, besides the CPU's.
        noise: the loop's own generator.
    """
    states = {"torch": torch.get_rng_state(), "noise": noise.get_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    _, words, gauss = random.getstate()
    states["python"] = torch.tensor([*words, *_bits(gauss)], dtype=torch.int64)
    if "numpy" in sys.modules:
        import numpy

        state = numpy.random.get_state(legacy=False)
        inner = state["state"]  # the legacy generator is always MT19937
        gauss = state["gauss"] if state["has_gauss"] else None
        states["numpy"] = torch.tensor([*inner["key"].tolist(), inner["pos"], *_bits(gauss)], dtype=torch.int64)
    return {name: tensor.detach().cpu().clone() for name, tensor in states.items()}


def restore_rng(states: dict[str, Tensor], device: torch.device, noise: torch.Generator) -> None:
    """Put back what `capture_rng` gave; generators that it does not name stay as they are."""
    torch.set_rng_state(states["torch"])
    noise.set_state(states["noise"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    values = states["python"].tolist()
    random.setstate((_PYTHON_VERSION, tuple(values[:-2]), _number(*values[-2:])))
    if "numpy" in states:
        import numpy

        values = states["numpy"].tolist()
        gauss = _number(*values[-2:])
        key = numpy.asarray(values[:-3], dtype=numpy.uint32)
        numpy.random.set_state(("MT19937", key, values[-3], int(gauss is not None), gauss or 0.0))


def _bits(number: float | None) -> tuple[int, int]:
    """A float, or its absence, as two integers that give back exactly the same one."""
    return (0, 0) if number is None else (1, struct.unpack("<q", struct.pack("<d", number))[0])


def _number(present: int, bits: int) -> float | None:
    return struct.unpack("<d", struct.pack("<q", bits))[0] if present else None
