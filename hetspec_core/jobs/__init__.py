"""Processes that work on runs, the GPUs they lease, and the order in which they wait for them."""

from hetspec_core.jobs.children import end_marked
from hetspec_core.jobs.crew import CrewPlan
from hetspec_core.jobs.gpus import GpuStatus, Inventory, gpu_status, read_inventory, visible_here
from hetspec_core.jobs.local import MAIN_WORKER, WORKER_MODULE, LocalExecutor, LocalJob
from hetspec_core.jobs.queue import GpuRequest, Queue, Waiting, place

__all__ = [
    "MAIN_WORKER",
    "WORKER_MODULE",
    "CrewPlan",
    "GpuRequest",
    "GpuStatus",
    "Inventory",
    "LocalExecutor",
    "LocalJob",
    "Queue",
    "Waiting",
    "end_marked",
    "gpu_status",
    "place",
    "read_inventory",
    "visible_here",
]
