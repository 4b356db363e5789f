"""The Presets page: looking, comparing, copying, and changing one's own."""

from __future__ import annotations

import asyncio
import inspect
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual import on
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input, Static

from hetspec_core.paths import roots
from hetspec_core.service import presets
from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk
from hetspec_tui.dialogs import Choose, Confirm, Prompt
from hetspec_tui.pages import OpenPage
from hetspec_tui.screens.presets import PresetsScreen
from hetspec_tui.widgets.form import FieldForm
from tests.fakes.presets import write_hostile_presets, write_preset
from tests.tui.driving import until

Act = Callable[[PresetsScreen, Pilot[None]], Awaitable[None]]


class Heard(HetSpecApp):
    """The app, which notes which pages are asked for."""

    CSS_PATH = Path(inspect.getfile(HetSpecApp)).with_name("frame.tcss")

    def __init__(self, desk: Desk | None = None) -> None:
        super().__init__(desk)
        self.heard: list[OpenPage] = []

    @on(OpenPage)
    def note(self, message: OpenPage) -> None:
        message.prevent_default()
        self.heard.append(message)


def drive(act: Act, about: dict[str, Any] | None = None, size: tuple[int, int] = (120, 40), **desk: bool) -> Heard:
    async def session() -> Heard:
        app = Heard(Desk(**desk))
        async with app.run_test(size=size) as pilot:
            await app.go_to("presets", about)
            screen = app.screen
            assert isinstance(screen, PresetsScreen)
            wanted = (about or {}).get("name", "")
            await until(pilot, lambda: screen.view is not None and wanted in screen.view.line.name)
            await act(screen, pilot)
        return app

    return asyncio.run(session())


async def opened(pilot: Pilot[None], kind: type[Screen[Any]]) -> Screen[Any]:
    await until(pilot, lambda: isinstance(pilot.app.screen, kind))
    return pilot.app.screen


def row(screen: PresetsScreen, key: str) -> Any:
    return screen.query_one(FieldForm)._rows[key]


def shown(screen: PresetsScreen, name: str) -> str:
    return str(screen.query_one(name, Static).render())


async def change(screen: PresetsScreen, pilot: Pilot[None], key: str, text: str) -> None:
    screen.query_one(FieldForm).go_to(key)
    await pilot.press("enter")
    line = pilot.app.focused
    assert isinstance(line, Input)
    line.value = text
    await pilot.pause()
    await pilot.press("enter")


QUICK = {"kind": "recipe", "name": "quick-demo"}


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (200, 60)])
def test_everything_is_inside_the_screen_at_every_size(size: tuple[int, int]) -> None:
    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        left, right = screen.query_one("#shelf").region, screen.query_one("#right").region
        assert screen.region.contains_region(left) and screen.region.contains_region(right)
        assert not left.overlaps(right) and right.width > 20
        assert screen.query_one(FieldForm).list.size.height >= 1

    drive(act, QUICK, size)


def test_a_recipe_is_shown_resolved_with_the_source_of_every_key_and_its_cost() -> None:
    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        assert row(screen, "training.max_steps").text == "400"
        assert row(screen, "training.max_steps").source.startswith("preset recipe/quick-demo:")
        assert row(screen, "training.epochs").source == "default"
        assert "base.hidden_size" in row(screen, "draft.architecture.hidden_size").help
        assert "extends recipe/smollm2-llama-eagle" in shown(screen, "#head")
        await until(pilot, lambda: "bench" in shown(screen, "#facts"))
        assert "base 135M, draft 4.2M" in shown(screen, "#facts")
        everything = len(screen.query_one(FieldForm)._rows)
        await pilot.press("o")
        assert len(screen.query_one(FieldForm)._rows) < everything / 2

    drive(act, QUICK)


def test_kinds_are_walked_through_and_names_are_searched() -> None:
    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until(pilot, lambda: {"llama-1l", "qwen3-1l"} <= {line.name for line in screen.lines})
        await until(pilot, lambda: screen.view and screen.view.line.kind == "draft")
        await pilot.press("right_square_bracket", "right_square_bracket", "slash", *"narrow-eagle")
        await until(pilot, lambda: [line.name for line in screen.lines] == ["smollm2-narrow-eagle"])
        await pilot.press("escape")
        await until(pilot, lambda: len(screen.lines) > 5)
        await pilot.press("slash", *"zzz")
        await until(pilot, lambda: screen.lines == () and screen.view is None)
        await pilot.press("enter", "l", "c", "d", "e")  # nothing is there to act on
        assert screen.is_current

    drive(act, QUICK)


def test_d_on_two_presets_shows_what_differs_and_escape_goes_back() -> None:
    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("d")
        while not (screen.view and screen.view.line.name == "qwen3-1l"):
            before = screen.view
            await pilot.press("down")
            await until(pilot, lambda before=before: screen.view is not before)
        await pilot.press("d")
        switcher = screen.query_one("#right", ContentSwitcher)
        await until(pilot, lambda: switcher.current == "diff")
        text = shown(screen, "#difference")
        assert "draft.backbone" in text and "qwen3" in text and "hidden_size" not in text
        await pilot.press("escape")
        assert switcher.current == "preset" and screen.is_current

    drive(act, {"kind": "draft", "name": "llama-1l"})


def test_c_copies_into_a_preset_of_ones_own() -> None:
    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        prompt = await opened(pilot, Prompt)
        assert prompt.query_one(Input).value == "quick-demo-mine"
        await pilot.press("enter")
        await until(pilot, lambda: screen.view and screen.view.line.name == "quick-demo-mine")
        assert screen.view is not None and screen.view.line.owner == "yours"

    drive(act, QUICK)
    assert (roots().user_presets / "recipe" / "quick-demo-mine.toml").is_file()


def test_changes_of_a_preset_of_ones_own_are_checked_saved_and_taken_back() -> None:
    path = write_preset("recipe/mine", 'extends = "quick-demo"\nsummary = "mine"\n[training]\nseed = 3\n')

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await change(screen, pilot, "training.max_length", "99999999")
        await until(pilot, lambda: screen.faults)
        assert "context has 8192" in row(screen, "training.max_length").fault
        await pilot.press("ctrl+s")
        await until(pilot, lambda: screen.app._notifications or not screen.is_current)
        assert "99999999" not in path.read_text() and screen.changes  # it does not hold
        if not screen.is_current:
            await pilot.press("escape")
            await until(pilot, lambda: screen.is_current)
        await pilot.press("u")
        await change(screen, pilot, "training.optimizer.lr", "0.01")
        await change(screen, pilot, "dataset.limit", "")
        await change(screen, pilot, "summary", "better")
        screen.query_one(FieldForm).go_to("training.seed")
        await pilot.press("backspace")
        await until(pilot, lambda: len(screen.changes) == 4 and screen.faults == ())
        assert "4 changed" in shown(screen, "#head")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not screen.changes)
        await until(pilot, lambda: screen.view and "0.01" in screen.view.text)
        assert row(screen, "training.optimizer.lr").text == "0.01"

    drive(act, {"kind": "recipe", "name": "mine"})
    assert tomllib.loads(path.read_text()) == {
        "extends": "quick-demo",
        "summary": "better",
        "training": {"optimizer": {"lr": 0.01}},
        "dataset": {"limit": "none"},
    }
    assert presets.view("recipe/mine").problems == ()


def test_changes_of_a_shipped_preset_become_a_preset_of_ones_own() -> None:
    before = presets.view("draft/llama-1l").text

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await change(screen, pilot, "draft.architecture.intermediate_size", "base.intermediate_size // 2")
        screen.query_one(FieldForm).go_to("draft.init")
        await pilot.press("enter")
        await opened(pilot, Choose)
        await pilot.press(*"random", "enter")
        await until(pilot, lambda: "draft.init" in screen.changes)
        await pilot.press("ctrl+s")
        await opened(pilot, Prompt)
        await pilot.press("enter")
        await until(pilot, lambda: screen.view and screen.view.line.name == "llama-1l-mine")
        assert row(screen, "draft.architecture.intermediate_size").text == "768"

    drive(act, {"kind": "draft", "name": "llama-1l"})
    assert presets.view("draft/llama-1l").text == before


def test_another_part_is_picked_for_a_recipe() -> None:
    write_preset("recipe/mine", 'extends = "quick-demo"\n')

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        screen.query_one(FieldForm).go_to("draft.preset")
        await pilot.press("enter")
        await opened(pilot, Choose)
        await pilot.press(*"qwen3", "enter")
        await until(pilot, lambda: screen.changes == {"draft.preset": "qwen3-1l"})
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not screen.changes and screen.view and "qwen3-1l" in screen.view.text)

    drive(act, {"kind": "recipe", "name": "mine"})


def test_comments_are_lost_only_after_a_question() -> None:
    path = write_preset("recipe/mine", '# keep me\nextends = "quick-demo"\n')

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await change(screen, pilot, "training.seed", "4")
        await pilot.press("ctrl+s")
        await opened(pilot, Confirm)
        await pilot.press("enter")  # the focus is on Cancel
        await until(pilot, lambda: screen.is_current)

    drive(act, {"kind": "recipe", "name": "mine"})
    assert "# keep me" in path.read_text()


def test_e_opens_the_editor_and_what_does_not_hold_after_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_preset("recipe/mine", 'extends = "quick-demo"\n')

    def edited(screen: PresetsScreen, file: Path) -> None:
        file.write_text('extends = "quick-demo"\n[training]\nmax_stpes = 4\n')

    monkeypatch.setattr(PresetsScreen, "edit_file", edited)

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await until(pilot, lambda: screen.view and screen.view.problems)
        assert "did you mean 'max_steps'" in shown(screen, "#head")

    drive(act, {"kind": "recipe", "name": "mine"})
    assert "max_stpes" in path.read_text()


def test_without_an_editor_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor")
    monkeypatch.delenv("VISUAL", raising=False)
    write_preset("recipe/mine", 'extends = "quick-demo"\n')

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await until(pilot, lambda: screen.app._notifications)
        assert any("no-such-editor" in note.message for note in screen.app._notifications)

    drive(act, {"kind": "recipe", "name": "mine"})


def test_a_preset_of_ones_own_is_deleted_after_a_question_and_a_shipped_one_never() -> None:
    path = write_preset("recipe/mine", 'extends = "quick-demo"\n')

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+d")
        await opened(pilot, Confirm)
        await pilot.press("y")
        await until(pilot, lambda: not path.exists())
        await until(pilot, lambda: all(line.name != "mine" for line in screen.lines))
        await pilot.press("ctrl+d")
        await pilot.pause(0.1)
        assert screen.is_current

    drive(act, {"kind": "recipe", "name": "mine"})
    assert all(line.shipped for line in presets.list_presets("recipe"))


def test_l_takes_a_preset_to_launch() -> None:
    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await pilot.press("l", "y")
        assert screen.line is not None and screen.app.clipboard == str(screen.line.path)

    assert [(one.page, one.about) for one in drive(act, QUICK).heard] == [("launch", {"recipe": "quick-demo"})]


def test_a_dashboard_that_only_looks_writes_nothing() -> None:
    write_preset("recipe/mine", 'extends = "quick-demo"\n')

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        await change(screen, pilot, "training.seed", "4")
        await pilot.press("ctrl+s", "c", "e", "ctrl+d")
        await pilot.pause(0.2)
        assert screen.is_current and screen.changes

    drive(act, {"kind": "recipe", "name": "mine"}, read_only=True)
    assert presets.view("recipe/mine").text == 'extends = "quick-demo"\n'


def test_a_preset_that_cannot_be_read_is_listed_with_its_problem() -> None:
    write_preset("recipe/torn", "extends = [")

    async def act(screen: PresetsScreen, pilot: Pilot[None]) -> None:
        assert "is not TOML" in shown(screen, "#head")
        state = screen.state()
        screen.restore({"kind": "planet", "name": 3})
        screen.restore(state)
        await pilot.pause()

    drive(act, {"kind": "recipe", "name": "torn"})


def test_presets_that_cannot_be_read_do_not_end_the_dashboard() -> None:
    hostile = [name for kind in presets.KINDS for name in write_hostile_presets(kind)]

    async def session() -> None:
        app = Heard(Desk())
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.press("3")
            await until(pilot, lambda: isinstance(app.screen, PresetsScreen) and app.screen.view is not None)
            screen = app.screen
            assert isinstance(screen, PresetsScreen) and screen.view is not None
            assert {line.name for line in screen.lines if line.problem} == set(hostile)
            assert screen.view.line.name in hostile and screen.view.problems
            assert any(line.name == "quick-demo" and not line.problem for line in screen.lines)

    asyncio.run(session())
