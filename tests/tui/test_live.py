"""What the dashboard does by itself while it is open: starts what waits, tells of ends as loudly as it was asked to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.css.query import NoMatches
from textual.drivers.headless_driver import HeadlessDriver
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.widgets import Static

from hetspec_core.errors import ResourceError
from hetspec_core.events import RunEnded
from hetspec_core.jobs import Queue
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec.run import ResourcesSpec
from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk, Feed
from hetspec_tui.screens.dashboard import DashboardScreen
from tests.fakes.specs import small_spec
from tests.tui.driving import drive, screen_text, toasts, until
from tests.tui.homes import lively_home

FAST = "20270115-071500-train-aaaa"


def waiting_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that waits for a GPU which came back when nobody looked, as after a supervisor was killed."""
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "1")
    monkeypatch.setattr(Queue, "dispatch", lambda self, asked="": {})
    with Workbench(executor=LocalExecutor("tests.fakes.worker")) as workbench:
        spec = small_spec(name).model_copy(update={"resources": ResourcesSpec(num_gpus=1)})
        run_id = workbench.submit(spec).run_id
        workbench.start(run_id)
        assert run_id in workbench.queue.waiting_ids()
    monkeypatch.undo()
    return run_id


def state(run_id: str) -> str:
    with Workbench() as workbench:
        return workbench.state(run_id)


def test_a_run_that_waits_and_could_start_is_started_while_somebody_watches(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = waiting_for_a_gpu("succeed", monkeypatch)
    monkeypatch.setenv("HETSPEC_HOME", str(home))
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "1")

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: state(run_id) not in ("queued", "starting", "running"), "its end")
        assert state(run_id) == "succeeded"

    drive(act)


def test_a_dashboard_that_only_looks_starts_none_of_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = waiting_for_a_gpu("succeed", monkeypatch)
    monkeypatch.setenv("HETSPEC_HOME", str(home))
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "1")

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "◌ 1 queued" in screen_text(app), "the run that waits")
        app.look_now()
        await pilot.pause(0.2)
        assert state(run_id) == "queued"

    drive(act, read_only=True)


@pytest.mark.parametrize(
    ("wish", "after_s", "bells", "notices"),
    [("off", 1, 0, 0), ("bell", 1, 1, 0), ("desktop", 1, 0, 1), ("both", 1, 1, 1), ("both", 100_000, 0, 0)],
)
def test_the_end_of_a_run_is_told_beyond_the_screen_only_on_request(
    home: Path, monkeypatch: pytest.MonkeyPatch, wish: str, after_s: int, bells: int, notices: int
) -> None:
    lively_home(home, time.time())
    (home / "config").mkdir()
    (home / "config" / "dashboard.toml").write_text(f'notify = "{wish}"\nnotify_after_s = {after_s}\n')
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("TMUX", raising=False)
    rung: list[int] = []
    written: list[str] = []

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None and len(app.overview.active) == 2, "the runs at work")
        app.bell = lambda: rung.append(1)  # type: ignore[method-assign]
        app.terminal = HeadlessDriver(app)
        app.terminal.write = written.append  # type: ignore[method-assign]
        with RunPaths(home / "runs" / FAST).events.open("a") as file:
            file.write(RunEnded(state="succeeded").to_line().decode() + os.linesep)
        await until(pilot, lambda: "smollm2-llama-eagle succeeded after" in toasts(app), "the toast")

    drive(act)
    told = [text for text in written if text.startswith("\x1b]9;HetSpec: smollm2-llama-eagle succeeded")]
    assert (len(rung), len(told)) == (bells, notices)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_the_gpu_panel_says_which_run_has_which_gpu(
    size: tuple[int, int], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    with Workbench(executor=LocalExecutor("tests.fakes.worker")) as workbench:
        spec = small_spec("wait-here").model_copy(update={"resources": ResourcesSpec(num_gpus=1)})
        run_id = workbench.submit(spec).run_id
        workbench.start(run_id)

        def lines(app: HetSpecApp) -> list[str]:
            return [line for line in screen_text(app).splitlines() if "util " in line]

        async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
            await until(pilot, lambda: any("wait-here" in line for line in lines(app)), "the owner")
            assert ["wait-here" in line for line in lines(app)].count(True) == 1
            assert len(lines(app)) == 2 and "free" in lines(app)[1]

        try:
            drive(act, size)
        finally:
            workbench.cancel(run_id, force=True)
            workbench.wait(run_id, timeout_s=20)


def test_what_is_learnt_while_the_dashboard_is_taken_apart_is_shown_to_nobody(home: Path) -> None:
    lively_home(home, time.time())
    late: list[str] = []
    begun: list[bool] = []

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None, "the first look")
        page, feed = app.screen, app.live.feed
        assert isinstance(page, DashboardScreen)

        async def asked(question: Callable[[Workbench], Any]) -> Any:
            begun.append(True)
            with Workbench() as workbench:
                answer = question(workbench)
            while page.query("#totals"):
                await asyncio.sleep(0)
            late.append(", ".join(str(one.id) for one in page.query("#active, #totals")))
            return replace(answer, total=answer.total + 1)

        feed._ask = asked
        feed.hurry()
        await until(pilot, lambda: bool(begun), "the next question")

    drive(act)
    assert late == ["active"], "the answer came when the page was no longer whole"


def test_a_page_that_is_not_laid_out_yet_is_shown_nothing(home: Path) -> None:
    lively_home(home, time.time())

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.overview is not None, "the first look")
        overview = app.overview
        assert overview is not None
        page = DashboardScreen()
        opened = app.push_screen(page)  # it is on top from here on, and its parts are made later
        assert app.screen is page and not page.query("#active")
        app.live._taken(replace(overview, total=overview.total + 1))
        await opened
        await until(pilot, lambda: bool(page.query("#active")) and "At work" in screen_text(app), "the page")
        await until(pilot, lambda: page._overview is app.overview, "what was learnt meanwhile")

    drive(act)


class Slow(Vertical):
    """A part whose own parts take their time to come."""

    async def on_compose(self) -> None:
        await asyncio.sleep(0.3)


class Opening(ModalScreen[None]):
    """A dialog, as all are: it asks for its parts when it has been put together."""

    def compose(self) -> ComposeResult:
        with Slow():
            yield Static(id="late")

    def on_mount(self) -> None:
        self.query_one("#late", Static).update("here")
        opened.append(self)


opened: list[Opening] = []


@pytest.mark.parametrize(("patience_s", "quits"), [(0.0, False), (0.0, True), (1.0, False)])
def test_leaving_while_a_dialog_is_just_opening_is_no_crash(home: Path, patience_s: float, quits: bool) -> None:
    opened.clear()

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.push_screen(Opening())
        await asyncio.sleep(patience_s)
        if quits:
            app.exit()

    drive(act)  # raises what the app could not handle
    assert len(opened) == (1 if patience_s else 0)


def test_a_part_that_is_missing_while_nobody_leaves_is_a_fault(home: Path) -> None:
    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.call_later(lambda: app.query_one("#nowhere"))
        await pilot.pause(0.5)

    with pytest.raises(NoMatches):
        drive(act)


@pytest.mark.parametrize("steps", range(4))
def test_a_feed_that_is_ended_while_it_is_hurried_ends(steps: int) -> None:
    """`wait_for` of Python 3.11 gives the result instead of ending, when both come at once."""
    asked: list[int] = []

    async def ask(question: object) -> int:
        asked.append(1)
        return len(asked)

    async def scene() -> None:
        tasks: list[asyncio.Task[None]] = []
        node: Any = SimpleNamespace(is_running=True)
        node.app = node
        node.run_worker = lambda work, group: tasks.append(asyncio.ensure_future(work))
        feed = Feed(ask, lambda _: 0, lambda _: None, fail=pytest.fail, node=node, period_s=60.0)
        feed.start()
        await asyncio.sleep(0.05)
        feed.hurry()
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks, timeout=0.5)
        assert tasks[0].cancelled()

    asyncio.run(scene())


def test_a_closed_desk_says_so_to_whoever_still_asks(home: Path) -> None:
    desk = Desk(home)
    desk.close()
    with pytest.raises(ResourceError, match="is closing"):
        asyncio.run(desk.ask(lambda workbench: workbench))
