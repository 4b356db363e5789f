"""`tree = auto`: the answers of plain decoding with whatever shape it takes, from costs that it measures and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetspec_core.engine.decoding.auto import PROBE_EVERY, ChoosingDecoder
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from hetspec_core.tree_choice import CycleCosts, TreeChoice, shapes_within
from tests.fakes.tiny_models import perfect_pair, ragged_prompts, tiny_base, tiny_draft

PROMPTS = ragged_prompts((7, 1, 19, 4))
AUTO = DecodingSpec(tree=TreeSpec(auto=True, depth=3), max_new_tokens=20, ignore_eos=True)
SHAPES = shapes_within(AUTO.tree)


def given_costs(decoder: ChoosingDecoder, plain: float, per_node: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Costs as if they were measured; returns a list that grows with every measurement."""
    measured: list[int] = []

    def measure(draft, decoding, prompts, shapes) -> CycleCosts:
        measured.append(len(prompts))
        return CycleCosts(plain, {shape.label: plain + per_node * shape.num_nodes for shape in shapes})

    monkeypatch.setattr(decoder, "_measure", measure)
    monkeypatch.setattr(CycleCosts, "correct", lambda *_: None)
    return measured


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


def test_a_perfect_draft_gets_a_tree_and_a_useless_one_plain_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    base, perfect = perfect_pair(seed=1)
    decoder = ChoosingDecoder(ReferenceDecoder(base), "here")
    given_costs(decoder, 1.0, 0.01, monkeypatch)
    told: list[TreeChoice] = []
    decoder.on_choice = told.append
    for _ in range(4):
        answer = decoder.generate(PROMPTS[:1], AUTO, perfect)[0]
        assert answer.tree.startswith("3/") and len(answer.steps) < 8
    assert len({choice.label for choice in told}) == len(told)
    useless = tiny_draft(base)
    decoder = ChoosingDecoder(ReferenceDecoder(base), "here")
    given_costs(decoder, 1.0, 0.3, monkeypatch)
    taken = [decoder.generate(PROMPTS[:1], AUTO, useless)[0].tree for _ in range(8)]
    assert taken[-1] == "plain"


def test_plain_decoding_is_probed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    decoder = ChoosingDecoder(ReferenceDecoder(base), "here")
    given_costs(decoder, 1.0, 10.0, monkeypatch)
    taken = [decoder.generate(PROMPTS[:1], AUTO, draft)[0].tree for _ in range(2 * PROBE_EVERY)]
    assert [number for number, tree in enumerate(taken, 1) if tree != "plain"] == [PROBE_EVERY, 2 * PROBE_EVERY]


def test_costs_are_measured_once_for_a_batch_size_and_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base()
    draft, other = tiny_draft(base), tiny_draft(base, algorithm="eagle3")
    decoder = ChoosingDecoder(ReferenceDecoder(base), "here", tmp_path)
    measured = given_costs(decoder, 1.0, 0.1, monkeypatch)
    for rows in (1, 1, 3, 3):
        decoder.generate(PROMPTS[:rows], AUTO, draft)
    assert measured == [1, 3]
    again = ChoosingDecoder(ReferenceDecoder(base), "here", tmp_path)
    measured = given_costs(again, 1.0, 0.1, monkeypatch)
    again.generate(PROMPTS[:1], AUTO, draft)
    assert measured == []
    again.generate(PROMPTS[:1], AUTO, other)
    elsewhere = ChoosingDecoder(ReferenceDecoder(base), "another machine", tmp_path)
    assert measured == [1] and given_costs(elsewhere, 1.0, 0.1, monkeypatch) == []
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1}', '{"version": 1, "plain_s": -1, "cycle_s": {}}'])
def test_a_damaged_file_of_costs_is_measured_anew(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    for attempt in range(2):
        decoder = ChoosingDecoder(ReferenceDecoder(base), "here", tmp_path)
        measured = given_costs(decoder, 1.0, 0.1, monkeypatch)
        decoder.generate(PROMPTS[:1], AUTO, draft)
        assert measured == [1]
        (file,) = tmp_path.glob("*.json")
        assert json.loads(file.read_text())["plain_s"] == 1.0
        if not attempt:
            file.write_text(damage)


def test_a_named_shape_and_plain_decoding_are_not_chosen_for(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    decoder = ChoosingDecoder(ReferenceDecoder(base), "here")
    measured = given_costs(decoder, 1.0, 0.1, monkeypatch)
    for way in (AUTO.model_copy(update={"tree": TreeSpec.parse("3/2/5")}), AUTO.model_copy(update={"plain": True})):
        assert decoder.generate(PROMPTS[:1], way, draft)[0].tree == ""
    assert decoder.generate(PROMPTS[:1], AUTO, None)[0].tree == "" and measured == []


@pytest.mark.parametrize("kind", [ReferenceDecoder, FastDecoder])
def test_steps_say_the_ranks_of_accepted_tokens_and_the_children_that_were_offered(kind: type[Decoder]) -> None:
    base, perfect = perfect_pair(seed=1)
    way = DecodingSpec(tree=TreeSpec.parse("3/2/5"), max_new_tokens=20, ignore_eos=True)
    (answer,) = kind(base).generate(PROMPTS[:1], way, perfect)
    assert all(step.ranks == (0,) * step.accepted for step in answer.steps)
    (answer,) = kind(base).generate(PROMPTS[:1], way, tiny_draft(base))
    for step in answer.steps:
        assert len(step.ranks) == step.accepted and all(0 <= rank < 2 for rank in step.ranks)
        assert (step.children > 0) == (step.offered > step.accepted) and step.children <= 2
