"""The history of runs as a list: filter, order, columns, and what is kept of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Choose, ChooseMany
from hetspec_tui.screens.runs import RunsScreen
from tests.fakes.run_folders import add_run
from tests.tui.driving import screen_text, until
from tests.tui.registries import keys_of, narrow, open_runs, type_filter


def test_the_filter_acts_as_one_types_and_escape_brings_back_the_one_before(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"loss<2")
        await until(pilot, lambda: keys_of(screen) == ["run-a", "run-c"])
        await until(pilot, lambda: "2/4" in screen_text(app))
        await pilot.press("enter")
        assert screen.table.has_focus
        await pilot.press("slash", *" zzz")
        await until(pilot, lambda: keys_of(screen) == [])
        assert "no run is like that" in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: keys_of(screen) == ["run-a", "run-c"])
        assert screen.line.value == "loss<2"
        await pilot.press("escape")
        await until(pilot, lambda: len(keys_of(screen)) == 4)

    open_runs(act)


def test_a_wrong_filter_is_said_and_the_last_list_stays(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await type_filter(screen, pilot, "state:failed")
        await until(pilot, lambda: keys_of(screen) == ["run-b"])
        screen.line.value = "state:faild"
        await until(pilot, lambda: screen.filter_line.has_class("-wrong"))
        assert "did you mean 'failed'" in screen_text(app)
        assert keys_of(screen) == ["run-b"]
        assert screen.filter == "state:failed"
        screen.line.value = "state:"  # only begun: no fault
        await until(pilot, lambda: not screen.filter_line.has_class("-wrong"))
        assert "state is one of" in screen_text(app)

    open_runs(act)


def test_the_list_stays_while_a_name_is_typed_and_enter_takes_it_as_a_word(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen.filter_line.vocabulary is not None)
        await pilot.press("slash", *"stat")
        await until(pilot, lambda: "state:" in screen_text(app) and screen._typed is None)
        assert len(keys_of(screen)) == 4
        await pilot.press("enter")
        await until(pilot, lambda: keys_of(screen) == [])

    open_runs(act)


def test_the_filter_completes_its_words(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen.filter_line.vocabulary is not None)
        await pilot.press("slash", *"tag:b")
        await until(pilot, lambda: bool(screen.line._suggestion))
        await pilot.press("right")
        assert screen.line.value == "tag:best"
        await until(pilot, lambda: keys_of(screen) == ["run-c"])

    open_runs(act)


def test_another_screen_can_ask_for_a_filter(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        screen.receive({"query": "state:lost"})
        await until(pilot, lambda: keys_of(screen) == ["run-d"])
        assert screen.line.value == "state:lost"

    open_runs(act)


def test_new_runs_and_states_appear_and_the_cursor_stays(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        add_run(runs, "run-new", "queued", name="epsilon", created=time.time())
        await until(pilot, lambda: keys_of(screen)[0] == "run-new")
        assert screen.table.cursor_key == "run-b"
        await until(pilot, lambda: "◌ queued" in screen_text(app))
        with (runs / "runs" / "run-a" / "events.jsonl").open("a") as journal:
            journal.write('{"type":"run_ended","time":2000,"state":"cancelled"}\n')
        await until(pilot, lambda: "■ cancelled" in screen_text(app))
        assert screen.table.cursor_key == "run-b"

    open_runs(act)


def test_any_column_metric_or_setting_can_be_the_order(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        for typed, order in (("loss", "bacd"), ("optimizer.lr", "cbad"), ("name", "abdc")):
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, Choose))
            await narrow(app, pilot, typed)
            await pilot.press("enter")
            await until(pilot, lambda order=order: keys_of(screen) == [f"run-{one}" for one in order], typed)
        await pilot.press("S")
        await until(pilot, lambda: keys_of(screen) == [f"run-{one}" for one in "cdba"])
        assert "Name▼" in screen_text(app)
        await pilot.click(screen.table, offset=(17, 0))
        await until(pilot, lambda: "Name▲" in screen_text(app))

    open_runs(act)


def test_columns_can_be_chosen_and_are_kept_with_order_filter_and_cursor(runs: Path) -> None:
    kept: dict[str, object] = {}

    async def choose(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, ChooseMany))
        await narrow(app, pilot, "optimizer.lr")
        await pilot.press("space")
        await narrow(app, pilot, "base")
        await pilot.press("space", "enter")
        await until(pilot, lambda: "training.optimizer.lr" in screen.table.shown)
        assert "base" not in screen.table.shown
        screen.table.sort_by("name")
        await type_filter(screen, pilot, "loss>0")
        await until(pilot, lambda: len(keys_of(screen)) == 3)
        await pilot.press("enter", "down")
        kept.update(json.loads(json.dumps(screen.state())))

    async def again(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        screen.restore(kept)
        await until(pilot, lambda: keys_of(screen) == ["run-a", "run-b", "run-c"])
        await until(pilot, lambda: screen.table.cursor_key == "run-b")
        assert "training.optimizer.lr" in screen.table.shown
        assert screen.line.value == "loss>0"
        await until(pilot, lambda: "0.2" in screen_text(app))

    open_runs(choose)
    open_runs(again, (240, 30))


@pytest.mark.parametrize(
    "state",
    [{"order": 3, "columns": "x", "filter": 1}, {"order": ["gone/metric", True]}, {"filter": "no_such_field>1"}, {}],
)
def test_a_state_of_another_version_does_no_harm(runs: Path, state: dict[str, object]) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        screen.restore(state)
        await until(pilot, lambda: not any(worker.group == "listing" for worker in screen.workers))
        assert len(keys_of(screen)) == 4
        assert screen.table.order == ("created", True)

    open_runs(act)


def test_a_filter_of_another_time_leaves_all_runs_and_says_what_is_wrong(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        fresh = RunsScreen()
        await app.push_screen(fresh)
        fresh.restore({"filter": "no_such_field>1"})
        await until(pilot, lambda: len(keys_of(fresh)) == 4)
        await until(pilot, lambda: "no_such_field" in screen_text(app))

    open_runs(act)
