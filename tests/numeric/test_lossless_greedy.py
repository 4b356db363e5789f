"""The property that guards the whole idea: greedy speculative answers are the base's own, token by token.

Three writers answer the same prompts in float32: speculative decoding, plain decoding, and Hugging Face's `generate` on
an untouched copy of the model with Hugging Face's own attention.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hetspec_core.catalog import list_cards
from hetspec_core.engine.decoding.completion import Completion, Listener
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError, ModelError
from hetspec_core.events.chat import Step
from hetspec_core.spec import DecodingSpec, TreeSpec
from tests.fakes.tiny_models import FAMILIES, perfect_pair, ragged_prompts, tiny_base, tiny_draft, tiny_model

BACKBONES = [card.name for card in list_cards("backbones")]
ALGORITHMS = [card.name for card in list_cards("algorithms")]
SHAPES = ["1/1/1", "1/3/2", "4/1/4", "3/3/21", "6/10/60"]
PROMPTS = ragged_prompts((7, 1, 19, 4))
NEW_TOKENS = 20


def decoding(tree: str = "3/3/8", **options: Any) -> DecodingSpec:
    return DecodingSpec(tree=TreeSpec.parse(tree), **({"max_new_tokens": NEW_TOKENS} | options))


def tokens_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.tokens for completion in completions]


def hugging_face(model: Any, prompt: list[int], **options: Any) -> list[int]:
    """The new tokens of `model.generate`, greedy."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": NEW_TOKENS, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)[
        0, len(prompt) :
    ].tolist()


@functools.cache
def reference(family: str) -> tuple[BaseLM, list[list[int]]]:
    """A base of the family, and what Hugging Face answers to PROMPTS with a copy that runs its own attention."""
    model = tiny_model(family)
    untouched = copy.deepcopy(model)
    untouched.config._attn_implementation = "eager"
    base = BaseLM(model, None, name=family, fingerprint=family)
    return base, [hugging_face(untouched, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_is_hugging_face(family: str) -> None:
    base, expected = reference(family)
    assert len({token for answer in expected for token in answer}) > 5  # the base does say something
    assert tokens_of(generate(base, None, PROMPTS, decoding())) == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("family", FAMILIES)
def test_speculative_is_hugging_face(family: str, backbone: str, algorithm: str) -> None:
    """Every base family with every backbone by every algorithm: the decoding knows none of them."""
    base, expected = reference(family)
    draft = tiny_draft(base, backbone, algorithm=algorithm, hidden=24)
    answers = generate(base, draft, PROMPTS, decoding("3/2/7", max_new_tokens=10))
    assert tokens_of(answers) == [answer[:10] for answer in expected]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("tree", SHAPES)
def test_whatever_the_tree_the_answer_is_the_bases(tree: str, algorithm: str) -> None:
    base, expected = reference("qwen3")
    draft = tiny_draft(base, "qwen3-moe", algorithm=algorithm)
    assert tokens_of(generate(base, draft, PROMPTS, decoding(tree))) == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("vocab", [(), tuple(range(0, 48, 3)), (11,)])
def test_whatever_the_draft_the_answer_is_the_bases(algorithm: str, layers: int, vocab: tuple[int, ...]) -> None:
    base, expected = reference("llama")
    draft = tiny_draft(base, algorithm=algorithm, layers=layers, vocab=vocab)
    assert tokens_of(generate(base, draft, PROMPTS, decoding("4/3/12"))) == expected


SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 0},
    "qwen3_moe": {"use_sliding_window": True},
}


@pytest.mark.parametrize("family", SLIDING)
def test_a_base_that_slides_a_window_over_its_past(family: str) -> None:
    """Prompts and answers are longer than the window, in a batch of different lengths and alone."""
    model = tiny_model(family, sliding_window=8, **SLIDING[family])
    untouched = copy.deepcopy(model)
    untouched.config._attn_implementation = "eager"
    expected = [hugging_face(untouched, prompt) for prompt in PROMPTS]
    assert expected != reference(family)[1]  # the window does make a difference
    base = BaseLM(model, None, name=family, fingerprint=family)
    assert base.max_length == 256
    assert tokens_of(generate(base, None, PROMPTS, decoding())) == expected
    assert tokens_of(generate(base, None, PROMPTS[2:3], decoding())) == expected[2:3]
    assert tokens_of(generate(base, tiny_draft(base), PROMPTS, decoding("4/3/20"))) == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_a_base_whose_head_is_its_embedding(family: str) -> None:
    model = tiny_model(family, tied=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    expected = [hugging_face(model, prompt) for prompt in PROMPTS]
    base = BaseLM(model, None, name=family, fingerprint=family)
    for algorithm in ALGORITHMS:
        draft = tiny_draft(base, algorithm=algorithm)
        assert tokens_of(generate(base, draft, PROMPTS, decoding())) == expected


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_neighbours_in_a_batch_change_nothing(rows: int) -> None:
    base, expected = reference("qwen3")
    draft = tiny_draft(base)
    for start in range(0, len(PROMPTS), rows):
        part = slice(start, start + rows)
        assert tokens_of(generate(base, draft, PROMPTS[part], decoding())) == expected[part]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_draft_in_another_number_type_than_the_base(dtype: torch.dtype) -> None:
    base, expected = reference("llama")
    answers = generate(base, tiny_draft(base).to(dtype), PROMPTS, decoding("4/3/12"))
    assert tokens_of(answers) == expected


@pytest.mark.parametrize("tree", ["4/1/4", "4/3/39", "6/10/60"])
def test_perfect_draft_is_accepted_to_the_full_depth(tree: str) -> None:
    base, draft = perfect_pair()
    shape = TreeSpec.parse(tree)
    full = shape.depth + 1
    settings = decoding(tree, max_new_tokens=1 + 4 * full)
    answers = generate(base, draft, PROMPTS, settings)
    assert tokens_of(answers) == tokens_of(generate(base, None, PROMPTS, settings))
    for answer in answers:
        assert [step.committed for step in answer.steps] == [full] * 4
        assert [(step.accepted, step.offered) for step in answer.steps] == [(shape.depth, shape.depth)] * 4


@pytest.mark.parametrize("perfect", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 7])
def test_the_answer_has_exactly_the_tokens_asked_for(limit: int, perfect: bool) -> None:
    base, draft = perfect_pair() if perfect else (tiny_base(), tiny_draft(tiny_base()))
    longer = tokens_of(generate(base, None, PROMPTS, decoding("4/2/10")))
    for answer, expected in zip(
        generate(base, draft, PROMPTS, decoding("4/2/10", max_new_tokens=limit)), longer, strict=True
    ):
        assert answer.tokens == expected[:limit] and answer.stop_reason == "length"
        assert sum(step.committed for step in answer.steps) == limit - 1


def with_stop_ids(base: BaseLM, stop_ids: set[int]) -> BaseLM:
    base.stop_ids = frozenset(stop_ids)
    return base


@pytest.mark.parametrize("perfect", [True, False])
def test_answers_end_with_the_stop_token_wherever_it_falls(perfect: bool) -> None:
    """Tokens of the answers become stop ids in turn: so they fall on roots, bonus tokens and inside accepted paths."""
    base, draft = perfect_pair(seed=3) if perfect else (tiny_base(seed=5), tiny_draft(tiny_base(seed=5)))
    endless = tokens_of(generate(base, None, PROMPTS, decoding()))
    inside = 0
    settings = decoding("4/3/20" if perfect else "2/2/4")
    for stop in sorted({token for answer in endless for token in answer})[:: 1 if perfect else 4]:
        answers = generate(with_stop_ids(base, {stop}), draft, PROMPTS, settings)
        assert tokens_of(answers) == tokens_of(generate(base, None, PROMPTS, settings))
        for answer, whole in zip(answers, endless, strict=True):
            stops = stop in whole
            assert answer.tokens == (whole[: whole.index(stop) + 1] if stops else whole)
            assert answer.stop_reason == ("stop" if stops else "length")
            assert sum(step.committed for step in answer.steps) == len(answer.tokens) - 1
            inside += bool(stops and answer.steps and answer.steps[-1].committed < answer.steps[-1].accepted + 1)
    assert inside > 0 or not perfect


def test_any_of_several_stop_ids_ends_the_answer_as_in_hugging_face() -> None:
    endless = reference("llama")[1]
    stop_ids = (endless[0][6], endless[1][3], endless[2][9])
    model = tiny_model(stop_ids=stop_ids)
    expected = [hugging_face(model, prompt) for prompt in PROMPTS]
    base = BaseLM(model, None, name="stops", fingerprint="stops")
    assert base.stop_ids == set(stop_ids)
    answers = generate(base, tiny_draft(base), PROMPTS, decoding())
    assert tokens_of(answers) == expected
    assert {answer.stop_reason for answer in answers} >= {"stop"}
    going_on = generate(base, tiny_draft(base), PROMPTS, decoding(ignore_eos=True))
    assert tokens_of(going_on) == endless


@pytest.mark.parametrize(("family", "perfect"), [("llama", True), ("llama", False), ("gpt2", False)])
def test_prompts_near_the_context_limit(family: str, perfect: bool) -> None:
    """The answer ends at the context; deeper nodes never take part (GPT-2 has no position behind it)."""
    context = 256 if perfect else 40
    base, draft = perfect_pair() if perfect else (tiny_base(family, context=context), None)
    draft = draft or tiny_draft(base)
    prompts = ragged_prompts((context - 1, context - 2, context - 5, context - 9, 3))
    settings = decoding("6/3/30", max_new_tokens=9)
    answers = generate(base, draft, prompts, settings)
    assert [len(answer.tokens) for answer in answers] == [1, 2, 5, 9, 9]
    assert [answer.stop_reason for answer in answers] == ["context"] * 3 + ["length"] * 2
    assert tokens_of(answers) == tokens_of(generate(base, None, prompts, settings))
    for prompt, answer in zip(prompts, answers, strict=True):
        for index, token in enumerate(answer.tokens):  # no cache at all
            hidden = base.forward(torch.tensor([prompt + answer.tokens[:index]])).hidden
            assert base.logits(hidden[0, -1]).argmax() == token


@pytest.mark.parametrize("family", ["bloom", "gpt_oss"])
def test_families_whose_attention_is_not_ours_to_exchange_are_refused(family: str) -> None:
    """Bloom adds position biases, GPT-OSS sinks: left out, both would write fluent nonsense."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 32} if family == "gpt_oss" else {}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, pad_token_id=None, eos_token_id=None, **sizes)
    )
    with pytest.raises(ModelError, match="attention"):
        generate(BaseLM(model, None, name=family, fingerprint=family), None, [[1, 2, 3]], decoding())


def test_prompts_that_leave_no_room_are_refused() -> None:
    base = tiny_base(context=16)
    with pytest.raises(DataError, match="16 tokens"):
        generate(base, tiny_draft(base), ragged_prompts((3, 16)), decoding())
    with pytest.raises(DataError, match="no token"):
        generate(base, None, [[1], []], decoding())


@pytest.mark.parametrize("plain", [True, False])
def test_no_prompts_no_answers(plain: bool) -> None:
    base = tiny_base()
    assert generate(base, tiny_draft(base), [], decoding(plain=plain)) == []


class Told(Listener):
    """Keeps what it is told, and asks for the end after a number of calls."""

    def __init__(self, trees: bool = False, stop_after: int | None = None) -> None:
        self.trees = trees
        self.tokens: dict[int, list[int]] = defaultdict(list)
        self.steps: dict[int, list[Step]] = defaultdict(list)
        self.left = stop_after

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        self.tokens[row] += tokens

    def on_step(self, row: int, step: Step) -> None:
        self.tokens[row] += step.committed
        self.steps[row].append(step)

    def stop_asked(self) -> bool:
        if self.left is not None:
            self.left -= 1
        return self.left is not None and self.left < 0


def test_streamed_tokens_and_steps_are_the_answer() -> None:
    base, draft = perfect_pair(seed=1)
    told = Told()
    answers = generate(base, draft, PROMPTS, decoding("3/2/6"), listener=told)
    assert [told.tokens[row] for row in range(len(PROMPTS))] == tokens_of(answers)
    for row, answer in enumerate(answers):
        assert [step.count for step in told.steps[row]] == answer.steps
        assert [step.index for step in told.steps[row]] == list(range(len(answer.steps)))


def test_a_listener_ends_an_answer_between_two_steps() -> None:
    base, draft = perfect_pair(seed=1)
    whole = generate(base, draft, PROMPTS, decoding("3/2/6"))
    for way, stop_after in ((draft, 2), (None, 3)):
        told = Told(stop_after=stop_after)
        answers = generate(base, way, PROMPTS, decoding("3/2/6"), listener=told)
        cut = [answer for answer in answers if answer.stop_reason == "stopped"]
        assert cut
        for answer, full in zip(answers, whole, strict=True):
            assert answer.tokens == full.tokens[: len(answer.tokens)]
            assert answer.stop_reason != "stopped" or len(answer.tokens) < len(full.tokens)


def test_steps_show_the_tree_as_both_models_see_it() -> None:
    base = tiny_base()
    draft = tiny_draft(base)
    told = Told(trees=True)
    generate(base, draft, PROMPTS[:2], decoding("2/2/5", max_new_tokens=6), listener=told)
    written = {row: list(PROMPTS[row]) for row in range(2)}
    for row in range(2):
        written[row].append(int(base.logits(base.forward(torch.tensor([PROMPTS[row]])).hidden[0, -1]).argmax()))
    for row, step in [(row, step.tree) for row, steps in told.steps.items() for step in steps]:
        assert step is not None
        assert step.tokens[0] == written[row][-1] and step.kv_tokens == len(written[row]) - 1
        for index in range(1, len(step.tokens)):
            line, above = [], step.parents[index]
            while above:
                line, above = [step.tokens[above], *line], step.parents[above]
            hidden = base.forward(torch.tensor([written[row] + line])).hidden[0, -1]
            probs = torch.softmax(base.logits(hidden), -1)
            assert step.base_probs[index] == pytest.approx(float(probs[step.tokens[index]]), rel=1e-3)
        written[row] += step.committed
