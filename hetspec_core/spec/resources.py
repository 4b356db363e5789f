"""Spec of what a run may use of the machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hetspec_core.spec._base import Spec


class ResourcesSpec(Spec):
    """Devices, number type and threads."""

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto = cuda when there is one.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number type of the base: auto = bfloat16 on a GPU, float32 on a CPU (bfloat16 for datasets stored "
        "in it, where the processor multiplies in it).",
    )
    num_threads: int | None = Field(
        default=None, gt=0, description="CPU threads of a worker; the machine's cores when absent."
    )
    num_gpus: int = Field(default=1, ge=0, description="GPUs wanted, when the device is cuda.")
    gpus: tuple[str, ...] = Field(default=(), description="Only these GPUs, each an index or a UUID; empty = any.")
    min_free_gib: float = Field(default=0.0, ge=0, description="Only GPUs with so much free memory, in GiB.")
    share_busy: bool = Field(default=False, description="Take GPUs on which a process of somebody else's works too.")
    priority: int = Field(default=0, description="Place among runs that wait for GPUs; higher is earlier.")
