"""The exception tree of HetSpec, and the failures that are recognised in the last lines of a worker's log.

    HetSpecError                 1   anything that a user can act on
    |-- UsageError               2   a command line that is not accepted
    |-- SpecError                3   a preset, option or spec that is not valid (has every problem found)
    |-- NotFoundError            4   a run, preset, file or model that does not exist
    |-- DataError                5   a dataset, prompt file or hidden-state store that cannot be used
    |   `-- CorruptFileError     5   ... because its bytes are not those that were written
    |-- CheckpointError          6   a draft or training checkpoint that does not fit or cannot be read
    |-- ModelError               7   a base or draft that cannot be loaded or does not fit its partner
    |-- ResourceError            8   not enough disk, memory or devices
    |-- RunError                 9   a run whose state does not allow the command
    `-- StageFailed             10   a worker that failed
    Cancelled                  130   no error: the user asked the run to stop

The number is the exit status of the process. Every error has a `message`, and a `hint` that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class HetSpecError(Exception):
    """Base of all errors that are shown to a user as one sentence and a hint.

    Args:
        message: what is wrong, and what is allowed; one sentence that names the file or key.
        hint: what to do about it; empty when the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(HetSpecError):
    """A command line that is not accepted."""

    exit_code = 2


class SpecError(HetSpecError):
    """A preset, option or spec that is not valid. `problems` lists every fault, not only the first."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{self.message}{lines}" + (f"\n({self.hint})" if self.hint else "")


class NotFoundError(HetSpecError):
    """A run, preset, file or model that does not exist."""

    exit_code = 4


class DataError(HetSpecError):
    """A dataset, prompt file or hidden-state store that cannot be used."""

    exit_code = 5


class CorruptFileError(DataError):
    """A file whose bytes are not the ones that were written (truncated, or checksum differs)."""


class CheckpointError(HetSpecError):
    """A draft or training checkpoint that does not fit or cannot be read."""

    exit_code = 6


class ModelError(HetSpecError):
    """A base or draft that cannot be loaded, or that does not fit its partner."""

    exit_code = 7


class ResourceError(HetSpecError):
    """Not enough disk, memory or devices."""

    exit_code = 8


class RunError(HetSpecError):
    """A run whose state does not allow the command."""

    exit_code = 9


class StageFailed(HetSpecError):
    """A worker failed; the message is the worker's own, the hint names its log."""

    exit_code = 10


class Cancelled(HetSpecError):
    """The user asked the run to stop, and it stopped in a state that can be resumed."""

    exit_code = 130

    def __init__(self, message: str = "cancelled", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


# --- failures in logs -------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """A recognised failure: its name, one sentence and what to do."""

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
