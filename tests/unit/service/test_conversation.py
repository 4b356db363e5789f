"""Conversations: roles alternate whatever happens, and files survive or say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.errors import CorruptFileError, NotFoundError, ResourceError, UsageError
from hetspec_core.events.chat import Answered, Tokens
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.conversation import ChatHistory, saved_conversations
from tests.fakes.chat_worker import step_of


def answer(text: str = "Yes.") -> Answer:
    found = Answer(1, [], ChatSettings())
    found.apply(Tokens(ask=1, tokens=[1], pieces=[text]))
    found.apply(step_of(1, 0))
    whole = found.text
    found.apply(Answered(ask=1, text=whole, tokens=found.tokens, stop_reason="stop", prompt_tokens=3, decode_s=0.5))
    return found


ACTIONS = st.lists(st.sampled_from(["ask", "answer", "empty", "again", "edit 0", "edit 1", "edit 2"]), max_size=14)


@given(ACTIONS)
def test_roles_always_alternate_beginning_with_the_user(actions: list[str]) -> None:
    talk = ChatHistory()
    for action in actions:
        try:
            if action == "ask":
                talk.ask("Why?")
            elif action == "answer":
                talk.answer(answer())
            elif action == "empty":
                talk.answer(Answer(1, [], ChatSettings()))
            elif action == "again":
                talk.drop_answer()
            else:
                talk.edit(int(action.split()[1]), "What?")
        except UsageError:
            pass
        roles = [turn.role for turn in talk.turns]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]


def test_an_edited_question_takes_what_followed_with_it_and_an_edited_answer_does_not() -> None:
    talk = ChatHistory()
    for question in ("one", "two"):
        talk.ask(question)
        talk.answer(answer())
    talk.edit(1, "mine")
    assert len(talk.turns) == 4 and talk.turns[1].text == "mine" and not talk.turns[1].pieces
    talk.edit(0, "zero")
    assert [turn.text for turn in talk.turns] == ["zero"]


def test_what_is_saved_is_loaded_with_the_colours_of_its_tokens(tmp_path: Path) -> None:
    talk = ChatHistory(system_prompt="Be kind.", base="tiny")
    talk.ask("Say 中🙂\x1b[2J")
    talk.answer(answer("é\x00"))
    path = tmp_path / "deep" / "talk.json"
    talk.save(path)
    loaded = ChatHistory.load(path)
    assert loaded == talk and list(loaded.turns[1].pieces) == answer("é\x00").pieces
    assert loaded.turns[1].accept_length == 3 and loaded.turns[1].stop_reason == "stop"
    assert saved_conversations(path.parent) == [path] and saved_conversations(tmp_path / "none") == []
    talk.turns.clear()
    talk.save(path)  # over the old one
    assert ChatHistory.load(path).turns == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"turns": 3}', '{"turns": [{"role": "robot", "text": "x"}]}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(CorruptFileError, match="is no conversation"):
        ChatHistory.load(path)


def test_newer_missing_and_unwritable_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"version": 99}')
    with pytest.raises(CorruptFileError, match="version 99"):
        ChatHistory.load(path)
    with pytest.raises(NotFoundError):
        ChatHistory.load(tmp_path / "nothing.json")
    with pytest.raises(ResourceError, match="cannot be written"):
        ChatHistory().save(path / "below-a-file.json")


def test_empty_questions_are_refused() -> None:
    talk = ChatHistory()
    for call in (lambda: talk.ask("  \n"), talk.drop_answer, lambda: talk.edit(0, "x")):
        with pytest.raises(UsageError):
            call()
