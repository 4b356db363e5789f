"""Processes that work on runs, the GPUs and processor slots they lease, and the order in which they wait for them."""

from hetspec_core.jobs.executor import Executor, Job, Observation, look_at, open_executor, run_state
from hetspec_core.jobs.leases import (
    GpuStatus,
    Inventory,
    SlotStatus,
    gpu_status,
    read_inventory,
    slot_count,
    slot_status,
    visible_here,
)
from hetspec_core.jobs.queue import PARENT_ENDED, GpuRequest, Outcome, Queue, Waiting, outcome, place
from hetspec_core.jobs.workers import WorkerPlan

__all__ = [
    "PARENT_ENDED",
    "Executor",
    "GpuRequest",
    "GpuStatus",
    "Inventory",
    "Job",
    "Observation",
    "Outcome",
    "Queue",
    "SlotStatus",
    "Waiting",
    "WorkerPlan",
    "gpu_status",
    "look_at",
    "open_executor",
    "outcome",
    "place",
    "read_inventory",
    "run_state",
    "slot_count",
    "slot_status",
    "visible_here",
]
