"""Processes that work on runs, the GPUs and processor slots they lease, and the order in which they wait for them."""

from hetspec_core.jobs.children import end_marked
from hetspec_core.jobs.crew import CrewPlan
from hetspec_core.jobs.gpus import GpuStatus, Inventory, gpu_status, read_inventory, visible_here
from hetspec_core.jobs.local import MAIN_WORKER, WORKER_MODULE, LocalExecutor, LocalJob
from hetspec_core.jobs.outcome import Outcome, outcome
from hetspec_core.jobs.presence import is_at_work, is_copy, run_folder_of
from hetspec_core.jobs.queue import PARENT_ENDED, GpuRequest, Queue, Waiting, place
from hetspec_core.jobs.slots import SlotStatus, slot_count, slot_status

__all__ = [
    "MAIN_WORKER",
    "PARENT_ENDED",
    "WORKER_MODULE",
    "CrewPlan",
    "GpuRequest",
    "GpuStatus",
    "Inventory",
    "LocalExecutor",
    "LocalJob",
    "Outcome",
    "Queue",
    "SlotStatus",
    "Waiting",
    "end_marked",
    "gpu_status",
    "is_at_work",
    "is_copy",
    "outcome",
    "place",
    "read_inventory",
    "run_folder_of",
    "slot_count",
    "slot_status",
    "visible_here",
]
