"""The Launch page: what its keys do, what it shows, and what it starts."""

from __future__ import annotations

import asyncio
import inspect
import json
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual import on
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.launch import LaunchRequest, Review, linked
from hetspec_core.service.workbench import Workbench
from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk
from hetspec_tui.dialogs import Choose, ChooseMany
from hetspec_tui.pages import OpenPage, OpenRun, RunsTouched
from hetspec_tui.screens.launch import CostCard, LaunchScreen
from hetspec_tui.widgets.form import FieldForm
from tests.fakes.presets import write_preset
from tests.tui.driving import until

Act = Callable[[LaunchScreen, Pilot[None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is started here needs no model."""
    monkeypatch.setattr(LocalExecutor, "module", "tests.fakes.worker")
    init = LocalExecutor.__init__
    monkeypatch.setattr(
        LocalExecutor,
        "__init__",
        lambda self, module="tests.fakes.worker", *more, **named: init(self, module, *more, **named),
    )


class Heard(HetSpecApp):
    """The app, which notes what pages ask of it."""

    CSS_PATH = Path(inspect.getfile(HetSpecApp)).with_name("frame.tcss")

    def __init__(self, desk: Desk | None = None) -> None:
        super().__init__(desk)
        self.heard: list[Any] = []

    @on(OpenRun)
    @on(RunsTouched)
    def note(self, message: OpenRun | RunsTouched) -> None:
        message.prevent_default()
        self.heard.append(message)


def drive(act: Act, size: tuple[int, int] = (120, 40), about: dict[str, Any] | None = None, **desk: bool) -> Heard:
    async def session() -> Heard:
        app = Heard(Desk(**desk))
        async with app.run_test(size=size) as pilot:
            await app.go_to("launch", about)
            screen = app.screen
            assert isinstance(screen, LaunchScreen)
            await reviewed(screen, pilot)
            await act(screen, pilot)
        return app

    return asyncio.run(session())


async def reviewed(screen: LaunchScreen, pilot: Pilot[None]) -> Review:
    """The review of the choice as it is now."""
    await until(pilot, lambda: screen.seen is not None and screen.seen.choice == screen.choice, "the review")
    assert screen.seen is not None
    return screen.seen


async def type_in(pilot: Pilot[None], text: str) -> None:
    line = pilot.app.focused
    assert isinstance(line, Input)
    line.value = text
    await pilot.pause()


def row(screen: LaunchScreen, key: str) -> Any:
    return screen.query_one(FieldForm)._rows[key]


def command(screen: LaunchScreen) -> str:
    return str(screen.query_one("#command", Static).render())


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (120, 40), (200, 60)])
def test_everything_is_inside_the_screen_at_every_size(size: tuple[int, int]) -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        regions = [screen.query_one(name).region for name in ("#form", "#cost", "#command")]
        for index, region in enumerate(regions):
            assert region.area > 0 and screen.region.contains_region(region)
            assert not any(region.overlaps(other) for other in regions[index + 1 :])
        assert screen.query_one(FieldForm).list.size.height >= 3

    drive(act, size)


def test_it_opens_with_values_sources_costs_and_the_command() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        assert row(screen, "training.max_steps").text == "400"
        assert "preset recipe/quick-demo" in row(screen, "training.max_steps").source
        assert row(screen, "draft").text == "llama-1l"
        text = screen.query_one(CostCard).content.plain
        assert "✔ ready" in text and all(stage in text for stage in ("dataset", "train", "bench"))
        assert command(screen) == "$ hetspec-core pipeline quick-demo --detach"

    drive(act)


def test_a_value_is_judged_as_it_is_typed_and_taken_only_when_it_holds() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        form = screen.query_one(FieldForm)
        form.go_to("training.optimizer.lr")
        await pilot.press("enter")
        await type_in(pilot, "-1")
        assert "needs a finite number > 0" in str(form.query_one("#form-message", Static).render())
        await pilot.press("enter")
        assert form.editing and screen.choice.values == {}
        await type_in(pilot, "1e-4")
        await pilot.press("enter")
        seen = await reviewed(screen, pilot)
        assert not form.editing and screen.choice.values == {"training.optimizer.lr": "0.0001"}
        assert seen.values["training.optimizer.lr"].value == 1e-4
        assert (row(screen, "training.optimizer.lr").text, row(screen, "training.optimizer.lr").changed) == (
            "0.0001",
            True,
        )
        assert "--set training.optimizer.lr=0.0001" in command(screen)
        await pilot.press("backspace")
        await reviewed(screen, pilot)
        assert screen.choice.values == {} and row(screen, "training.optimizer.lr").text == "0.003"

    drive(act)


def test_escape_leaves_a_field_as_it_was_and_the_page_open() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        screen.query_one(FieldForm).go_to("dataset.limit")
        await pilot.press("enter", "9", "escape")
        assert screen.choice.values == {} and screen.is_current
        assert screen.focused is screen.query_one(FieldForm).list

    drive(act)


def test_every_setting_can_be_searched_for() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        form = screen.query_one(FieldForm)
        everything = form.list.option_count
        await pilot.press("slash", *"weight decay")
        await pilot.pause()
        assert [option.id for option in form.list.options if not option.disabled] == ["training.optimizer.weight_decay"]
        await pilot.press("enter", "enter", "escape", "escape")
        await pilot.pause()
        assert form.list.option_count == everything

    drive(act)


def test_a_switch_is_turned_and_a_word_is_picked() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        form = screen.query_one(FieldForm)
        form.go_to("resources.share_busy")
        await pilot.press("space")
        assert screen.choice.values == {"resources.share_busy": "true"}
        form.go_to("resources.device")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(screen.app.screen, Choose | ChooseMany))
        await pilot.press(*"cpu", "enter")
        await until(pilot, lambda: screen.choice.values.get("resources.device") == "cpu")
        await pilot.press("u")
        assert screen.choice.values == {}

    drive(act)


def test_a_draft_that_does_not_fit_is_shown_with_the_reason_and_cannot_be_started() -> None:
    write_preset("draft/odd", 'extends = "llama-1l"\n[architecture]\nvocab_size = 99000\n')

    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        await pilot.press("d")
        await until(pilot, lambda: isinstance(screen.app.screen, Choose | ChooseMany))
        await pilot.press(*"odd")
        await pilot.pause()
        about = str(screen.app.screen.query_one("#picker-about", Static).render())
        assert "does not fit" in about and "is 99000; needs at most the base's 49152" in about
        await pilot.press("enter")
        await until(pilot, lambda: screen.choice.parts == {"draft": "odd"})
        seen = await reviewed(screen, pilot)
        assert seen.faults and "✖ cannot start" in screen.query_one(CostCard).content.plain
        await pilot.press("s")
        await until(pilot, lambda: bool(row(screen, "draft.architecture.vocab_size").fault), "the fault at its field")
        form = screen.query_one(FieldForm)
        await until(pilot, lambda: form.highlighted is not None and bool(form.highlighted.fault), "the cursor on it")

    app = drive(act)
    assert app.heard == []


def test_a_recipe_is_picked_and_takes_its_own_values_along() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: isinstance(screen.app.screen, Choose | ChooseMany))
        await pilot.press(*"smollm2-q", "enter")
        await until(pilot, lambda: screen.choice.recipe == "smollm2-qwen3-eagle")
        await reviewed(screen, pilot)
        assert row(screen, "draft").text == "qwen3-1l"

    drive(act)


def test_y_copies_the_command() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        await pilot.press("y")
        assert screen.app.clipboard == screen.choice.command

    drive(act, about={"recipe": "smollm2-llama-eagle", "draft": "qwen3-1l", "what": "dataset"})


def test_s_starts_the_pipeline_and_goes_to_its_first_run() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        form = screen.query_one(FieldForm)
        form.go_to("name")
        await pilot.press("enter")
        await type_in(pilot, "succeed now")
        await pilot.press("enter")
        await reviewed(screen, pilot)
        await pilot.press("s")
        await until(pilot, lambda: len(screen.app.heard) >= 2)  # type: ignore[attr-defined]

    app = drive(act)
    touched, opened = app.heard
    assert isinstance(touched, RunsTouched) and isinstance(opened, OpenRun)
    assert opened.run_id == touched.run_ids[0] and len(touched.run_ids) == 3
    with Workbench() as workbench:
        assert [workbench.wait(run_id, 60) for run_id in touched.run_ids] == ["succeeded"] * 3
        assert [workbench.show(run_id).summary.name for run_id in touched.run_ids] == [
            "succeed now-dataset",
            "succeed now-train",
            "succeed now-bench",
        ]


def test_a_training_is_given_a_dataset_from_the_list_of_runs() -> None:
    with Workbench() as workbench:
        made = workbench.submit(linked(LaunchRequest("quick-demo", name="data"), "dataset", None)).run_id
        folder = workbench.paths(made).hidden_states
        folder.mkdir()
        counts = {"samples": 3, "tokens": 300, "supervised_tokens": 100}
        (folder / "manifest.json").write_text(json.dumps({"counts": counts}))

    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        assert row(screen, "datasets").fault
        screen.query_one(FieldForm).go_to("datasets")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(screen.app.screen, Choose | ChooseMany))
        await pilot.press("space", "enter")
        await until(pilot, lambda: screen.choice.datasets == (made,))
        seen = await reviewed(screen, pilot)
        assert seen.ready and seen.plans["train"].tokens == 300
        assert shlex.split(screen.choice.command)[3:5] == ["--dataset", made]

    drive(act, about={"what": "train"})


def test_gpus_are_chosen_from_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        await pilot.press("g")
        await until(pilot, lambda: isinstance(screen.app.screen, Choose | ChooseMany))
        assert screen.app.screen.query_one(OptionList).option_count == 3
        await pilot.press("space", "down", "down", "space", "enter")
        await until(pilot, lambda: screen.choice.values)
        assert screen.choice.values == {"resources.gpus": '["0", "2"]', "resources.num_gpus": "2"}
        await reviewed(screen, pilot)
        assert row(screen, "gpus").text == "0 2"

    drive(act)


def test_what_does_not_fit_is_started_only_after_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        assert screen.seen is not None and screen.seen.refusals
        assert "does not fit" in screen.query_one(CostCard).content.plain
        await pilot.press("s")
        await until(pilot, lambda: screen.app.screen is not screen)
        await pilot.press("enter")  # the focus is on Cancel
        await pilot.pause(0.2)

    app = drive(act, about={"recipe": "qwen3-30b-qwen3-eagle"})
    assert app.heard == []


def test_a_dashboard_that_only_looks_starts_nothing() -> None:
    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        await pilot.press("s")
        await pilot.pause(0.2)

    assert drive(act, read_only=True).heard == []
    with Workbench() as workbench:
        assert workbench.runs() == []


def test_a_choice_is_found_again_and_a_strange_state_does_no_harm() -> None:
    kept: dict[str, Any] = {}

    async def choose(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        screen.query_one(FieldForm).go_to("training.seed")
        await pilot.press("enter")
        await type_in(pilot, "7")
        await pilot.press("enter")
        kept.update(json.loads(json.dumps(screen.state())))

    async def find(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        screen.restore(kept)
        assert screen.choice.values == {"training.seed": "7"} and screen.choice.what == "bench"
        screen.restore({"recipe": "gone", "values": ["x"], "parts": {"wheel": "round"}, "what": 3})
        seen = await reviewed(screen, pilot)
        assert "gone" in str(seen.faults[0]) and screen.is_current

    drive(choose, about={"what": "bench"})


def test_p_shows_the_recipe_among_the_presets() -> None:
    opened: list[OpenPage] = []

    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        post = screen.post_message
        screen.post_message = lambda message: opened.append(message) or post(message)  # type: ignore[method-assign,func-returns-value]
        await pilot.press("p")

    drive(act)
    assert [(message.page, message.about) for message in opened if isinstance(message, OpenPage)] == [
        ("presets", {"kind": "recipe", "name": "quick-demo"})
    ]


def test_names_from_outside_are_never_markup(tmp_path: Path) -> None:
    write_preset("recipe/odd", 'extends = "quick-demo"\nsummary = "[red]x[/] \\u001b[31m"\n')

    async def act(screen: LaunchScreen, pilot: Pilot[None]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: isinstance(screen.app.screen, Choose | ChooseMany))
        await pilot.press(*"odd")
        await pilot.pause()
        assert str(screen.app.screen.query_one("#picker-about", Static).render()) == "[red]x[/] \\x1b[31m"

    drive(act)
