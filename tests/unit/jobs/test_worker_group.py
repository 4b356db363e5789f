"""Of several endings the one that caused the others is reported, and no other program gets a port that is held."""

from __future__ import annotations

import socket

import pytest

from hetspec_core.errors import ResourceError
from hetspec_core.events import ErrorInfo
from hetspec_core.jobs.worker_group import Ending, first_cause, with_worker
from hetspec_core.jobs.workers import Rendezvous, WorkerPlan
from hetspec_core.service.gpus import plan_workers
from hetspec_core.spec import ResourcesSpec, Stage
from tests.fakes.specs import small_spec


def ending(worker: str, time: float, message: str, *, kind: str = "crash", is_echo: bool = False) -> Ending:
    return Ending(worker, time, ErrorInfo(kind=kind, message=message), is_echo=is_echo)


def test_the_cause_is_the_earliest_end_that_is_no_answer_to_another() -> None:
    echo = ending("worker-0", 1.0, "Connection closed by peer", is_echo=True)
    cause = ending("worker-2", 2.0, "loss is not finite")
    later = ending("worker-1", 3.0, "something else")
    stopped = ending("worker-3", 0.5, "asked to stop", kind="cancelled")
    assert first_cause([echo, later, cause, stopped]) is cause
    assert first_cause([echo, stopped]) is stopped
    assert first_cause([echo]) is echo


def test_a_worker_is_named_once() -> None:
    named = with_worker(with_worker(ending("worker-1", 0.0, "no")))
    assert named.error is not None and named.error.message == "worker-1: no"


def test_ranks_are_numbered_over_all_machines_and_meet_where_they_are_told() -> None:
    plan = WorkerPlan("ranks", 4, num_nodes=3, node_rank=2, rendezvous="[::1]:29500")
    assert WorkerPlan.from_word(plan.to_word()) == plan
    found = Rendezvous(plan).variables(1)
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == ("9", "1", "12")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("::1", "29500")


def test_the_port_of_a_rendezvous_can_be_listened_on_by_a_rank_and_by_no_other_program() -> None:
    rendezvous = Rendezvous(WorkerPlan("ranks", 2))
    try:
        port = int(rendezvous.variables(0)["MASTER_PORT"])
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        with socket.socket() as rank:
            rank.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rank.bind(("127.0.0.1", port))
            rank.listen()
    finally:
        rendezvous.close()


@pytest.mark.parametrize(
    ("stage", "gpus", "resources", "kind", "size"),
    [
        ("train", 0, {}, "alone", 1),
        ("train", 1, {}, "alone", 1),
        ("train", 4, {}, "ranks", 4),
        ("train", 0, {"num_workers": 2}, "ranks", 2),
        ("train", 1, {"num_nodes": 2, "rendezvous": "a:1"}, "ranks", 1),
        ("dataset", 4, {}, "shares", 4),
        ("dataset", 0, {"num_workers": 3}, "shares", 3),
        ("bench", 2, {}, "alone", 1),
    ],
)
def test_how_many_workers_a_run_has(
    stage: Stage, gpus: int, resources: dict[str, object], kind: str, size: int
) -> None:
    spec = small_spec("x", stage).model_copy(update={"resources": ResourcesSpec.model_validate(resources)})
    plan = plan_workers(spec, gpus)
    assert (plan.kind, plan.size) == (kind, size)


@pytest.mark.parametrize(
    ("stage", "gpus", "resources", "words"),
    [
        ("train", 2, {"num_workers": 3}, "3 workers on 2 GPUs"),
        ("dataset", 1, {"num_nodes": 2, "rendezvous": "a:1"}, "several nodes"),
    ],
)
def test_what_cannot_be_is_refused(stage: Stage, gpus: int, resources: dict[str, object], words: str) -> None:
    spec = small_spec("x", stage).model_copy(update={"resources": ResourcesSpec.model_validate(resources)})
    with pytest.raises(ResourceError, match=words):
        plan_workers(spec, gpus)


@pytest.mark.parametrize(
    "resources",
    [{"num_nodes": 2}, {"node_rank": 1}, {"num_nodes": 2, "rendezvous": "host"}, {"rendezvous": "host:0"}],
)
def test_nodes_need_a_place_to_meet(resources: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"node_rank|rendezvous"):
        ResourcesSpec.model_validate(resources)
