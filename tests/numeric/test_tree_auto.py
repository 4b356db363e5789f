"""`tree = auto`: the answers of plain decoding with whatever shape it takes, from costs that it measures and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetspec_core.engine.decoding.auto import PROBE_EVERY, ChoosingDecoder
from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events.chat import Step
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from hetspec_core.tree_choice import TreeChoice, shapes_within
from tests.fakes.tiny_models import perfect_pair, ragged_prompts, tiny_base, tiny_draft

PROMPTS = ragged_prompts((7, 1, 19, 4))
AUTO = DecodingSpec(tree=TreeSpec(auto=True, depth=3), max_new_tokens=20, ignore_eos=True)
SHAPES = shapes_within(AUTO.tree)


class TimedDecoder(ReferenceDecoder):
    """Gives the reference's answers and says that they took the times that a test sets.

    Args:
        base: decides.
        plain: seconds of a plain step.
        per_node: seconds that every node of a tree adds to it.

    Attributes:
        slower: a factor by label of a shape, or `plain`.
        now: its clock.
        answered: the labels of all calls.
    """

    def __init__(self, base: BaseLM, plain: float = 1.0, per_node: float = 0.1) -> None:
        super().__init__(base)
        self._plain, self._per_node = plain, per_node
        self.slower: dict[str, float] = {}
        self.now, self.answered = 0.0, list[str]()

    def generate(self, prompts, decoding, draft=None, *, listener=SILENT, most_per_step=None) -> list[Completion]:
        plain = decoding.plain or draft is None
        label = "plain" if plain else decoding.tree.label
        seconds = self._plain + (0 if plain else self._per_node * decoding.tree.num_nodes)
        seconds *= self.slower.get(label, 1.0)
        self.answered.append(label)
        relay = _Relay(self, listener, seconds)
        answers = super().generate(prompts, decoding, draft, listener=relay, most_per_step=most_per_step)
        for answer in answers:
            answer.first_token_s = 0.0
            answer.total_s = seconds * (len(answer.tokens) - 1 if plain else len(answer.steps))
        return answers


class _Relay(Listener):
    """Lets the clock of a decoder go on with every step."""

    def __init__(self, decoder: TimedDecoder, other: Listener, seconds: float) -> None:
        self._decoder, self._other, self._seconds = decoder, other, seconds

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        self._decoder.now += self._seconds if row == 0 else 0
        self._other.on_tokens(row, tokens)

    def on_step(self, row: int, step: Step) -> None:
        self._decoder.now += self._seconds if row == 0 else 0
        self._other.on_step(row, step)

    def stop_asked(self) -> bool:
        return self._other.stop_asked()


def choosing(inner: TimedDecoder, folder: Path | None = None, machine: str = "here") -> ChoosingDecoder:
    return ChoosingDecoder(inner, machine, folder, lambda: inner.now)


def taken(decoder: ChoosingDecoder, draft: DraftLM, answers: int = 1) -> list[str]:
    return [decoder.generate(PROMPTS[:1], AUTO, draft)[0].tree for _ in range(answers)]


@pytest.mark.parametrize("kind", [ReferenceDecoder, FastDecoder])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_equal_plain_decoding_whatever_is_taken(kind: type[Decoder], rows: int, temperature: float) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    way = AUTO.model_copy(update={"sampling": SamplingSpec(temperature=temperature, seed=3)})
    plain = ReferenceDecoder(base).generate(PROMPTS[:rows], way.model_copy(update={"plain": True}))
    decoder = ChoosingDecoder(kind(base), "here")
    for _ in range(2):
        found = decoder.generate(PROMPTS[:rows], way, draft)
        assert [answer.tokens for answer in found] == [answer.tokens for answer in plain]
        assert {answer.tree for answer in found} <= {"plain", *(shape.label for shape in SHAPES)}


def test_a_perfect_draft_gets_a_tree_and_a_useless_one_plain_decoding() -> None:
    base, perfect = perfect_pair(seed=1)
    decoder = choosing(TimedDecoder(base, per_node=0.01))
    told: list[TreeChoice] = []
    decoder.on_choice = told.append
    for _ in range(4):
        answer = decoder.generate(PROMPTS[:1], AUTO, perfect)[0]
        assert answer.tree.startswith("3/") and len(answer.steps) < 8
    assert len({choice.label for choice in told}) == len(told)
    assert taken(choosing(TimedDecoder(base, per_node=0.3)), tiny_draft(base), 8)[-1] == "plain"


def test_a_first_answer_begins_with_the_rates_that_training_simulated() -> None:
    base = tiny_base()
    first = []
    for rates in ((), (0.95, 0.95, 0.95), (0.01, 0.0, 0.0)):
        draft = tiny_draft(base)
        draft.acceptance_rates = rates
        first += taken(choosing(TimedDecoder(base, per_node=0.4)), draft)
    assert first == ["1/1/1", "3/1/3", "plain"]


def test_shapes_that_are_asked_for_later_join_those_that_were_timed(tmp_path: Path) -> None:
    base = tiny_base()
    draft, inner = tiny_draft(base), TimedDecoder(base)
    decoder = choosing(inner, tmp_path)
    decoder.generate(PROMPTS[:1], AUTO, draft)
    del inner.answered[:]
    wanted = [TreeSpec.parse("2/2/4"), TreeSpec.parse("1/1/1")]
    found = decoder.predict(draft, AUTO, PROMPTS[:1], wanted)
    assert list(found) == ["2/2/4", "1/1/1"] and set(inner.answered) == {"plain", "2/2/4"}
    again = TimedDecoder(base)
    later = choosing(again, tmp_path).predict(draft, AUTO, PROMPTS[:1], wanted)
    assert again.answered == [] and later.keys() == found.keys()


def test_plain_decoding_is_probed_now_and_then() -> None:
    base = tiny_base()
    decoder = choosing(TimedDecoder(base, per_node=10.0))
    found = taken(decoder, tiny_draft(base), 2 * PROBE_EVERY)
    assert [number for number, tree in enumerate(found, 1) if tree != "plain"] == [PROBE_EVERY, 2 * PROBE_EVERY]


def test_plain_steps_are_timed_behind_the_first_answer_with_a_tree_and_then_now_and_then() -> None:
    base, perfect = perfect_pair(seed=1)
    inner = TimedDecoder(base, per_node=0.01)
    decoder = choosing(inner)
    taken(decoder, perfect)
    del inner.answered[:]
    assert "plain" not in taken(decoder, perfect, 2 * PROBE_EVERY)
    assert inner.answered.count("plain") == 2


def test_a_tree_whose_cycles_take_longer_than_measured_gives_way_to_plain_decoding() -> None:
    base, perfect = perfect_pair(seed=1)
    inner = TimedDecoder(base, per_node=0.01)
    decoder = choosing(inner)
    decoder.choose(perfect, AUTO, PROMPTS[:1])  # costs are measured
    inner.slower = {shape.label: 10.0 for shape in SHAPES}
    found = taken(decoder, perfect, 6)
    assert found[0] != "plain" and found[3:] == ["plain"] * 3


@pytest.mark.parametrize("before", [0, 1, 6])
def test_one_disturbed_answer_does_not_change_the_choice(before: int) -> None:
    base, perfect = perfect_pair(seed=1)
    inner = TimedDecoder(base, per_node=0.01)
    decoder = choosing(inner)
    quiet = taken(decoder, perfect, before) or [decoder.choose(perfect, AUTO, PROMPTS[:1]).label]
    inner.slower = {shape.label: 20.0 for shape in SHAPES}
    taken(decoder, perfect)
    inner.slower = {}
    assert taken(decoder, perfect, 3) == [quiet[-1]] * 3


def test_what_answers_corrected_is_kept_on_disk(tmp_path: Path) -> None:
    base, perfect = perfect_pair(seed=1)
    inner = TimedDecoder(base, per_node=0.01)
    decoder = choosing(inner, tmp_path)
    decoder.choose(perfect, AUTO, PROMPTS[:1])
    inner.slower = {shape.label: 10.0 for shape in SHAPES}
    taken(decoder, perfect, 12)
    again = TimedDecoder(base)
    assert taken(choosing(again, tmp_path), perfect) == ["plain"] and again.answered == ["plain"]


def test_costs_are_measured_once_for_a_batch_size_and_kept_on_disk(tmp_path: Path) -> None:
    base = tiny_base()
    draft, other = tiny_draft(base), tiny_draft(base, algorithm="eagle3")

    def measured(decoder: ChoosingDecoder, draft: DraftLM, rows: int) -> bool:
        seen: list[float] = []
        decoder.on_measure = lambda shape, done: seen.append(done)
        decoder.generate(PROMPTS[:rows], AUTO, draft)
        assert seen == sorted(seen) and (not seen or (seen[0], seen[-1]) == (0.0, 1.0))
        return bool(seen)

    decoder = choosing(TimedDecoder(base), tmp_path)
    assert [measured(decoder, draft, rows) for rows in (1, 1, 3, 3)] == [True, False, True, False]
    again = choosing(TimedDecoder(base), tmp_path)
    assert [measured(again, draft, rows) for rows in (1, 3)] == [False, False]
    assert measured(again, other, 1)
    assert measured(choosing(TimedDecoder(base), tmp_path, "another machine"), draft, 1)
    assert len(list(tmp_path.glob("*.json"))) == 4


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 2}', '{"version": 2, "plain_s": -1, "cycle_s": {}}'])
def test_a_damaged_file_of_costs_is_measured_anew(damage: str, tmp_path: Path) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    for attempt in range(2):
        inner = TimedDecoder(base)
        choosing(inner, tmp_path).generate(PROMPTS[:1], AUTO, draft)
        assert inner.answered.count("plain") >= 2
        (file,) = tmp_path.glob("*.json")
        assert json.loads(file.read_text())["plain_s"] == pytest.approx(1.0)
        if not attempt:
            file.write_text(damage)


def test_times_of_a_disturbed_machine_are_not_kept_on_disk(tmp_path: Path) -> None:
    base = tiny_base()
    inner = TimedDecoder(base)
    inner.slower = {"1/1/1": 50.0}
    choosing(inner, tmp_path).generate(PROMPTS[:1], AUTO, tiny_draft(base))
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("looks", [0, 3, 40])
def test_a_stop_while_shapes_are_timed_ends_the_answer_and_keeps_no_costs(looks: int, tmp_path: Path) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    inner = TimedDecoder(base)
    decoder = choosing(inner, tmp_path)

    class Stopping(Listener):
        def stop_asked(self) -> bool:
            nonlocal looks
            looks -= 1
            return looks < 0

    (answer,) = decoder.generate(PROMPTS[:1], AUTO, draft, listener=Stopping())
    assert answer.stop_reason == "stopped" and len(answer.tokens) == 1
    assert len(inner.answered) < 2 * (1 + len(SHAPES)) and not list(tmp_path.glob("*.json"))
    (answer,) = decoder.generate(PROMPTS[:1], AUTO, draft)
    assert len(answer.tokens) == AUTO.max_new_tokens and list(tmp_path.glob("*.json"))


def test_a_named_shape_and_plain_decoding_are_not_chosen_for() -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    inner = TimedDecoder(base)
    decoder = choosing(inner)
    for way in (AUTO.model_copy(update={"tree": TreeSpec.parse("3/2/5")}), AUTO.model_copy(update={"plain": True})):
        assert decoder.generate(PROMPTS[:1], way, draft)[0].tree == ""
    assert decoder.generate(PROMPTS[:1], AUTO, None)[0].tree == "" and inner.answered == ["3/2/5", "plain", "plain"]


@pytest.mark.parametrize("kind", [ReferenceDecoder, FastDecoder])
def test_steps_say_the_ranks_of_accepted_tokens_and_the_children_that_were_offered(kind: type[Decoder]) -> None:
    base, perfect = perfect_pair(seed=1)
    way = DecodingSpec(tree=TreeSpec.parse("3/2/5"), max_new_tokens=20, ignore_eos=True)
    (answer,) = kind(base).generate(PROMPTS[:1], way, perfect)
    assert all(step.ranks == (0,) * step.accepted for step in answer.steps)
    wide = way.model_copy(update={"tree": TreeSpec.parse("2/30/40"), "max_new_tokens": 60})
    (answer,) = kind(base).generate(PROMPTS[:1], wide, tiny_draft(base))
    assert any(rank > 0 for step in answer.steps for rank in step.ranks)
    (answer,) = kind(base).generate(PROMPTS[:1], way, tiny_draft(base))
    for step in answer.steps:
        assert len(step.ranks) == step.accepted and all(0 <= rank < 2 for rank in step.ranks)
        assert (step.children > 0) == (step.offered > step.accepted) and step.children <= 2
