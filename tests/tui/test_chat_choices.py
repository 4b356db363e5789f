"""What is chosen in a chat: backend, server, draft, two ways to compare, recorded answers, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot

from hetspec_core.events import RunEnded
from hetspec_core.events.trace import read_trace
from hetspec_core.paths import roots
from hetspec_core.service.chat.setup import SERVED_DRAFT
from hetspec_tui.dialogs import Choose, Confirm
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.screens.chat.ab_test import ABTestScreen
from hetspec_tui.screens.chat.setup import OTHER
from hetspec_tui.screens.chat.simulator import SimulatorScreen
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.transcript import Transcript
from tests.fakes.specs import small_spec
from tests.tui.chats import ask, chat, choose, keys_of, session, type_in
from tests.tui.driving import screen_text, toasts, until
from tests.tui.homes import NOW, begun, write_run


def test_two_ways_are_asked_side_by_side_with_a_verdict() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await ask(screen, pilot, "first 2")
        await pilot.press("escape", "a")
        await choose(pilot, "present")
        await choose(pilot, "3/2/6")
        await type_in(pilot, "both 4")
        await until(pilot, lambda: isinstance(app.screen, ABTestScreen))
        await until(pilot, lambda: "identical, token by token" in screen_text(app))
        assert "A 3.00   B 3.00" in screen_text(app)
        sides = [app.screen.query_one(f"#ab-{side}", Transcript) for side in ("left", "right")]
        assert "\n".join(sides[0].lines[1:]) == "\n".join(sides[1].lines[1:])
        await pilot.press("r")
        await until(pilot, lambda: not session(screen).busy and "identical" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        assert len(session(screen).conversation.turns) == 2, "the conversation stays as it is"

    chat(act)


def test_answers_are_recorded_replayed_exported_and_conversations_saved_and_loaded() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await pilot.press("escape", "R")
        await ask(screen, pilot, "record 3")
        last = session(screen).recorder.last
        assert last is not None
        assert len(read_trace(last).steps) == 3
        screen.action_choose("open_trace")
        await choose(pilot, last.stem)
        await until(pilot, lambda: "recorded answer" in screen_text(app) and screen.playback.count == 3)
        for form in ("svg", "html", "json"):
            await pilot.press("x")
            await choose(pilot, form)
            await until(pilot, lambda form=form: any((roots().data / "exports").glob(f"*.{form}")))
        data = json.loads(next((roots().data / "exports").glob("*.json")).read_text())
        assert data["text"].startswith("T a0 b0 c0")
        await pilot.press("escape")
        assert screen.replayed is None
        await pilot.press("w")
        file = roots().data / "kept.json"
        await type_in(pilot, str(file))
        await until(pilot, file.exists)
        await pilot.press("n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm), "the question")
        await pilot.press("y")
        await until(pilot, lambda: not session(screen).conversation.turns)
        await pilot.press("l")
        await choose(pilot, "…")
        await type_in(pilot, str(file))
        await until(pilot, lambda: len(session(screen).conversation.turns) == 2)
        assert "T a0 b0 c0" in "\n".join(screen.talk.lines)

    chat(act)


def test_the_shipped_answer_is_explored_without_a_model_also_when_only_looking() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        assert "recorded answer" in "\n".join(screen.talk.lines)
        await pilot.press("o")
        await choose(pilot, "shipped:smollm2")
        await pilot.press("home")
        await until(pilot, lambda: "step 1/25" in screen_text(app))
        assert "lighthouse" in "\n".join(screen.talk.lines)
        screen.action_talk("again")
        await until(pilot, lambda: "read-only" in toasts(app))
        assert session(screen).state == "new"
        await pilot.press("m")
        await until(pilot, lambda: isinstance(app.screen, SimulatorScreen) and "best 4/10/60" in screen_text(app))
        assert [one.label for one in app.screen.query_one(Chart).series] == ["trees", "chains"]
        await pilot.press("plus")
        await type_in(pilot, "8/10/90")
        await until(pilot, lambda: "larger than recorded" in screen_text(app) or "8/10/90: accept" in toasts(app))
        await pilot.press("f")
        await until(pilot, lambda: "frontier" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)

    chat(act, draft=False, read_only=True)


def test_costs_are_measured_and_give_the_simulator_speeds() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await pilot.press("escape", "b")
        await until(pilot, lambda: "100.0 tokens/s" in toasts(app))
        await ask(screen, pilot, "count 4")
        await until(pilot, lambda: "2.00x" in screen_text(app) or "x" in screen_text(app).split("plain ")[1][:20])
        screen.action_choose("simulate")
        await until(pilot, lambda: isinstance(app.screen, SimulatorScreen) and "x plain" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: session(screen).settings.tree != "6/10/60")

    chat(act)


def test_two_ways_may_be_any_tree_and_any_draft() -> None:
    other = roots().data / "other"
    other.mkdir(parents=True)
    (other / "config.json").write_text("{}")

    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("escape", "a")
        await choose(pilot, OTHER)
        await type_in(pilot, "2/3/5")
        await choose(pilot, OTHER)
        await type_in(pilot, f"{other}")
        await type_in(pilot, "both 2")
        await until(pilot, lambda: isinstance(pilot.app.screen, ABTestScreen))
        comparison = session(screen).comparison
        assert comparison is not None
        assert (comparison.left.label, comparison.right.label) == ("quick 2/3/5", "other auto")
        await until(pilot, lambda: comparison.done)

    chat(act)


def test_sglang_is_picked_with_a_server_to_attach_to_and_the_draft_is_the_servers() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await ask(screen, pilot, "kept 1")
        await pilot.press("escape", "s")
        await choose(pilot, "backend")
        await choose(pilot, "sglang")
        await until(pilot, lambda: session(screen).config.backend == "sglang")
        await pilot.press("s")
        await choose(pilot, "url")
        await type_in(pilot, "somewhere")
        await until(pilot, lambda: "http://HOST:PORT" in toasts(app))
        assert session(screen).config.backend_options == {}
        await pilot.press("s")
        await choose(pilot, "url")
        await type_in(pilot, "http://127.0.0.1:30000")
        await until(pilot, lambda: session(screen).config.backend_options == {"url": "http://127.0.0.1:30000"})
        assert session(screen).settings.draft_name == SERVED_DRAFT
        await until(pilot, lambda: "by sglang http://127.0.0.1:30000" in screen_text(app))
        await ask(screen, pilot, "more 1")
        questions = [turn.text for turn in session(screen).conversation.turns if turn.role == "user"]
        assert questions == ["kept 1", "more 1"], "the conversation goes on with the other worker"
        await pilot.press("d")
        await choose(pilot, "none")
        await until(pilot, lambda: session(screen).settings.plain)
        await pilot.press("d")
        await choose(pilot, "server")
        await until(pilot, lambda: session(screen).settings.draft == "http://127.0.0.1:30000")
        await pilot.press("s")
        await choose(pilot, "plain_url")
        await type_in(pilot, "http://127.0.0.1:30001")
        await until(pilot, lambda: len(session(screen).config.backend_options) == 2)

    chat(act, (160, 40))


def test_a_draft_is_a_run_a_checkpoint_a_directory_or_none(home: Path) -> None:
    ended = [*begun(NOW, 900, alive=False), RunEnded(time=NOW - 100, state="cancelled")]
    paths = write_run(home, "20270115-071500-train-aaaa", "half-done", ended)
    spec = paths.spec.read_text()
    paths.spec.write_text(spec.replace(f'name = "{small_spec("any").base.name}"', 'name = "smollm2-135m-instruct"'))
    for step in ("step-000010", "step-000020"):
        folder = paths.checkpoints / step / "draft"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    imported = home / "imported"
    imported.mkdir()
    (imported / "config.json").write_text("{}")

    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        app = pilot.app
        await pilot.press("escape", "d")
        await choose(pilot, "checkpoint")
        await until(pilot, lambda: isinstance(app.screen, Choose) and len(keys_of(app)) == 2)
        assert [Path(key).parent.name for key in keys_of(app)] == ["step-000020", "step-000010"]
        await choose(pilot, keys_of(app)[1])
        await until(pilot, lambda: session(screen).settings.draft_name == "half-done aaaa step-000010")
        await pilot.press("d")
        await choose(pilot, OTHER)
        await type_in(pilot, f"{imported}")
        await until(pilot, lambda: session(screen).settings.draft_name == "imported")
        await pilot.press("d")
        await choose(pilot, OTHER)
        await type_in(pilot, f"{home / 'nowhere'}")
        await until(pilot, lambda: "nowhere" in toasts(app))
        assert session(screen).settings.draft_name == "imported"

    chat(act)


def test_another_recipe_or_a_recorded_answer_is_opened_from_elsewhere() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        screen.receive({"trace": "shipped:smollm2"})
        await until(pilot, lambda: screen.playback.count == 25)
        screen.receive({"recipe": "smollm2-eagle3"})
        await until(pilot, lambda: screen.conversation.setup.recipe == "smollm2-eagle3")
        await until(pilot, lambda: session(screen).settings.plain, "plain decoding: nothing is trained yet")

    chat(act)


def test_what_is_kept_is_taken_up_again_and_what_does_not_fit_is_left_out() -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("escape", "R")
        screen.tree_pane.drawing.choose("table")
        kept = json.loads(json.dumps(screen.state()))
        fresh = ChatScreen()
        await pilot.app.push_screen(fresh)
        fresh.restore(kept)
        assert (fresh.conversation.recording, fresh.tree_pane.drawing.view) == (True, "table")
        assert fresh.conversation.setup == screen.conversation.setup
        fresh.restore({"view": 3, "setup": {"backend": 5, "settings": {"tree": "3/2/6", "odd": 1}}, "speed": "fast"})
        assert fresh.conversation.setup.settings == {"tree": "3/2/6"}

    chat(act)


@pytest.mark.parametrize("part", ["#chat-head", "#talk", "#tree-pane", "#meters", "#composer"])
def test_an_answer_that_comes_while_the_page_is_taken_apart_finds_nothing_to_draw_on(part: str) -> None:
    async def act(screen: ChatScreen, pilot: Pilot[None]) -> None:
        await screen.query_one(part).remove()
        screen.redraw()

    chat(act)
