"""The history of runs: what it shows, and what every key of it does to real run folders."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input

from hetspec_core.events import Marked
from hetspec_core.service import Library, RunSummary, Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Confirm, Prompt
from hetspec_tui.pickers import Choose, ChooseMany
from hetspec_tui.screens.registry import RegistryScreen
from hetspec_tui.widgets.chart import Chart
from tests.fakes.run_folders import add_run
from tests.fakes.specs import small_spec
from tests.tui.driving import drive, screen_text, toasts, until

Scene = Callable[[HetSpecApp, RegistryScreen, Pilot[None]], Awaitable[None]]


@pytest.fixture
def runs(home: Path) -> Path:
    """Four runs, newest first: alpha (running), beta (failed), gamma (succeeded, tagged), delta (lost)."""
    now = time.time()
    add_run(home, "run-a", "running", name="alpha", created=now - 60, curve=(3.0, 2.0, 1.5), lr=0.1)
    add_run(home, "run-b", "failed", name="beta", created=now - 3600, curve=(3.0, 2.5), lr=0.2)
    add_run(home, "run-c", "succeeded", name="gamma", created=now - 7200, curve=(3.0, 1.0), lr=0.3,
            marked=Marked(add_tags=("best",), note="tree of 60"))  # fmt: skip
    add_run(home, "run-d", "lost", name="delta", created=now - 90000)
    return home


def open_runs(act: Scene, size: tuple[int, int] = (120, 30), *, read_only: bool = False) -> None:
    async def scene(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await pilot.press("2")
        assert isinstance(app.screen, RegistryScreen)
        screen = app.screen
        await until(pilot, lambda: screen.table.store.keys is not None and not screen.table.missing(), "the list")
        await act(app, screen, pilot)

    drive(scene, size, read_only=read_only)


def keys_of(screen: RegistryScreen) -> list[str]:
    return list(screen.table.keys)


def stored(home: Path, run_id: str) -> RunSummary:
    with Workbench(home) as workbench:
        return Library(workbench).summary(run_id)


async def type_filter(screen: RegistryScreen, pilot: Pilot[None], text: str) -> None:
    await pilot.press("slash")
    screen.line.value = text
    await pilot.pause()


async def narrow(app: HetSpecApp, pilot: Pilot[None], text: str) -> None:
    """Type into the filter of a list to choose from, and wait until it is narrowed."""
    picker = app.screen
    assert isinstance(picker, Choose | ChooseMany)
    picker.query_one(Input).value = text
    await until(pilot, lambda: text in (picker.highlighted or ""))


def test_runs_are_listed_newest_first_with_their_true_states(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        assert keys_of(screen) == ["run-a", "run-b", "run-c", "run-d"]
        lines = screen_text(app).splitlines()
        rows = [next(line for line in lines if name in line) for name in ("alpha", "beta", "gamma", "delta")]
        for row, words in zip(rows, ("▶ running", "✖ failed", "✔ succeeded", "? lost"), strict=True):
            assert words in row
        assert "50%" in rows[0]
        assert "best" in rows[2]

    open_runs(act)


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (200, 60)])
def test_it_is_usable_at_every_size(runs: Path, size: tuple[int, int]) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("o")
        await until(pilot, lambda: len(screen.query_one(Chart).series) == 1)
        for name in ("#filter-bar", "#runs", "#curves"):
            region = screen.query_one(name).region
            assert region.area > 0
            assert screen.region.contains_region(region)
        assert not screen.query_one("#runs").region.overlaps(screen.query_one("#curves").region)
        assert screen.query_one("#details").display == (size[0] >= 160)

    open_runs(act, size)


def test_without_runs_it_says_what_to_press(home: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        assert "no runs yet" in screen_text(app)
        await pilot.press("enter", "space", "c", "t", "asterisk", "d", "equals_sign", "o", "e", "l")
        await until(pilot, lambda: "There are no runs to export" in toasts(app))
        assert app.screen is screen

    open_runs(act)


def test_the_filter_acts_as_one_types_and_escape_brings_back_the_one_before(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
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
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await type_filter(screen, pilot, "state:failed")
        await until(pilot, lambda: keys_of(screen) == ["run-b"])
        screen.line.value = "state:faild"
        await until(pilot, lambda: screen.has_class("-wrong"))
        assert "did you mean 'failed'" in screen_text(app)
        assert keys_of(screen) == ["run-b"]
        assert screen.filter == "state:failed"
        screen.line.value = "state:"  # only begun: no fault
        await until(pilot, lambda: not screen.has_class("-wrong"))
        assert "state is one of" in screen_text(app)

    open_runs(act)


def test_the_list_stays_while_a_name_is_typed_and_enter_takes_it_as_a_word(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen._vocabulary is not None)
        await pilot.press("slash", *"stat")
        await until(pilot, lambda: "state:" in screen_text(app) and screen._typed is None)
        assert len(keys_of(screen)) == 4
        await pilot.press("enter")
        await until(pilot, lambda: keys_of(screen) == [])

    open_runs(act)


def test_the_filter_completes_its_words(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: screen._vocabulary is not None)
        await pilot.press("slash", *"tag:b")
        await until(pilot, lambda: bool(screen.line._suggestion))
        await pilot.press("right")
        assert screen.line.value == "tag:best"
        await until(pilot, lambda: keys_of(screen) == ["run-c"])

    open_runs(act)


def test_another_screen_can_ask_for_a_filter(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        screen.receive({"query": "state:lost"})
        await until(pilot, lambda: keys_of(screen) == ["run-d"])
        assert screen.line.value == "state:lost"

    open_runs(act)


def test_new_runs_and_states_appear_and_the_cursor_stays(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
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
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
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

    async def choose(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, ChooseMany))
        await narrow(app, pilot, "optimizer.lr")
        await pilot.press("space")
        await narrow(app, pilot, "base")
        await pilot.press("space", "enter")
        await until(pilot, lambda: "training.optimizer.lr" in screen.shown)
        assert "base" not in screen.shown
        screen.sort_by("name")
        await type_filter(screen, pilot, "loss>0")
        await until(pilot, lambda: len(keys_of(screen)) == 3)
        await pilot.press("enter", "down")
        kept.update(json.loads(json.dumps(screen.state())))

    async def again(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        screen.restore(kept)
        await until(pilot, lambda: keys_of(screen) == ["run-a", "run-b", "run-c"])
        await until(pilot, lambda: screen.table.cursor_key == "run-b")
        assert "training.optimizer.lr" in screen.shown
        assert screen.line.value == "loss>0"
        await until(pilot, lambda: "0.2" in screen_text(app))

    open_runs(choose)
    open_runs(again, (240, 30))


@pytest.mark.parametrize(
    "state",
    [{"order": 3, "columns": "x", "filter": 1}, {"order": ["gone/metric", True]}, {"filter": "no_such_field>1"}, {}],
)
def test_a_state_of_another_version_does_no_harm(runs: Path, state: dict[str, object]) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        screen.restore(state)
        await until(pilot, lambda: not any(worker.group == "listing" for worker in screen.workers))
        assert len(keys_of(screen)) == 4
        assert screen.order == ("created", True)

    open_runs(act)


def test_a_filter_of_another_time_leaves_all_runs_and_says_what_is_wrong(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        fresh = RegistryScreen()
        await app.push_screen(fresh)
        fresh.restore({"filter": "no_such_field>1"})
        await until(pilot, lambda: len(keys_of(fresh)) == 4)
        await until(pilot, lambda: "no_such_field" in screen_text(app))

    open_runs(act)


def test_labels_are_put_on_all_marked_runs(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("space", "down", "v", "asterisk")  # alpha to gamma
        await until(pilot, lambda: "3 runs have a star" in toasts(app))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = "+good -best"
        await pilot.press("enter")
        await until(pilot, lambda: "+good -best" in toasts(app))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = "all of them"
        await pilot.press("enter")
        await until(pilot, lambda: "noted" in toasts(app))
        await pilot.press("a")
        await until(pilot, lambda: keys_of(screen) == ["run-d"])
        await pilot.press("A")
        await until(pilot, lambda: len(keys_of(screen)) == 4)
        await pilot.press("asterisk")
        await until(pilot, lambda: "no star any more" in toasts(app))

    open_runs(act)
    for run_id in ("run-a", "run-b", "run-c"):
        run = stored(runs, run_id)
        assert (run.tags, run.note, run.starred, run.archived) == (("good",), "all of them", False, True)
    assert stored(runs, "run-d").tags == ()


def test_a_word_that_is_no_tag_is_refused(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = "a,b"
        await pilot.press("enter")
        await until(pilot, lambda: "is no tag" in toasts(app))

    open_runs(act)
    assert stored(runs, "run-a").tags == ()


def test_deleting_says_what_goes_and_enter_alone_deletes_nothing(runs: Path) -> None:
    child = small_spec("child").model_copy(update={"parents": ("run-b",)})
    add_run(runs, "run-e", "succeeded", spec=child, created=1.0)

    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("down", "d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        text = screen_text(app)
        assert "Move beta into the trash?" in text
        assert "1 other run stands on what will be gone: run-e" in text
        assert isinstance(app.focused, Button)
        assert app.focused.id == "no"
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen)
        assert (runs / "runs" / "run-b").exists()
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: "run-b" not in keys_of(screen))
        assert (runs / "trash" / "run-b").exists()
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        assert "beta" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "run-b" in keys_of(screen))

    open_runs(act)
    assert (runs / "runs" / "run-b").exists()


def test_a_run_at_work_is_not_deleted_and_the_reason_is_said(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+a", "d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: "run run-a is running" in toasts(app))
        await until(pilot, lambda: keys_of(screen) == ["run-a"])
        assert screen.table.marks == ("run-a",)

    open_runs(act)


def test_stopping_asks_with_the_state_and_step(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Stop alpha?" in screen_text(app)
        assert "step 2" in screen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: "works on elsewhere.example" in toasts(app))
        await pilot.press("ctrl+k")
        await until(pilot, lambda: toasts(app).count("works on elsewhere.example") == 2)
        await pilot.press("down", "x")
        await until(pilot, lambda: "None of these is at work" in toasts(app))

    open_runs(act)


def test_resume_and_retry_are_refused_with_their_reasons(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("R")
        await until(pilot, lambda: "run-a is running already" in toasts(app))
        await pilot.press("T")
        await until(pilot, lambda: toasts(app).count("is running") >= 2)
        await pilot.press("down", "down", "R")
        await until(pilot, lambda: "has succeeded" in toasts(app))

    open_runs(act)


@pytest.mark.parametrize("suffix", ["csv", "json", "md"])
def test_the_list_or_the_marked_runs_are_written_to_a_file(runs: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"

    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        for keys, count in (((), 4), (("space", "space"), 2)):
            await pilot.press(*keys, "e")
            await until(pilot, lambda: isinstance(app.screen, Prompt))
            app.screen.query_one(Input).value = str(target)
            await pilot.press("enter")
            if keys:
                await until(pilot, lambda: isinstance(app.screen, Confirm))
                await pilot.press("y")
            await until(pilot, lambda count=count: f"{count} runs written" in toasts(app))

    open_runs(act)
    text = target.read_text()
    if suffix == "csv":
        assert [row["run_id"] for row in csv.DictReader(text.splitlines())] == ["run-a", "run-b"]
    elif suffix == "json":
        assert [run["figures"]["loss"] for run in json.loads(text)] == [1.5, 2.5]
    else:
        assert text.splitlines()[2].startswith("| run-a | alpha |")


def test_a_file_name_that_says_no_form_is_refused(runs: Path, tmp_path: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = str(tmp_path / "out.xls")
        await pilot.press("enter")
        await until(pilot, lambda: "does not say what to write" in toasts(app))

    open_runs(act)


def test_ids_and_paths_are_copied(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        assert app.clipboard == "run-a"
        await pilot.press("space", "space", "C")
        await until(pilot, lambda: app.clipboard == f"{runs / 'runs' / 'run-a'}\n{runs / 'runs' / 'run-b'}")

    open_runs(act)


def test_lineage_shows_the_family_of_a_run(runs: Path) -> None:
    child = small_spec("child").model_copy(update={"parents": ("run-c", "run-gone")})
    add_run(runs, "run-e", "succeeded", spec=child, created=time.time())

    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        text = screen_text(app)
        assert "▲ gamma" in text
        assert "◆ child" in text
        assert "not here any more" in text
        await pilot.press("escape")
        assert screen.table.has_focus

    open_runs(act)


def test_curves_of_the_marked_runs_lie_over_each_other_with_their_signs_in_the_table(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("space", "space", "space", "o")
        chart = screen.query_one(Chart)
        await until(pilot, lambda: [one.key for one in chart.series] == ["run-a", "run-b", "run-c"])
        assert chart.border_title == "loss"
        signs = {
            line[1] for line in screen_text(app).splitlines() if any(n in line for n in ("alpha ", "beta ", "gamma "))
        }
        assert len(signs) >= 3
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        assert "in 3 of 3" in screen_text(app)
        await pilot.press("escape", "escape")
        assert screen.table.marks == ()
        await pilot.press("escape")
        assert not screen.has_class("-curves")

    open_runs(act)


def test_details_of_the_run_under_the_cursor(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await until(pilot, lambda: "the GPU is full" in screen_text(app))
        assert "halve it" in screen_text(app)
        await pilot.press("down")
        await until(pilot, lambda: "tree of 60" in screen_text(app))
        await pilot.press("i")
        assert not screen.query_one("#details").display

    open_runs(act, (170, 40))


def test_comparing_needs_two_and_opens_the_comparison(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("equals_sign")
        assert "Mark at least two" in toasts(app)
        await pilot.press("space", "space", "equals_sign")
        await until(pilot, lambda: app.screen is not screen)
        assert getattr(app.screen, "run_ids", ()) == ("run-a", "run-b")

    open_runs(act)


def test_a_dashboard_that_only_looks_changes_nothing(runs: Path) -> None:
    before = {path: path.stat().st_size for path in (runs / "runs").rglob("*.jsonl")}

    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        await pilot.press("asterisk", "a", "t", "n", "x", "d", "u", "R", "T", "ctrl+k")
        assert app.screen is screen
        await pilot.press("c")
        assert app.clipboard == "run-a"

    open_runs(act, read_only=True)
    assert {path: path.stat().st_size for path in (runs / "runs").rglob("*.jsonl")} == before


def test_enter_and_a_double_click_open_the_run(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RegistryScreen, pilot: Pilot[None]) -> None:
        asked: list[str] = []
        app._push = lambda target, word: _note(asked, word)  # type: ignore[method-assign]
        await pilot.press("down", "enter")
        await until(pilot, lambda: asked == ["run-b"])
        await pilot.click(screen.table, offset=(20, 3), times=2)
        await until(pilot, lambda: asked == ["run-b", "run-c"])

    open_runs(act)


async def _note(asked: list[str], word: str) -> None:
    asked.append(word)
