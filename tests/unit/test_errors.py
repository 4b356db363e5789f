"""What is recognised in the last lines of a log."""

from __future__ import annotations

import pytest

from hetspec_core.errors import recognise


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "gpu_memory"),
        ("RuntimeError: CUDA error: device-side assert triggered", "cuda"),
        ("torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2251", "nccl"),
        ("RuntimeError: CUDA error: no kernel image is available for execution", "cuda_version"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "memory"),
        ("OSError: [Errno 28] No space left on device", "disk"),
    ],
)
def test_a_failure_is_recognised_and_has_a_hint(line: str, kind: str) -> None:
    failure = recognise(f"warming up\n{line}\nbye\n")
    assert failure is not None and failure.kind == kind and failure.hint


def test_the_last_failure_counts_and_an_ordinary_log_has_none() -> None:
    failure = recognise("CUDA out of memory\nretrying\nNCCL error: unhandled system error")
    assert failure is not None and failure.kind == "nccl"
    assert recognise("step 1  loss 0.5\n") is None
