"""The state of a run follows from its journals and from whether its process lives, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.events import (
    CancelAsked,
    EndState,
    ErrorInfo,
    Event,
    FoundLost,
    Launched,
    Log,
    Progress,
    RunEnded,
    RunFacts,
    RunStarted,
    Submitted,
    derive_state,
    fold,
)
from hetspec_core.process import ProcessIdentity


def launched(attempt: int) -> Launched:
    return Launched(time=10.0 * attempt, attempt=attempt, pid=100 + attempt, host="h", birth=f"b{attempt}")


def started(attempt: int) -> RunStarted:
    return RunStarted(
        time=10.0 * attempt + 1, stage="train", attempt=attempt, pid=100 + attempt, host="h", birth=f"b{attempt}"
    )


def ended(state: EndState) -> RunEnded:
    return RunEnded(time=99.0, state=state)


def facts_of(events: Iterable[Event]) -> RunFacts:
    facts = RunFacts()
    for event in events:
        facts = fold(facts, event)
    return facts


ALIVE, DEAD, UNKNOWN = True, False, None
CASES: list[tuple[str, list[Event], list[Event], bool | None]] = [
    ("queued", [Submitted(time=1)], [], DEAD),
    ("cancelled", [Submitted(time=1), CancelAsked(attempt=0)], [], DEAD),
    ("starting", [launched(1)], [], ALIVE),
    ("lost", [launched(1)], [], DEAD),
    ("running", [launched(1)], [started(1)], ALIVE),
    ("running", [launched(1)], [started(1)], UNKNOWN),
    ("running", [], [started(1)], ALIVE),
    ("running", [launched(1), CancelAsked(attempt=1)], [started(1)], ALIVE),
    ("lost", [launched(1)], [started(1), Progress(task="t", done=1)], DEAD),
    ("lost", [launched(1), FoundLost(attempt=1)], [started(1)], UNKNOWN),
    ("cancelled", [launched(1), CancelAsked(attempt=1, forced=True)], [started(1)], DEAD),
    ("succeeded", [launched(1)], [started(1), ended("succeeded")], DEAD),
    ("succeeded", [launched(1)], [started(1), ended("succeeded")], ALIVE),
    ("failed", [launched(1)], [started(1), ended("failed")], DEAD),
    ("cancelled", [launched(1), CancelAsked(attempt=1)], [started(1), ended("cancelled")], DEAD),
    ("starting", [launched(1), launched(2)], [started(1), ended("failed")], ALIVE),
    ("lost", [launched(1), launched(2)], [started(1), ended("failed")], DEAD),
    ("running", [launched(1), launched(2)], [started(1), ended("failed"), started(2)], ALIVE),
    ("running", [launched(1), FoundLost(attempt=1), launched(2)], [started(1), started(2)], ALIVE),
    ("lost", [launched(1), CancelAsked(attempt=1), launched(2)], [started(1), ended("cancelled"), started(2)], DEAD),
    ("succeeded", [launched(1), launched(2)], [started(1), started(2), ended("succeeded")], DEAD),
    ("starting", [CancelAsked(attempt=0), launched(1)], [], ALIVE),
]


@pytest.mark.parametrize(("state", "desk", "journal", "alive"), CASES)
def test_state_of(state: str, desk: list[Event], journal: list[Event], alive: bool | None) -> None:
    assert derive_state(facts_of([*desk, *journal]), lambda process: alive) == state


@given(case=st.sampled_from(CASES), order=st.randoms(use_true_random=False))
def test_it_does_not_matter_how_the_two_journals_are_interleaved(
    case: tuple[str, list[Event], list[Event], bool | None], order: object
) -> None:
    state, desk, journal, alive = case
    choose = order.random  # type: ignore[attr-defined]
    left, right, mixed = list(desk), list(journal), []
    while left or right:
        source = left if left and (not right or choose() < 0.5) else right
        mixed.append(source.pop(0))
    assert facts_of(mixed) == facts_of([*desk, *journal])
    assert derive_state(facts_of(mixed), lambda process: alive) == state


def test_only_the_process_of_the_newest_attempt_is_asked_for() -> None:
    asked: list[ProcessIdentity] = []

    def is_alive(process: ProcessIdentity) -> bool:
        asked.append(process)
        return True

    derive_state(facts_of([launched(1), started(1), launched(2)]), is_alive)
    assert asked == [ProcessIdentity(102, "b2", "h")]


def test_other_events_change_nothing() -> None:
    facts = facts_of([Submitted(time=1), launched(1), started(1)])
    assert fold(facts, Log(message="x")) == facts


def test_why_and_when_it_ended_is_known() -> None:
    error = ErrorInfo(kind="DataError", message="m", hint="h", exit_code=5)
    facts = facts_of([launched(1), started(1), RunEnded(time=50.0, state="failed", error=error)])
    assert (facts.error, facts.end_time, facts.first_start) == (error, 50.0, 11.0)
