"""What the last lines of a worker's log say about why it ended. It knows texts, neither processes nor runs."""

from __future__ import annotations

import re
from typing import NamedTuple


class Failure(NamedTuple):
    """A failure that was recognised: a name, one sentence and what to do."""

    kind: str
    message: str
    hint: str


_MEMORY_HINT = "lower tokens_per_batch or generation_batch, or use a smaller number type"
_PATTERNS = (
    (
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory",
        Failure("gpu_memory", "out of memory on the GPU", _MEMORY_HINT),
    ),
    (
        r"ncclInternalError|ncclSystemError|ncclRemoteError|ncclUnhandledCudaError|NCCL error|DistBackendError"
        r"|Watchdog caught collective operation timeout",
        Failure(
            "nccl",
            "the GPUs could not talk to each other (NCCL)",
            "set NCCL_DEBUG=INFO and resume; NCCL_P2P_DISABLE=1 or NCCL_IB_DISABLE=1 leaves out a broken link",
        ),
    ),
    (
        r"CUDA driver version is insufficient|no kernel image is available|Found no NVIDIA driver",
        Failure("cuda_version", "this torch and this driver do not fit", "update the driver, or install another torch"),
    ),
    (
        r"CUDA error|CUDNN_STATUS_|CUBLAS_STATUS_|device-side assert|cudaErrorECC|uncorrectable ECC",
        Failure(
            "cuda", "a CUDA call failed", "set CUDA_LAUNCH_BLOCKING=1 and resume, so that the log names the operation"
        ),
    ),
    (
        r"MemoryError|Cannot allocate memory|DefaultCPUAllocator: can't allocate|std::bad_alloc",
        Failure("memory", "out of memory", _MEMORY_HINT),
    ),
    (
        r"No space left on device",
        Failure("disk", "the disk is full", "what was written before is intact; make room, then resume the run"),
    ),
)


def recognise(text: str) -> Failure | None:
    """The failure that is named last in `text`; None when none of those known is."""
    last: tuple[int, Failure] | None = None
    for pattern, failure in _PATTERNS:
        for match in re.finditer(pattern, text):
            if last is None or match.start() > last[0]:
                last = (match.start(), failure)
    return last[1] if last else None
