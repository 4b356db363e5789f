"""The history of runs: what it shows, and what every key of it does to real run folders."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input

from hetspec_tui.app import HetSpecApp
from hetspec_tui.dialogs import Choose, Confirm, Prompt
from hetspec_tui.screens.runs import RunsScreen
from hetspec_tui.widgets.chart import Chart
from tests.fakes.run_folders import add_run
from tests.fakes.specs import small_spec
from tests.tui.driving import screen_text, toasts, until
from tests.tui.registries import keys_of, open_runs, stored


def test_runs_are_listed_newest_first_with_their_true_states(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
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
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
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
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        assert "no runs yet" in screen_text(app)
        await pilot.press("enter", "space", "c", "t", "asterisk", "d", "equals_sign", "o", "e", "l")
        await until(pilot, lambda: "There are no runs to export" in toasts(app))
        assert app.screen is screen

    open_runs(act)


def test_labels_are_put_on_all_marked_runs(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("space", "down", "v", "asterisk")  # alpha to gamma
        await until(pilot, lambda: "3 runs have a star" in toasts(app))
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = "+good -best"
        await pilot.press("enter")
        await until(pilot, lambda: "+good -best" in toasts(app))
        await pilot.press("i")
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
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
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

    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("down", "d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        text = screen_text(app)
        assert "Move beta into the trash?" in text
        assert "1 other run depends on what is deleted: run-e" in text
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
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+a", "d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: "run run-a is running" in toasts(app))
        await until(pilot, lambda: keys_of(screen) == ["run-a"])
        assert screen.table.marks == ("run-a",)

    open_runs(act)


def test_stopping_asks_with_the_state_and_step(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Stop alpha?" in screen_text(app)
        assert "step 2" in screen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: "works on elsewhere.example" in toasts(app))
        await pilot.press("ctrl+k")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Kill alpha now?" in screen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: toasts(app).count("works on elsewhere.example") == 2)
        await pilot.press("down", "x")
        await until(pilot, lambda: "None of these is at work" in toasts(app))

    open_runs(act)


def test_resume_and_retry_are_refused_with_their_reasons(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        async def ask(*keys: str) -> None:
            await pilot.press(*keys)
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            await pilot.press("y")

        await ask("r")
        await until(pilot, lambda: "run-a is running already" in toasts(app))
        await ask("R")
        await until(pilot, lambda: toasts(app).count("is running") >= 2)
        await ask("down", "down", "r")
        await until(pilot, lambda: "has succeeded" in toasts(app))

    open_runs(act)


@pytest.mark.parametrize("suffix", ["csv", "json", "md"])
def test_the_list_or_the_marked_runs_are_written_to_a_file(runs: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"

    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
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
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await until(pilot, lambda: isinstance(app.screen, Prompt))
        app.screen.query_one(Input).value = str(tmp_path / "out.xls")
        await pilot.press("enter")
        await until(pilot, lambda: "does not say what to write" in toasts(app))

    open_runs(act)


def test_ids_and_paths_are_copied(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        assert app.clipboard == "run-a"
        await pilot.press("space", "space", "C")
        await until(pilot, lambda: app.clipboard == f"{runs / 'runs' / 'run-a'}\n{runs / 'runs' / 'run-b'}")

    open_runs(act)


def test_lineage_shows_the_family_of_a_run(runs: Path) -> None:
    child = small_spec("child").model_copy(update={"parents": ("run-c", "run-gone")})
    add_run(runs, "run-e", "succeeded", spec=child, created=time.time())

    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("l")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        text = screen_text(app)
        assert "▲ gamma" in text
        assert "◆ child" in text
        assert "was deleted" in text
        await pilot.press("escape")
        assert screen.table.has_focus

    open_runs(act)


def test_curves_of_the_marked_runs_lie_over_each_other_with_their_signs_in_the_table(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
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
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("down")
        await until(pilot, lambda: "the GPU is full" in screen_text(app))
        assert "halve it" in screen_text(app)
        await pilot.press("down")
        await until(pilot, lambda: "tree of 60" in screen_text(app))
        await pilot.press("D")
        assert not screen.query_one("#details").display

    open_runs(act, (170, 40))


def test_comparing_needs_two_and_opens_the_comparison(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("equals_sign")
        assert "Mark at least two" in toasts(app)
        await pilot.press("space", "space", "equals_sign")
        await until(pilot, lambda: app.screen is not screen)
        assert getattr(app.screen, "run_ids", ()) == ("run-a", "run-b")

    open_runs(act)


def test_a_dashboard_that_only_looks_changes_nothing(runs: Path) -> None:
    before = {path: path.stat().st_size for path in (runs / "runs").rglob("*.jsonl")}

    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("asterisk", "a", "t", "i", "x", "d", "u", "r", "R", "ctrl+k")
        assert app.screen is screen
        await pilot.press("c")
        assert app.clipboard == "run-a"

    open_runs(act, read_only=True)
    assert {path: path.stat().st_size for path in (runs / "runs").rglob("*.jsonl")} == before


def test_enter_and_a_double_click_open_the_run(runs: Path) -> None:
    async def act(app: HetSpecApp, screen: RunsScreen, pilot: Pilot[None]) -> None:
        asked: list[str] = []
        app._push = lambda target, word: _note(asked, word)  # type: ignore[method-assign]
        await pilot.press("down", "enter")
        await until(pilot, lambda: asked == ["run-b"])
        await pilot.click(screen.table, offset=(20, 3), times=2)
        await until(pilot, lambda: asked == ["run-b", "run-c"])

    open_runs(act)


async def _note(asked: list[str], word: str) -> None:
    asked.append(word)
