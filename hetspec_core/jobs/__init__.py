"""Processes that work on runs: starting and stopping them."""

from hetspec_core.jobs.executor import Executor, Job
from hetspec_core.jobs.local import MAIN_WORKER, WORKER_MODULE, LocalExecutor, LocalJob

__all__ = ["MAIN_WORKER", "WORKER_MODULE", "Executor", "Job", "LocalExecutor", "LocalJob"]
