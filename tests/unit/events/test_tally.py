"""Progress of workers that share a task adds up, whatever the order in which they speak."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.events import Progress, Tally
from hetspec_core.runs.rows import RunRow, apply


def part(number: int, done: float, total: float | None, workers: int = 3) -> Progress:
    return Progress(task="capture", done=done, total=total, unit="tokens", worker=f"worker-{number}", workers=workers)


@given(order=st.permutations([0, 1, 2]), totals=st.lists(st.integers(1, 1000), min_size=3, max_size=3))
def test_when_all_have_spoken_the_sum_is_exact(order: list[int], totals: list[int]) -> None:
    tally = Tally()
    for number in order:
        whole = tally.add(part(number, totals[number] // 2, totals[number]))
    assert whole.total == sum(totals) and whole.done == sum(total // 2 for total in totals)
    assert (whole.workers, whole.note) == (1, "")


def test_the_total_does_not_jump_while_workers_begin() -> None:
    tally = Tally()
    totals = [tally.add(part(number, 0, 100 + number)).total for number in range(3)]
    assert totals == [300, 302, 303]


def test_a_reader_sees_each_worker_and_the_sum() -> None:
    shown = Tally().show(part(1, 5, 10, workers=2))
    assert [(event.task, event.done, event.total) for event in shown] == [
        ("capture (worker-1)", 5, 10),
        ("capture", 5, 20),
    ]
    alone = Progress(task="train", done=1)
    assert Tally().show(alone) == [alone]


@given(cuts=st.lists(st.integers(0, 6), max_size=4))
def test_a_row_is_the_same_however_the_journal_is_cut(cuts: list[int]) -> None:
    events = [part(number, 10.0 * step, 100) for step in range(2) for number in range(3)]
    whole = apply(RunRow("r"), events).row
    row, start = RunRow("r"), 0
    for cut in [*sorted(cuts), len(events)]:
        row = RunRow.from_columns(apply(row, events[start:cut]).row.to_columns())
        start = cut
    assert row == whole and (row.done, row.total) == (30.0, 300.0)
