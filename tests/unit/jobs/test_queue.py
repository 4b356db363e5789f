"""Who gets which GPUs: order, reservation, and what is on the machine."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.jobs import GpuRequest, GpuStatus, Queue, Waiting, WorkerPlan, place, read_inventory, visible_here
from hetspec_core.jobs.leases import (
    Gpu,
    SlotStatus,
    gpu_lease,
    gpu_status,
    slot_count,
    slot_lease,
    slot_status,
    take_lease,
)
from hetspec_core.paths import RunPaths


def gpu(index: int, state: str = "free", free_mib: int = 1000) -> GpuStatus:
    return GpuStatus(Gpu(index, f"GPU-{index}", "g", 1000, free_mib), state)


def waiting(run_id: str, count: int, *, priority: int = 0, since: float = 0.0, **request: object) -> Waiting:
    return Waiting(run_id, 1, GpuRequest(count, **request), priority, since, "m", {})  # type: ignore[arg-type]


def test_runs_that_find_their_gpus_start_in_order() -> None:
    placed = place([waiting("a", 1), waiting("b", 2)], [gpu(0), gpu(1), gpu(2)])
    assert placed == {"a": ("GPU-0",), "b": ("GPU-1", "GPU-2")}


def test_a_run_that_waits_for_four_gpus_is_not_overtaken_by_runs_of_one() -> None:
    gpus = [gpu(0, "leased"), gpu(1), gpu(2), gpu(3)]
    assert place([waiting("big", 4), waiting("small", 1)], gpus) == {}
    assert place([waiting("big", 4), waiting("small", 1)], [gpu(i) for i in range(4)]) == {
        "big": ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
    }


def test_a_run_starts_on_gpus_that_nobody_before_it_can_use() -> None:
    gpus = [gpu(0), gpu(1, "leased"), gpu(2)]
    assert place([waiting("named", 2, names=("0", "1")), waiting("any", 1)], gpus) == {"any": ("GPU-2",)}


def test_a_busy_gpu_is_taken_only_by_force_and_then_last() -> None:
    gpus = [gpu(0, "busy"), gpu(1)]
    assert place([waiting("a", 2)], gpus) == {}
    assert place([waiting("a", 1, force=True)], gpus) == {"a": ("GPU-1",)}
    assert place([waiting("a", 2, force=True)], gpus) == {"a": ("GPU-1", "GPU-0")}


def test_free_memory_is_asked_for() -> None:
    assert place([waiting("a", 1, min_free_mib=800)], [gpu(0, free_mib=500), gpu(1, free_mib=900)]) == {"a": ("GPU-1",)}


@given(
    counts=st.lists(st.integers(1, 4), max_size=8),
    states=st.lists(st.sampled_from(["free", "leased", "busy"]), max_size=6),
)
def test_no_gpu_is_given_twice_and_nobody_gets_what_is_not_free(counts: list[int], states: list[str]) -> None:
    gpus = [gpu(index, state) for index, state in enumerate(states)]
    placed = place([waiting(f"r{number}", count) for number, count in enumerate(counts)], gpus)
    given_out = [uuid for uuids in placed.values() for uuid in uuids]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= {status.gpu.uuid for status in gpus if status.state == "free"}
    started = [f"r{number}" in placed for number in range(len(counts))]
    assert started == sorted(started, reverse=True)  # all could use any GPU: none starts behind one that waits


def test_the_queue_is_by_priority_then_age_and_can_be_changed(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    for number, name in enumerate("abc"):
        queue.put(waiting(name, 1, since=float(number), priority=1 if name == "c" else 0))

    def order() -> str:
        return "".join(entry.run_id for entry in Queue(tmp_path).entries())

    assert order() == "cab"
    queue.move("b", before="a")
    assert order() == "cba"
    queue.move("a", priority=2)
    assert order() == "acb"
    queue.move("b", before="c")
    assert order() == "abc"
    with pytest.raises(NotFoundError, match="does not wait"):
        queue.move("x", priority=1)
    (queue.folder / "torn.json").write_text('{"run_id": "to')
    assert order() == "abc"


def test_an_entry_of_an_older_version_waits_with_its_workers_and_the_executor_of_this_machine(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    entry = replace(waiting("old", 2), workers=WorkerPlan("ranks", 2))
    queue.put(entry)
    path = queue.folder / "old.json"
    written = json.loads(path.read_text())
    written["crew"] = written.pop("workers")
    for name in ("executor", "home", "submitted"):
        del written[name]
    path.write_text(json.dumps(written))
    assert queue.entries() == [entry]


def test_an_entry_without_a_run_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "1")
    queue = Queue(tmp_path)
    queue.put(waiting("gone", 1))
    assert queue.dispatch() == {}
    assert queue.waiting_ids() == frozenset()


def test_an_entry_of_a_home_that_was_moved_is_no_copy(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    paths = RunPaths(first / "runs" / "it")
    paths.folder.mkdir(parents=True)
    paths.spec.touch()
    Queue(first).put(waiting("it", 1))
    shutil.copytree(first, second)
    assert [entry.original(first) for entry in Queue(first).entries()] == [None]
    assert [entry.original(second) for entry in Queue(second).entries()] == [first]
    first.rename(tmp_path / "moved")
    assert [entry.original(second) for entry in Queue(second).entries()] == [None]
    (entry,) = Queue(second).entries()
    assert replace(entry, home=None).original(second) is None, "an entry of an older version"


def test_a_lease_is_one_runs_until_it_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    monkeypatch.setattr("hetspec_core.jobs.leases._LEASE_PATIENCE_S", 0.05)
    inventory = read_inventory()
    uuid = inventory.gpus[1].uuid
    lease = take_lease(gpu_lease(tmp_path, uuid), "some-run")
    assert lease is not None
    assert take_lease(gpu_lease(tmp_path, uuid), "other") is None
    assert [(status.state, status.run_id) for status in gpu_status(tmp_path, inventory)] == [
        ("free", ""),
        ("leased", "some-run"),
    ]
    os.close(lease)
    assert [status.state for status in gpu_status(tmp_path, inventory)] == ["free", "free"]


def test_only_the_visible_gpus_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "3")
    inventory = read_inventory()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_here(inventory) is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"2,{inventory.gpus[0].uuid}")
    assert visible_here(inventory) == (inventory.gpus[0].uuid, inventory.gpus[2].uuid)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_here(inventory) == ()


def test_a_machine_without_a_driver_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HETSPEC_FAKE_GPUS", raising=False)
    inventory = read_inventory()
    assert inventory.gpus or inventory.reason
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "many")
    assert "needs a number" in read_inventory().reason


# --- processor slots --------------------------------------------------------------------------------------------------


def computing(run_id: str, slots: int = 1) -> Waiting:
    return waiting(run_id, 0, cpu_slots=slots)


def test_one_run_computes_on_the_processor_at_a_time_and_the_rest_waits_in_order() -> None:
    runs = [computing("a"), computing("b"), computing("c")]
    assert place(runs, [], [SlotStatus("cpu-0")]) == {"a": ("cpu-0",)}
    assert place(runs, [], [SlotStatus("cpu-0", "other")]) == {}
    assert place(runs, [], [SlotStatus("cpu-0"), SlotStatus("cpu-1")]) == {"a": ("cpu-0",), "b": ("cpu-1",)}


def test_a_run_that_needs_two_slots_is_not_overtaken_and_one_that_needs_none_does_not_wait() -> None:
    slots = [SlotStatus("cpu-0", "other"), SlotStatus("cpu-1")]
    assert place([computing("both", 2), computing("one"), computing("none", 0)], [], slots) == {"none": ()}
    free = [SlotStatus("cpu-0"), SlotStatus("cpu-1")]
    assert place([computing("both", 2), computing("one")], [], free) == {"both": ("cpu-0", "cpu-1")}
    assert place([computing("many", 9)], [], free) == {"many": ("cpu-0", "cpu-1")}  # all that there are


def test_runs_on_gpus_and_runs_on_the_processor_do_not_wait_for_each_other() -> None:
    gpus, slots = [gpu(0, "leased"), gpu(1)], [SlotStatus("cpu-0", "other")]
    assert place([waiting("two", 2), computing("here"), waiting("none", 0)], gpus, slots) == {"none": ()}
    assert place([computing("here"), waiting("one", 1)], gpus, slots) == {"one": ("GPU-1",)}
    assert place([waiting("two", 2), computing("here")], gpus, [SlotStatus("cpu-0")]) == {"here": ("cpu-0",)}


@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.sampled_from(["", "other"]), max_size=4))
def test_no_slot_is_given_twice_and_the_order_is_kept(wanted: list[int], holders: list[str]) -> None:
    slots = [SlotStatus(f"cpu-{number}", holder) for number, holder in enumerate(holders)]
    placed = place([computing(f"r{number}", size) for number, size in enumerate(wanted)], [], slots)
    given_out = [name for names in placed.values() for name in names]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= {slot.name for slot in slots if not slot.run_id}
    waits = [f"r{number}" in placed for number, size in enumerate(wanted) if min(size, len(slots))]
    assert waits == sorted(waits, reverse=True)


def test_a_slot_is_held_until_its_file_is_closed_and_says_by_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETSPEC_CPU_SLOTS", "2")
    held = take_lease(slot_lease(tmp_path, "cpu-1"), "run-a")
    assert held is not None
    assert slot_status(tmp_path) == [SlotStatus("cpu-0"), SlotStatus("cpu-1", "run-a")]
    os.close(held)
    assert slot_status(tmp_path) == [SlotStatus("cpu-0"), SlotStatus("cpu-1")]


@pytest.mark.parametrize(("word", "count"), [("", 1), ("0", 0), ("3", 3)])
def test_the_machine_has_one_slot_unless_it_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, word: str, count: int
) -> None:
    monkeypatch.setenv("HETSPEC_CPU_SLOTS", word)
    assert slot_count() == count


@pytest.mark.parametrize("word", ["-1", "many", "1.5", "99999"])
def test_a_number_of_slots_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("HETSPEC_CPU_SLOTS", word)
    with pytest.raises(UsageError, match="HETSPEC_CPU_SLOTS"):
        slot_count()
