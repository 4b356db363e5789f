"""The GPUs and processor slots of this machine, and the leases that runs have on them.

A lease is the lock of a file, `gpus/UUID.lock` or `slots/NAME.lock` below the data root, held by the run's supervisor:
the kernel releases it however the supervisor ends. Leases bind the runs of one data root.

A processor slot stands for the whole processor: runs that compute side by side slow each other down, and what they
measure means nothing. `HETSPEC_CPU_SLOTS` sets how many there are. `HETSPEC_FAKE_GPUS=4` puts four simulated GPUs in
the place of the real ones.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hetspec_core.errors import UsageError
from hetspec_core.files import is_locked, take_lock

FAKE_VARIABLE = "HETSPEC_FAKE_GPUS"
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
SLOTS_VARIABLE = "HETSPEC_CPU_SLOTS"
USUAL_SLOTS = 1
_MIB = 1 << 20
_LEASE_PATIENCE_S = 2.0


@dataclass(frozen=True)
class GpuProcess:
    """A process that has memory on a GPU."""

    pid: int
    memory_mib: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU now. Values that the driver does not give are None."""

    index: int
    uuid: str
    name: str
    memory_mib: int
    free_mib: int
    utilisation: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """All GPUs, and when there are none, why."""

    gpus: tuple[Gpu, ...]
    reason: str = ""


@dataclass(frozen=True)
class GpuStatus:
    """A GPU and who has it: `leased` by a run, `busy` with another program, or `free`."""

    gpu: Gpu
    state: str
    run_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self.gpu) | {"state": self.state, "run_id": self.run_id}


def read_inventory() -> Inventory:
    """The GPUs as the driver reports them now."""
    fake = os.environ.get(FAKE_VARIABLE)
    if fake:
        if not fake.isdecimal():
            return Inventory((), f"{FAKE_VARIABLE} is {fake!r}; it needs a number")
        return Inventory(tuple(_fake(index) for index in range(int(fake))), "")
    try:
        import pynvml
    except ImportError:
        return Inventory((), "nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Inventory((), f"no NVIDIA driver answers: {error}")
    try:
        return Inventory(tuple(_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())))
    except pynvml.NVMLError as error:
        return Inventory((), f"the NVIDIA driver does not answer: {error}")
    finally:
        pynvml.nvmlShutdown()


def _fake(index: int) -> Gpu:
    return Gpu(index, f"GPU-fake-{index:04d}", "Simulated GPU", 81_920, 81_000, 0, 30, 50.0)


def _read(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(question: Any, *words: Any) -> Any:
        try:
            return question(handle, *words)
        except nvml.NVMLError:  # e.g. no power sensor, or utilisation under MIG
            return None

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    utilisation = ask(nvml.nvmlDeviceGetUtilizationRates)
    power = ask(nvml.nvmlDeviceGetPowerUsage)
    processes = ask(nvml.nvmlDeviceGetComputeRunningProcesses) or ()
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_mib=memory.total // _MIB,
        free_mib=memory.free // _MIB,
        utilisation=None if utilisation is None else int(utilisation.gpu),
        temperature_c=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        power_w=None if power is None else power / 1000,
        processes=tuple(
            GpuProcess(item.pid, None if item.usedGpuMemory is None else item.usedGpuMemory // _MIB)
            for item in processes
        ),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def gpu_lease(data: Path, uuid: str) -> Path:
    """The file whose lock is the lease of a GPU."""
    return data / "gpus" / f"{uuid}.lock"


def slot_lease(data: Path, name: str) -> Path:
    """The file whose lock is the lease of a processor slot."""
    return data / "slots" / f"{name}.lock"


def take_lease(path: Path, run_id: str) -> int | None:
    """Take a lease for a run; returns the file to hold, None when another run has the lease."""
    file = take_lock(path, patience_s=_LEASE_PATIENCE_S)
    if file is not None:
        os.ftruncate(file, 0)
        os.pwrite(file, run_id.encode(), 0)
    return file


def gpu_status(data: Path, inventory: Inventory) -> list[GpuStatus]:
    """Who has which GPU now."""
    found = []
    for gpu in inventory.gpus:
        path = gpu_lease(data, gpu.uuid)
        if is_locked(path):
            found.append(GpuStatus(gpu, "leased", path.read_text(encoding="utf-8")))
        else:
            found.append(GpuStatus(gpu, "busy" if gpu.processes else "free"))
    return found


def visible_here(inventory: Inventory) -> tuple[str, ...] | None:
    """UUIDs that CUDA_VISIBLE_DEVICES of this process leaves; None when it is not set."""
    words = os.environ.get(VISIBLE_VARIABLE)
    if words is None:
        return None
    names = [word.strip() for word in words.split(",") if word.strip()]
    return tuple(gpu.uuid for gpu in inventory.gpus if any(is_named(gpu, name) for name in names))


def is_named(gpu: Gpu, word: str) -> bool:
    """Whether a word, an index or the beginning of a UUID, means this GPU."""
    return word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))


@dataclass(frozen=True)
class SlotStatus:
    """A processor slot and the run that has it; empty when it is free."""

    name: str
    run_id: str = ""


def slot_count() -> int:
    """How many slots this machine has: HETSPEC_CPU_SLOTS, one when it is absent; 0 = runs wait for none.

    Raises:
        UsageError: the variable is not a whole number from 0.
    """
    word = os.environ.get(SLOTS_VARIABLE, "").strip()
    if not word:
        return USUAL_SLOTS
    if not (word.isascii() and word.isdecimal() and len(word) < 5):
        raise UsageError(
            f"{SLOTS_VARIABLE} is {word!r}; it needs a whole number from 0 to 9999",
            hint="1 = one run computes on the processor at a time, 0 = no run waits for another",
        )
    return int(word)


def slot_status(data: Path) -> list[SlotStatus]:
    """Who has which slot now. A variable that is not a number counts as absent here: a start has refused it."""
    try:
        count = slot_count()
    except UsageError:
        count = USUAL_SLOTS
    found = []
    for number in range(count):
        path = slot_lease(data, f"cpu-{number}")
        holder = ""
        if is_locked(path):  # the name is written right after the lock is taken
            holder = path.read_text(encoding="utf-8", errors="replace") or "another run"
        found.append(SlotStatus(f"cpu-{number}", holder))
    return found
