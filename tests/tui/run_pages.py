"""Runs for the tests of their screen, and the screen open on one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from textual.pilot import Pilot

from hetspec_core.config import resolve
from hetspec_core.events import (
    EventBase,
    Journal,
    Launched,
    Metric,
    RunStarted,
    WorkerEnded,
)
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import Stage
from hetspec_tui.app import HetSpecApp
from hetspec_tui.screens.run import RunScreen
from tests.fakes.specs import small_spec
from tests.tui.driving import drive, until

Act = Callable[[RunScreen, Pilot[None]], Awaitable[None]]


BENCH = {
    "setup": {"base": "tiny", "draft": "d"},
    "plain": {"decode_tokens_per_s": 50.0},
    "trees": [
        {
            "tree": "6/10/60",
            "accept_length": 2.5,
            "accept_length_interval": [2.4, 2.6],
            "decode_tokens_per_s": 100.0,
            "speedup": 2.0,
            "lossless": {"identical": 3, "prompts": 4},
            "histogram": {"1": 30, "2": 10},
            "by_depth": [{"depth": 1, "acceptance_rate": 0.5, "joint_rate": 0.25}],
        }
    ],
}


def make_run(name: str, *events: EventBase, stage: Stage = "train", ended: int | None = None) -> str:
    """A run that is at work on another host as far as its journals say, with these events."""
    with Workbench() as workbench:
        run_id = workbench.submit(small_spec(name, stage)).run_id
        paths = workbench.paths(run_id)
        with Journal(paths.desk, "supervisor") as desk:
            desk.write(Launched(attempt=1, pid=41, host="elsewhere", birth=""))
            if ended is not None:
                desk.write(WorkerEnded(attempt=1, name="worker-0", exit_status=ended))
        with Journal(paths.events, "worker-0") as journal:
            journal.write(RunStarted(stage=stage, pid=42, host="elsewhere"))
            for event in events:
                journal.write(event)
        paths.log("worker-0").write_text("first line\n[red]not markup[/red]\nlast line\n")
        return run_id


def points(count: int = 50) -> list[EventBase]:
    return [
        Metric(step=step, values={"loss": 5 / (step + 1), "lr": 0.1}, tokens=step * 8, wall_s=step)
        for step in range(count)
    ]


def show(run_id: str, act: Act, size: tuple[int, int] = (100, 30), *, read_only: bool = False) -> HetSpecApp:
    async def inside(app: HetSpecApp, pilot: Pilot[None]) -> None:
        screen = RunScreen(run_id)
        await app.push_screen(screen)
        await until(pilot, lambda: screen.run is not None, "the first look")
        await pilot.pause()
        await act(screen, pilot)

    return drive(inside, size, read_only=read_only)


def demo_run() -> str:
    """A dataset run of the demo's recipe that was given a name, so that its settings come from many places."""
    with Workbench() as workbench:
        return workbench.submit(resolve("quick-demo", stage="dataset", overrides=["name=mine"])).run_id


def append(run_id: str, *events: EventBase) -> None:
    with Workbench() as workbench, Journal(workbench.paths(run_id).events, "worker-0") as journal:
        for event in events:
            journal.write(event)
