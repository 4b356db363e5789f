"""The chat worker over a tiny pair, by its two streams: what it streams is the answer, whatever else is asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TypeVar

import pytest
import torch

from hetspec_core.acceptance import StepCount
from hetspec_core.engine.backends.backend import Watcher, Written
from hetspec_core.engine.backends.builtin import BuiltinBackend
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.stages.chat import ChatWorker
from hetspec_core.errors import Cancelled
from hetspec_core.events.chat import (
    PROTOCOL,
    Answered,
    Ask,
    Calibrate,
    Calibrated,
    ChatEvent,
    Failed,
    Loading,
    Notice,
    Open,
    Prepare,
    Prepared,
    Quit,
    Refused,
    Request,
    Started,
    Step,
    Stop,
    Tokens,
    decode_reply,
    encode,
)
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.service.chat.answer import Answer
from hetspec_core.spec import DecodingSpec
from tests.fakes.tiny_models import CONTEXT, perfect_pair, tiny_base, tiny_draft

Kind = TypeVar("Kind")
SETTINGS = ChatSettings(draft="memory", draft_name="tiny").changed(tree="3/2/6", max_new_tokens=24)


class Words:
    """A tokenizer for models that have none: a token is its number."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(f" {token}" for token in tokens)


class NumberBackend(BuiltinBackend):
    """The built-in backend; messages are numbers of tokens."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return [int(word) % 48 for message in messages for word in message.content.split()]


class Desk:
    """The other end of a worker that runs in a thread."""

    def __init__(self, backend: BuiltinBackend | None) -> None:
        requests, self._to = os.pipe()
        self._from, replies = os.pipe()
        self.answers: IO[bytes] = os.fdopen(self._from, "rb")
        worker = ChatWorker(os.fdopen(requests, "rb"), os.fdopen(replies, "wb"), backend)
        self.status: list[int] = []
        self.thread = threading.Thread(target=lambda: self.status.append(worker.run()), daemon=True)
        self.thread.start()

    def say(self, request: Request) -> None:
        os.write(self._to, encode(request))

    def write(self, data: bytes) -> None:
        os.write(self._to, data)

    def until(self, kind: type[Kind], each: Callable[[ChatEvent], None] | None = None) -> Kind:
        while True:
            reply = decode_reply(self.answers.readline())
            if each is not None:
                each(reply)
            if isinstance(reply, kind):
                return reply
            assert not isinstance(reply, Failed), reply

    def ask(self, text: str, settings: ChatSettings = SETTINGS, number: int = 1, **options: bool) -> Answer:
        messages = [ChatMessage(role="user", content=text)]
        answer = Answer(number, messages, settings)
        self.say(Ask(ask=number, messages=messages, settings=settings, **options))
        while not answer.ended:
            answer.apply(decode_reply(self.answers.readline()))
        return answer


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Statuses that a worker would have ended its process with, which here is the tests' own."""
    statuses: list[int] = []
    monkeypatch.setattr("hetspec_core.engine.stages.chat.os._exit", statuses.append)
    monkeypatch.setattr("hetspec_core.engine.stages.chat._QUIT_S", 60.0)  # closing takes its time on a busy machine
    return statuses


@pytest.fixture
def backend() -> NumberBackend:
    base, draft = perfect_pair(seed=1)
    base.tokenizer = Words()
    backend = NumberBackend.of(base, draft)
    assert isinstance(backend, NumberBackend)
    return backend


@pytest.fixture
def desk(backend: NumberBackend) -> Iterator[Desk]:
    desk = Desk(backend)
    yield desk
    desk.say(Quit())
    desk.thread.join(10)
    assert desk.status == [0]


def plain_tokens(backend: BuiltinBackend, prompt: list[int], count: int) -> list[int]:
    return generate(backend.base, None, [prompt], DecodingSpec(max_new_tokens=count))[0].tokens


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("tree", ["1/1/1", "4/1/4", "3/2/6", "6/4/30"])
def test_what_is_streamed_is_plain_decodings_answer(desk: Desk, backend: NumberBackend, tree: str, trees: bool) -> None:
    answer = desk.ask("5 7 9", SETTINGS.model_copy(update={"tree": tree}), trees=trees)
    assert answer.whole and answer.tokens == plain_tokens(backend, [5, 7, 9], 24)
    assert answer.text == "".join(f" {token}" for token in answer.tokens)
    assert len(answer.trees) == (len(answer.steps) if trees else 0)
    assert [step.kv_tokens for step in answer.steps][:1] == [3]
    for step, following in zip(answer.steps, answer.steps[1:]):
        assert following.kv_tokens == step.kv_tokens + len(step.committed)
    assert answer.end is not None and answer.end.stop_reason == "length"
    split = sum(step.propose_s + step.verify_s + step.other_s for step in answer.steps)
    assert split == pytest.approx(answer.end.decode_s, rel=0.05, abs=0.005)


def test_plain_decoding_is_the_same_answer_without_steps(desk: Desk, backend: NumberBackend) -> None:
    answer = desk.ask("5 7 9", SETTINGS.model_copy(update={"draft": ""}))
    assert answer.tokens == plain_tokens(backend, [5, 7, 9], 24) and answer.whole and not answer.steps


def test_steps_carry_ranks_and_probabilities_of_the_base() -> None:
    base = tiny_base(seed=7)
    base.tokenizer = Words()
    desk = Desk(NumberBackend.of(base, tiny_draft(base)))
    answer = desk.ask("5 7 9", SETTINGS.model_copy(update={"tree": "2/3/8", "max_new_tokens": 6}))
    written = [5, 7, 9, answer.tokens[0]]
    for step, tree in zip(answer.steps, answer.trees, strict=True):
        for node in range(1, len(tree.tokens)):
            line, above = [], tree.parents[node]
            while above:
                line, above = [tree.tokens[above], *line], tree.parents[above]
            probabilities = torch.softmax(base.logits(base.forward(torch.tensor([written + line])).hidden[0, -1]), -1)
            own = float(probabilities[tree.tokens[node]])
            assert tree.base_probs[node] == pytest.approx(own, abs=1e-4)
            assert tree.base_ranks[node] == int((probabilities > own + 1e-6).sum()) or own < 1e-4
        written += step.committed
        last = torch.softmax(base.logits(base.forward(torch.tensor([written[:-1]])).hidden[0, -1]), -1)
        if len(step.committed) == len(tree.path) + 1:
            assert tree.bonus == written[-1] and tree.bonus_prob == pytest.approx(float(last[tree.bonus]), abs=1e-4)


def test_a_stop_is_seen_between_two_steps(desk: Desk, backend: NumberBackend) -> None:
    seen: list[ChatEvent] = []

    def each(event: ChatEvent) -> None:
        seen.append(event)
        if isinstance(event, Step) and event.index == 1:
            desk.say(Stop(ask=4))

    desk.say(
        Ask(
            ask=4,
            messages=[ChatMessage(role="user", content="1 2")],
            settings=SETTINGS.model_copy(update={"tree": "1/1/1", "max_new_tokens": 240, "ignore_eos": True}),
        )
    )
    end = desk.until(Answered, each)
    assert end.stop_reason == "stopped" and 3 <= len(end.tokens) < 240
    assert end.tokens == plain_tokens(backend, [1, 2], len(end.tokens))
    assert desk.ask("1 2", number=5).state == "done"


def test_a_stop_that_comes_before_its_question_counts(desk: Desk) -> None:
    desk.say(Stop(ask=9))
    answer = desk.ask("1 2", number=9)
    assert answer.state == "stopped" and len(answer.tokens) == 1


def test_a_stop_is_heard_while_the_backend_is_still_getting_ready(desk: Desk, backend: NumberBackend) -> None:
    """A server that is being started takes a minute or more."""

    def start(*_: object) -> Written:
        while not backend.stop_asked():
            time.sleep(0.01)
        raise Cancelled("the start was given up")

    waiting, backend.answer = backend.answer, start  # type: ignore[method-assign]
    messages = [ChatMessage(role="user", content="1 2")]
    desk.say(Ask(ask=7, messages=messages, settings=SETTINGS))
    desk.until(Started)
    desk.say(Stop(ask=7))
    answered = desk.until(Answered)
    assert (answered.stop_reason, answered.tokens, answered.text) == ("stopped", [], "")
    backend.answer = waiting  # type: ignore[method-assign]
    assert desk.ask("1 2", number=8).state == "done"


def test_steps_that_a_stream_brings_together_are_counted_as_the_backend_counted_them(
    desk: Desk, backend: NumberBackend
) -> None:
    answer = backend.answer
    counts = [StepCount(1, 0, 1)] * 40

    def lumped(prompt: list[int], decoding: DecodingSpec, watcher: Watcher) -> Written:
        written = answer(prompt, decoding, watcher)
        written.counts = counts
        return written

    backend.answer = lumped  # type: ignore[method-assign]
    found = desk.ask("1 2")
    assert len(found.steps) < 40 and found.counts == counts and found.stats.accept_length == 1.0


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_computed(desk: Desk) -> None:
    text = " ".join(["1"] * (CONTEXT + 3))
    desk.say(Ask(ask=1, messages=[ChatMessage(role="user", content=text)], settings=SETTINGS))
    seen: list[ChatEvent] = []
    refused = desk.until(Refused, seen.append)
    assert (refused.prompt_tokens, refused.context_tokens) == (CONTEXT + 3, CONTEXT)
    assert "shorten it by 4 tokens" in refused.hint and len(seen) == 1
    assert desk.ask(" ".join(["1"] * (CONTEXT - 1))).tokens


def test_an_answer_ends_at_the_context(desk: Desk) -> None:
    answer = desk.ask(" ".join(["1"] * (CONTEXT - 5)))
    assert len(answer.tokens) == 5 and answer.end is not None and answer.end.stop_reason == "context"
    assert answer.started is not None and answer.started.limit_tokens == 5


def test_costs_are_measured_for_every_shape_asked_for(desk: Desk) -> None:
    messages = [ChatMessage(role="user", content="1 2 3")]
    desk.say(Calibrate(settings=SETTINGS, trees=["1/1/1", "3/2/6"], messages=messages, tokens=6))
    found = desk.until(Calibrated)
    assert found.plain_token_s > 0 and [cost.tree for cost in found.shapes] == ["1/1/1", "3/2/6"]
    assert all(cost.propose_s > 0 and cost.verify_s > 0 and cost.steps == 4 for cost in found.shapes)
    desk.say(Calibrate(settings=SETTINGS.model_copy(update={"draft": ""}), trees=["1/1/1"], messages=messages))
    assert desk.until(Calibrated).shapes == []


def test_what_cannot_be_read_or_done_is_told_and_the_worker_goes_on(desk: Desk) -> None:
    desk.write(b"no json\n\n{}\n")
    for _ in range(2):
        reply = decode_reply(desk.answers.readline())
        assert isinstance(reply, Failed) and "cannot be read" in reply.error.message
    desk.say(Prepare(settings=SETTINGS.model_copy(update={"draft": "/nowhere"})))
    assert isinstance(decode_reply(desk.answers.readline()), type(None)) is False
    failed = decode_reply(desk.answers.readline())
    assert isinstance(failed, Failed) and failed.error.kind == "CheckpointError" and not failed.fatal
    assert desk.ask("1 2").state == "done"
    desk.say(Prepare(settings=SETTINGS))
    prepared = desk.until(Prepared)
    assert prepared.draft is not None and prepared.draft.name == "tiny" and prepared.draft.parameters > 0


def test_another_protocol_is_refused_and_ends_the_worker() -> None:
    desk = Desk(None)
    desk.say(Open(protocol=PROTOCOL + 1, base={}))
    failed = decode_reply(desk.answers.readline())
    assert isinstance(failed, Failed) and failed.fatal and "protocol" in failed.error.message
    desk.thread.join(10)
    assert desk.status == [3]


def test_a_question_before_a_base_is_open_fails() -> None:
    desk = Desk(None)
    answer = desk.ask("1 2")
    assert answer.state == "failed" and "no base is open" in answer.error
    desk.say(Quit())
    desk.thread.join(10)
    assert desk.status == [0]


class StuckBackend(NumberBackend):
    """It closes when it is told to, not when it is asked to."""

    told: threading.Event

    def close(self) -> None:
        self.told.wait(10)


def test_a_backend_that_does_not_close_is_ended_with_the_process(
    exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hetspec_core.engine.stages.chat._QUIT_S", 0.05)
    backend = StuckBackend.of(*perfect_pair(seed=1))
    assert isinstance(backend, StuckBackend)
    backend.told = threading.Event()
    desk = Desk(backend)
    desk.say(Quit())
    deadline = time.monotonic() + 10
    while not exits and time.monotonic() < deadline:
        time.sleep(0.01)
    assert exits == [0] and not desk.status
    backend.told.set()
    desk.thread.join(10)
    assert desk.status == [0]


def test_a_worker_that_has_left_ends_no_process_afterwards(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hetspec_core.engine.stages.chat._QUIT_S", 0.2)
    desk = Desk(None)
    desk.say(Quit())
    desk.thread.join(10)
    assert desk.status == [0]
    time.sleep(0.4)
    assert exits == []


def test_two_drafts_stay_in_memory_and_a_third_takes_the_place_of_the_oldest(
    backend: NumberBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(folder: object, base: object) -> object:
        loaded.append(str(folder))
        return tiny_draft(backend.base, seed=len(loaded))

    monkeypatch.setattr("hetspec_core.engine.backends.builtin.load_draft", load)
    for name in ("a", "b", "a", "b", "c", "b", "a"):
        facts = backend.use_draft(name, name)
        assert facts is not None and facts.name == name
    assert loaded == ["a", "b", "c", "a"]
    assert backend.use_draft("", "") is None


def test_started_comes_first_and_every_token_once(desk: Desk) -> None:
    seen: list[ChatEvent] = []
    messages = [ChatMessage(role="user", content="3 4")]
    desk.say(Ask(ask=2, messages=messages, settings=SETTINGS))
    end = desk.until(Answered, seen.append)
    assert isinstance(seen[0], Started) and seen[0].prompt_tokens == 2
    tokens = [token for event in seen if isinstance(event, Tokens) for token in event.tokens]
    tokens += [token for event in seen if isinstance(event, Step) for token in event.committed]
    assert tokens == end.tokens
    times = [event.elapsed_s for event in seen if isinstance(event, Tokens | Step)]
    assert times == sorted(times)


def test_an_answer_of_auto_says_its_shape_and_what_that_promised(desk: Desk, backend: NumberBackend) -> None:
    settings = SETTINGS.changed(tree="auto")
    answer = desk.ask("5 7 9", settings)
    assert answer.tokens == plain_tokens(backend, [5, 7, 9], 24) and answer.end is not None
    promised = answer.end.predicted_speedup
    assert promised is not None and promised > 0
    assert answer.end.tree == "plain" or "/" in answer.end.tree
    assert answer.label == f"tiny auto ({answer.end.tree}, predicted {promised:.2f}x)"
    assert desk.ask("5 7 9", SETTINGS, 2).label == SETTINGS.label == "tiny 3/2/6"
    assert backend.facts().decoder == "reference" and "bfloat16" in backend.facts().decoder_why


def test_shapes_are_timed_with_a_progress_that_the_reader_sees_and_a_stop_is_heard(
    desk: Desk, backend: NumberBackend
) -> None:
    seen: list[ChatEvent] = []
    settings = SETTINGS.changed(tree="auto")
    messages = [ChatMessage(role="user", content="5 7 9")]
    desk.say(Ask(ask=1, messages=messages, settings=settings))
    desk.until(Loading, seen.append)
    desk.say(Stop(ask=1))
    end = desk.until(Answered, seen.append)
    assert end.stop_reason == "stopped" and len(end.tokens) == 1
    told = [event for event in seen if isinstance(event, Loading)]
    assert told[0].what == "timing draft trees plain" and told[-1].done < 1.0
    desk.say(Ask(ask=2, messages=messages, settings=settings))
    del seen[:]
    assert len(desk.until(Answered, seen.append).tokens) == 24
    told = [event for event in seen if isinstance(event, Loading)]
    assert [event.done for event in told] == sorted(event.done for event in told) and told[-1].done == 1.0


def test_a_second_turn_keeps_what_the_first_one_read_and_a_comparison_reads_all(
    desk: Desk, backend: NumberBackend
) -> None:
    first = desk.ask("5 7 9")
    assert first.end is not None and first.end.kept_tokens == 0
    turns = [
        ChatMessage(role="user", content="5 7 9"),
        ChatMessage(role="assistant", content=" ".join(map(str, first.tokens))),
        ChatMessage(role="user", content="11 12"),
    ]
    for number, whole, kept in ((2, False, 3 + 24 - 1), (3, True, 0), (4, False, 3 + 24 + 2 - 1)):
        desk.say(Ask(ask=number, messages=turns, settings=SETTINGS, whole_prompt=whole))
        end = desk.until(Answered)
        assert end.tokens == plain_tokens(backend, [5, 7, 9, *first.tokens, 11, 12], 24)
        assert end.kept_tokens == kept


def test_a_notice_of_the_decoder_reaches_the_desk(desk: Desk, backend: NumberBackend) -> None:
    desk.ask("5 7 9")
    backend._decoder.on_notice("decoding goes on without torch.compile")
    assert desk.until(Notice).text == "decoding goes on without torch.compile"
