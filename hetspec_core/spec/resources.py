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
