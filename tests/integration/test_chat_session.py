"""A chat session and its worker, whatever the worker does; the worker is a real process without a model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hetspec_core.config import load_base
from hetspec_core.errors import RunError, UsageError
from hetspec_core.events.chat import Loading, Step, WorkerDied
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.events.trace import read_trace
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.conversation import ChatHistory
from hetspec_core.service.chat.session import ChatSession
from hetspec_core.service.chat.setup import ChatConfig
from hetspec_core.spec import ResourcesSpec
from tests.conftest import REPOSITORY
from tests.fakes import chat_worker

SETTINGS = ChatSettings(draft="/drafts/quick", draft_name="quick").changed(tree="2/2/4", max_new_tokens=50)


def config(deed: str = "") -> ChatConfig:
    base = load_base("smollm2-135m-instruct").model_copy(update={"summary": deed})
    return ChatConfig(base=base, resources=ResourcesSpec(), settings=SETTINGS)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ChatSession]:
    with ChatSession(config(), command=chat_worker.COMMAND, record=tmp_path / "traces") as session:
        session.start()
        yield session


def until(session: ChatSession, condition: Callable[[], bool], timeout_s: float = 20.0) -> list[object]:
    """Events until a condition holds."""
    seen: list[object] = []
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit, (session.state, session.death, session.problem, seen[-3:])
        seen += session.wait(0.2)
    return seen


def ask(session: ChatSession, text: str) -> Answer:
    answer = session.send(text)
    until(session, lambda: answer.ended)
    return answer


def test_a_question_asked_while_the_base_loads_is_answered(session: ChatSession) -> None:
    answer = ask(session, "hello there")
    assert answer.state == "done" and answer.whole
    assert answer.text == "T a0 b0 c0 a1 b1 c1 a2 b2 c2"
    assert [(piece.origin, piece.depth) for piece in answer.pieces[:4]] == [
        ("base", 0),
        ("draft", 1),
        ("draft", 2),
        ("bonus", 0),
    ]
    assert session.state == "ready" and session.base is not None and session.base.name == "fake"
    assert [turn.role for turn in session.conversation.turns] == ["user", "assistant"]
    assert session.conversation.turns[1].text == answer.text


def test_figures_are_those_of_the_steps(session: ChatSession) -> None:
    session.calibrate()
    until(session, lambda: session.meters.calibration is not None)
    ask(session, "one 4")
    answer = session.send("two 6")
    until(session, lambda: answer.ended)
    figures = session.figures
    assert figures.accept_length == 3 and figures.verify_steps == 6 and figures.pooled_steps == 10
    assert figures.histogram == {3: 6} and figures.step_committed == 3
    assert [(row.offered, row.accepted) for row in figures.by_depth] == [(6, 6), (6, 6)]
    assert figures.tokens_per_s == pytest.approx(18 / 0.024)
    assert (figures.plain_tokens_per_s, figures.plain_source) == (pytest.approx(100), "calibration")
    assert figures.speedup == pytest.approx(7.5)
    assert figures.split is not None and figures.split.shares == pytest.approx((0.25, 0.5, 0.25))
    assert figures.kv_tokens == 7 + 18 and figures.context_tokens == chat_worker.CONTEXT


def test_a_burst_is_taken_in_order_and_poll_takes_no_more_than_asked(session: ChatSession) -> None:
    until(session, lambda: session.state == "ready")
    answer = session.send("burst 2000")
    limit = time.monotonic() + 30
    while not answer.ended and time.monotonic() < limit:
        assert len(session.poll(limit=50)) <= 50
    assert answer.whole and len(answer.steps) == 2000
    assert [step.index for step in answer.steps] == list(range(2000))


def test_garbage_lines_change_nothing(session: ChatSession) -> None:
    answer = ask(session, "garbage 3")
    assert answer.whole and session.garbage == 9


def test_libraries_that_print_while_loading_change_nothing() -> None:
    with ChatSession(config("chatter"), command=chat_worker.COMMAND) as session:
        session.start()
        assert ask(session, "hello").whole
        assert session.garbage == 4


def test_stop_ends_the_answer_at_the_next_step_and_keeps_what_there_is(session: ChatSession) -> None:
    answer = session.send("slow 500")
    until(session, lambda: len(answer.steps) >= 2)
    session.stop()
    until(session, lambda: answer.ended)
    assert answer.state == "stopped" and answer.whole and 2 <= len(answer.steps) < 100
    assert session.conversation.turns[-1].stop_reason == "stopped"
    assert ask(session, "hello").state == "done"


def test_only_one_thing_is_under_way(session: ChatSession) -> None:
    answer = session.send("slow 50")
    for call in (lambda: session.send("again"), session.regenerate, session.calibrate):
        with pytest.raises(RunError, match="under way"):
            call()
    until(session, lambda: len(answer.steps) > 1)
    with pytest.raises(RunError, match="under way"):
        session.replace_conversation()


@pytest.mark.parametrize(
    ("deed", "words"),
    [("kill", "out of memory"), ("exit", "out of memory"), ("torn", "status 3"), ("deaf", "SIGKILL")],
)
def test_death_in_the_middle_of_an_answer_is_told_and_a_restart_goes_on(
    session: ChatSession, deed: str, words: str
) -> None:
    ask(session, "hello")
    answer = session.send(f"{deed} 9")
    until(session, lambda: session.state == "dead")
    assert answer.state == "died" and len(answer.steps) == 2
    assert session.death is not None and words in session.death.message and session.death.hint
    assert len(session.conversation.turns) == 4 and session.conversation.turns[-1].stop_reason == "died"
    with pytest.raises(RunError, match="dead"):
        session.send("anybody there")
    session.restart()
    again = session.edit(2, "hello again")
    assert again is not None
    until(session, lambda: again.ended)
    assert again.whole and [turn.text for turn in session.conversation.turns][2] == "hello again"


def test_a_worker_killed_from_outside_is_told(session: ChatSession) -> None:
    answer = session.send("stall")
    until(session, lambda: len(answer.steps) == 2)
    assert session.pid is not None
    os.kill(session.pid, signal.SIGKILL)
    events = until(session, lambda: session.state == "dead")
    assert any(isinstance(event, WorkerDied) and event.exit_status == -9 for event in events)


def test_a_stalled_worker_blocks_no_call(session: ChatSession) -> None:
    answer = session.send("stall")
    until(session, lambda: len(answer.steps) == 2)
    assert session.pid is not None
    os.kill(session.pid, signal.SIGSTOP)  # it does not even read its requests any more
    start = time.monotonic()
    for _ in range(2000):
        session.stop()
        session.change(system_prompt="x" * 100)
        session.poll()
    assert time.monotonic() - start < 2  # a pipe that is full would block for ever
    session.restart()
    assert ask(session, "hello").whole


def test_a_worker_that_cannot_load_says_why() -> None:
    with ChatSession(config("broken"), command=chat_worker.COMMAND) as session:
        session.start()
        answer = session.send("hello")
        until(session, lambda: session.state == "dead")
        assert session.death is not None and session.death.message == "the base is not there"
        assert session.death.hint == "install it" and session.death.exit_status == 7
        assert answer.state == "died"


def test_a_worker_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    with ChatSession(config(), command=[str(tmp_path / "no-python")]) as session:
        session.start()
        until(session, lambda: session.state == "dead")
        assert session.death is not None and "could not be started" in session.death.message


def test_a_long_conversation_is_refused_with_the_numbers(session: ChatSession) -> None:
    answer = ask(session, "refuse this")
    assert answer.state == "refused" and "1200" in answer.error and "1000" in answer.error and answer.hint
    assert session.state == "ready" and [turn.role for turn in session.conversation.turns] == ["user"]
    assert ask(session, "hello").whole
    assert [turn.role for turn in session.conversation.turns] == ["user", "assistant"]  # the refused one was replaced


def test_a_failed_answer_leaves_the_worker_usable(session: ChatSession) -> None:
    assert ask(session, "fail").state == "failed"
    assert ask(session, "hello").whole


@pytest.mark.parametrize("deed", ["stall", "deaf", "children", "slow 5000"])
def test_close_frees_the_worker_and_its_children_within_two_seconds(deed: str) -> None:
    session = ChatSession(config(), command=chat_worker.COMMAND)
    session.start()
    answer = session.send(deed)
    seen = until(session, lambda: len(answer.steps) >= 2)
    if deed == "children":
        seen += until(session, lambda: session.loading is not None and session.loading.what.startswith("child"))
    pids = [int(e.what.split()[1]) for e in seen if isinstance(e, Loading) and e.what.startswith("child")]
    assert session.pid is not None
    worker = ProcessIdentity.of(session.pid)
    children = [ProcessIdentity.of(pid) for pid in pids]
    start = time.monotonic()
    session.close()
    assert time.monotonic() - start < 2
    assert worker.is_alive() is False
    assert all(child.is_alive() is False for child in children) and len(children) == (deed == "children")
    with pytest.raises(RunError):
        session.send("hello")


def test_close_while_loading_and_twice() -> None:
    session = ChatSession(config("mute"), command=chat_worker.COMMAND)
    session.start()
    session.close()
    session.close()
    assert session.poll() == [] and session.wait(0.1) == []


def test_a_thread_that_waits_is_let_go_by_close() -> None:
    session = ChatSession(config("mute"), command=chat_worker.COMMAND)
    session.start()
    waiting = threading.Thread(target=session.wait)
    waiting.start()
    session.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_trace_that_cannot_be_written_is_told_and_the_answer_comes(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with ChatSession(config(), command=chat_worker.COMMAND, record=tmp_path / "file") as session:
        session.start()
        assert ask(session, "hello").whole
        assert session.problem is not None and "cannot be written" in session.problem.error.message


def test_the_worker_ends_with_the_desk(tmp_path: Path) -> None:
    script = tmp_path / "desk.py"
    script.write_text(
        "import sys, time\n"
        "from tests.fakes import chat_worker\n"
        "from tests.integration.test_chat_session import config\n"
        "from hetspec_core.service.chat.session import ChatSession\n"
        "session = ChatSession(config(), command=chat_worker.COMMAND)\n"
        "session.start()\n"
        "while session.state != 'ready': session.wait(1)\n"
        "print(session.pid, flush=True)\n"
        "session.send('stall')\n"
        "time.sleep(600)\n"
    )
    desk = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert desk.stdout is not None
    worker = ProcessIdentity.of(int(desk.stdout.readline()))
    assert worker.is_alive()
    desk.kill()
    desk.wait()
    limit = time.monotonic() + 10
    while worker.is_alive() and time.monotonic() < limit:
        time.sleep(0.02)
    assert not worker.is_alive()


def test_settings_change_without_loading_the_base_again(session: ChatSession) -> None:
    ask(session, "hello")
    pid = session.pid
    session.change(tree="3/2/6", temperature=0.7, system_prompt="Be brief.")
    session.change(draft="", draft_name="")
    answer = ask(session, "plain now")
    assert session.pid == pid and session.state == "ready"
    assert answer.settings.plain and not answer.steps and answer.text == "T a0 a1 a2"
    assert session.figures.plain_source == "answers" and session.figures.speedup is None
    with pytest.raises(UsageError, match="depth/top_k/num_draft_tokens"):
        session.change(tree="3/2")
    with pytest.raises(UsageError, match="temperature"):
        session.change(temperature=-1)
    with pytest.raises(UsageError, match="no setting"):
        session.change(colour="red")


def test_answers_are_made_again_and_edited(session: ChatSession) -> None:
    ask(session, "first 2")
    ask(session, "second 2")
    session.change(temperature=1.0)
    again = session.regenerate()
    until(session, lambda: again.ended)
    assert again.settings.sampling.seed == 1 and len(session.conversation.turns) == 4
    edited = session.edit(0, "other 5")
    assert edited is not None
    until(session, lambda: edited.ended)
    assert [turn.text[:5] for turn in session.conversation.turns] == ["other", "T a0 "]
    assert session.edit(1, "what I wanted to hear") is None
    assert session.conversation.turns[1].text == "what I wanted to hear" and not session.conversation.turns[1].pieces
    with pytest.raises(UsageError, match="no turn 7"):
        session.edit(7, "x")


def test_a_comparison_asks_both_sides_in_turns_and_leaves_the_conversation(session: ChatSession) -> None:
    plain = SETTINGS.model_copy(update={"draft": "", "draft_name": ""})
    comparison = session.compare("hello 4", plain, SETTINGS, rounds=2)
    until(session, lambda: comparison.done)
    assert [side for side, _ in comparison.answers] == ["left", "right", "right", "left"]
    verdict = comparison.verdict
    assert verdict is not None and verdict.must_be_identical and not verdict.identical  # this worker is not lossless
    assert verdict.difference is not None and verdict.difference.token == 2
    assert verdict.left_tokens_per_s == pytest.approx(100) and verdict.right_tokens_per_s == pytest.approx(750)
    assert verdict.ratio == pytest.approx(7.5) and "7.50 times as fast" in verdict.sentence
    assert verdict.left_accept_length is None and verdict.right_accept_length == 3
    assert session.conversation.turns == [] and session.state == "ready"
    assert session.figures.plain_source == "answers"


def test_a_comparison_can_be_stopped_and_ends_when_the_worker_dies(session: ChatSession) -> None:
    comparison = session.compare("slow 500", SETTINGS, SETTINGS)
    until(session, lambda: bool(comparison.answers and comparison.answers[0][1].steps))
    session.stop()
    until(session, lambda: comparison.done)
    assert len(comparison.answers) == 1 and session.state == "ready" and comparison.verdict is None
    comparison = session.compare("kill", SETTINGS, SETTINGS)
    until(session, lambda: session.state == "dead")
    assert comparison.done and comparison.verdict is None


def test_every_answer_is_recorded_and_the_trace_replays_to_the_same_answer(session: ChatSession) -> None:
    answer = ask(session, "hello 4")
    assert session.recorder.last is not None
    trace = read_trace(session.recorder.last)
    replayed = Answer.of(trace)
    assert replayed.text == answer.text and replayed.steps == answer.steps and replayed.whole
    assert replayed.stats.accept_length == answer.stats.accept_length
    assert "/drafts" not in session.recorder.last.read_text() and trace.header.settings.draft == "quick"
    assert not trace.header.settings.plain


def test_the_trace_of_an_answer_that_died_can_be_read(session: ChatSession) -> None:
    session.send("kill 9")
    until(session, lambda: session.state == "dead")
    assert session.recorder.last is not None
    trace = read_trace(session.recorder.last)
    assert len(trace.steps) == 2 and trace.end is None


def test_one_session_serves_several_threads(session: ChatSession) -> None:
    until(session, lambda: session.state == "ready")
    answer = session.send("burst 1000")
    taken: list[list[object]] = [[], [], []]

    def take(into: list[object], blocking: bool) -> None:
        while not answer.ended:
            into += session.wait(0.05) if blocking else session.poll(7)

    threads = [threading.Thread(target=take, args=(taken[i], i == 0)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answer.whole and len(answer.steps) == 1000
    assert sum(isinstance(event, Step) for part in taken for event in part) == 1000


def test_a_conversation_goes_on_in_another_session(session: ChatSession, tmp_path: Path) -> None:
    session.change(system_prompt="Be brief.")
    ask(session, "hello")
    session.save(tmp_path / "talk.json")
    loaded = ChatHistory.load(tmp_path / "talk.json")
    assert loaded == session.conversation and loaded.turns[1].pieces[1].origin == "draft"
    with ChatSession(config(), command=chat_worker.COMMAND, conversation=loaded) as other:
        other.start()
        answer = ask(other, "and on")
        assert answer.settings.system_prompt == "Be brief." and len(answer.messages) == 3


def test_a_running_server_has_the_tree_it_has_whatever_was_set() -> None:
    with ChatSession(config("served"), command=chat_worker.COMMAND) as session:
        session.start()
        answer = ask(session, "hello there")  # asked before the server's tree is known
        assert answer.settings.label == session.figures.label == "quick 3/1/3"
        assert session.figures.pooled_steps == 3
        with pytest.raises(UsageError, match="trees of 3/1/3, not 2/2/4"):
            session.change(tree="2/2/4")
        session.change(temperature=0.5)


def test_a_running_servers_only_tree_is_held_to_everywhere(session: ChatSession) -> None:
    until(session, lambda: session.base is not None)
    assert session.base is not None
    session.base = session.base.model_copy(update={"tree": "2/2/4", "capabilities": ("sampling", "calibrate")})
    other = SETTINGS.changed(tree="6/10/60")
    plain = SETTINGS.model_copy(update={"draft": ""})
    for deed in (
        lambda: session.change(tree="6/10/60"),
        lambda: session.compare("one 1", SETTINGS, other),
        lambda: session.calibrate(["2/2/4", "6/10/60"]),
    ):
        with pytest.raises(UsageError, match="drafts trees of 2/2/4, not 6/10/60"):
            deed()
    session.compare("one 1", SETTINGS, plain)  # plain decoding has no tree
    until(session, lambda: not session.busy)


@pytest.mark.parametrize("loaded", [False, True])
def test_what_a_backend_cannot_do_is_refused_and_not_left_out(tmp_path: Path, loaded: bool) -> None:
    served = replace(config(), backend="sglang", backend_options={"url": "http://there:1"})
    with ChatSession(served, command=chat_worker.COMMAND) as session:
        session.start()
        if loaded:
            until(session, lambda: session.base is not None)
            assert session.base is not None
            session.base = session.base.model_copy(update={"capabilities": ("sampling",)})
            with pytest.raises(UsageError, match="cannot be calibrated"):
                session.calibrate()
        with pytest.raises(UsageError, match="the backend sglang at http://there:1 cannot commit one token per step"):
            session.send("one 1", every_position=True)
        assert session.conversation.turns == [] and not session.busy
