"""Why a worker ended, in words for a user, and which of several ends is the one that caused the others.

It knows what a worker reported, its exit status and the end of its log; it starts and ends nothing.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace
from typing import Any

from hetspec_core.errors import Cancelled, ResourceError, StageFailed, recognise
from hetspec_core.jobs.crew import Member

_PASSING = frozenset({"crash", "cancelled", "ResourceError", "StageFailed"})
"""Kinds of errors after which starting the worker again can help; the others say what is wrong with what was asked."""

_ECHO = re.compile(
    r"connection (closed|reset|refused|was closed)|broken pipe|nccl|distbackend|distnetwork|distributed package|gloo"
    r"|processgroup|process group|tcpstore|socket|watchdog caught collective|heartbeat monitor|store->|peer closed"
    r"|remote process|unhandled system error",
    re.IGNORECASE,
)
"""What a rank says when another rank is gone."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended.

    Attributes:
        worker: its name.
        time: when it said so, or was seen to have ended; unix seconds.
        error: as in `events.ErrorInfo`; None = well.
        is_echo: whether it looks like the answer to the end of another worker.
        is_said: whether the worker said it itself.
    """

    worker: str
    time: float
    error: dict[str, Any] | None
    is_echo: bool = False
    is_said: bool = True

    @property
    def is_passing(self) -> bool:
        """Whether the same worker, started again, may come through."""
        return self.error is not None and self.error["kind"] in _PASSING


def error(kind: str, message: str, hint: str, exit_code: int) -> dict[str, Any]:
    """An error as the journal has it."""
    return {"kind": kind, "message": message, "hint": hint, "exit_code": exit_code}


def stopped() -> dict[str, Any]:
    """The end of a run that was asked to stop, when no worker says so."""
    return error("cancelled", "the worker was ended before a safe point", "", Cancelled.exit_code)


def cannot_start(reason: OSError) -> dict[str, Any]:
    """The end of a run whose worker could not be made."""
    return error("ResourceError", f"no worker could be started: {reason}", "", ResourceError.exit_code)


def ending_of(member: Member, status: int, seen: float) -> Ending:
    """How a buried member ended: as it reported, else as its exit status and its log tell.

    Args:
        member: a worker that reports.
        status: its exit status; negative = a signal.
        seen: when it was found to have ended.
    """
    report = member.report()
    if report is None:
        found = explain(member, status)
        aborted = status == -signal.SIGABRT and _ECHO.search(found["message"]) is not None
        return Ending(member.name, seen, found, is_echo=aborted, is_said=False)
    said = report.get("error")
    if not isinstance(said, dict):
        return Ending(member.name, float(report.get("time", seen)), None)
    found = error("", "", "", 1) | said
    return Ending(member.name, float(report["time"]), found, is_echo=_ECHO.search(found["message"]) is not None)


def explain(member: Member, status: int, who: str = "") -> dict[str, Any]:
    """What its exit status and its log tell of a worker that ended without a word."""
    who = who or member.name
    again = "what was written before is intact: resume the run"
    how = f"was killed by {signal_name(-status)}" if status < 0 else f"ended with status {status} without a word"
    if status == -signal.SIGKILL and member.saw_memory_end():
        message = f"the kernel killed {who}, because the machine was out of memory"
        hint = "lower tokens_per_batch or generation_batch, or free memory; then resume the run"
        return error("ResourceError", message, hint, ResourceError.exit_code)
    failure = recognise(member.last_words())
    if failure is None and member.saw_full_disk():
        message = f"the disk of the run folder is full, and {who} could not say more"
        return error("ResourceError", message, f"make room; {again}", ResourceError.exit_code)
    if failure is None:
        return error("StageFailed", f"{who} {how}", again, StageFailed.exit_code)
    return error("StageFailed", f"{who} {how}: {failure.message}", failure.hint, StageFailed.exit_code)


def first_cause(endings: list[Ending]) -> Ending:
    """The bad end that caused the others: the earliest that does not look like an echo, else the earliest."""

    def place(ending: Ending) -> tuple[bool, bool, float]:
        stopped_only = ending.error is not None and ending.error["kind"] == "cancelled"
        return ending.is_echo, stopped_only, ending.time

    return min(endings, key=place)


def with_worker(ending: Ending, starts: int = 1) -> Ending:
    """The same, its message saying which worker it was, and how often it was started."""
    assert ending.error is not None
    how_often = f" on each of {starts} starts" if starts > 1 else ""
    message = ending.error["message"]
    if not message.startswith(ending.worker):
        message = f"{ending.worker}: {message}"
    return replace(ending, error=ending.error | {"message": message + how_often})


def signal_name(number: int) -> str:
    """SIGKILL for 9, and so on."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
