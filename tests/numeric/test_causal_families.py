"""Every causal family of transformers: its answers are Hugging Face's own, or it is refused by name before it decodes.

The texts are longer than the windows, and the prompts of a batch have different lengths. The default run has a sample
of the families; the marker `slow` has all of them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hetspec_core.catalog.families import refusal
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.attention_survey import survey_windows
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import ModelError
from hetspec_core.spec import Architecture, BaseSpec, DecodingSpec, PathSource, TreeSpec
from tests.fakes.causal_families import FAMILIES, LAYERS, VOCAB, WINDOW, tiny_config
from tests.fakes.tiny_models import ragged_prompts, tiny_draft

PROMPTS = ragged_prompts((19, 5), vocab=VOCAB)
DECODING = DecodingSpec(tree=TreeSpec.parse("4/3/12"), max_new_tokens=24)
DISTINCT = 6  # different tokens in the answers of a family at least, so that equal answers mean something
MOST_WEIGHTS = 6_000_000

SAMPLE = ("cohere2", "deepseek_v3", "gpt_neox", "ministral3", "opt", "phi3", "phimoe", "qwen3_moe")
_DECODED = """
afmoe apertus arcee aria_text axk1 bitnet cohere cohere2 cohere2_moe deepseek_v2 deepseek_v3 diffllama dots1
ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo fuyu gemma gemma2 gemma3 gemma3_text gemma4_unified
gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neox granite granitemoe
granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax jais2 jetmoe laguna llama
mellum minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral nanochat nemotron olmo olmo2
olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open starcoder2
vaultgemma youtu
ctrl cwm gemma3n gemma3n_text gemma4 gemma4_text granitemoehybrid longcat_flash
"""
DECODED = frozenset(_DECODED.split())
REFUSED = (
    "axk2",
    "deepseek_v32",
    "deepseek_v4",
    "doge",
    "glm_moe_dsa",
    "gpt_oss",
    "granite_swa",
    "granitemoe_swa",
    "hy_v4",
    "mimo_v2_flash",
    "minimax",
    "moshi",
    "recurrent_gemma",
)

NO_CONFIGURATION = frozenset(
    (
        "cohere_compass_text",
        "dbrx",
        "gemma4_assistant",
        "gemma4_unified_assistant",
        "musicgen",
        "musicgen_melody",
    )
)
"""Families that transformers builds neither from this recipe's sizes nor from their own defaults."""


def random_model(config: Any) -> Any:
    """A model with random weights and a head of its own: one that is tied to the embedding repeats its last token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        head = model.get_output_embeddings()
        if isinstance(head, torch.nn.Linear):
            head.weight = torch.nn.Parameter(0.3 * torch.randn(head.weight.shape))
        return model


def check_answers(model: Any, family: str) -> None:
    """Speculative, plain, and `generate` of a copy with Hugging Face's own attention write the same tokens."""
    untouched = copy.deepcopy(model)
    untouched.config._attn_implementation = "eager"
    base = BaseLM(model, None, name=family, fingerprint=family)
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": DECODING.max_new_tokens, "pad_token_id": 0, "eos_token_id": None}
        answer = untouched.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
        expected.append(answer[0, len(prompt) :].tolist())
    assert len({token for answer in expected for token in answer}) >= DISTINCT
    assert [answer.tokens for answer in generate(base, None, PROMPTS, DECODING)] == expected
    assert [answer.tokens for answer in generate(base, tiny_draft(base), PROMPTS, DECODING)] == expected


@pytest.mark.parametrize("family", SAMPLE)
def test_a_family_answers_as_hugging_face_does(family: str) -> None:
    check_answers(random_model(tiny_config(family)), family)


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_kept_is_refused_by_name_before_it_decodes(family: str) -> None:
    model = random_model(tiny_config(family))
    with pytest.raises(ModelError, match=f"family {family} .*not supported"):
        BaseLM(model, None, name=family, fingerprint=family)
    with pytest.raises(ModelError, match=f"family {family} .*not supported"):  # without the list of names as well
        survey_windows(model)


def test_a_window_that_only_the_mask_has_is_kept() -> None:
    model = random_model(tiny_config("phimoe"))
    names = [f"model.layers.{layer}.self_attn" for layer in range(LAYERS)]
    assert survey_windows(model) == dict.fromkeys(names, WINDOW)
    assert survey_windows(random_model(tiny_config("phimoe", sliding_window=None))) == {}
    assert survey_windows(random_model(tiny_config("phi3"))) == {}  # its layers say so themselves


@pytest.mark.parametrize("kinds", [["conv", "full_attention"], ["full_attention", "conv"]])
def test_convolution_layers_are_refused_and_a_model_of_the_family_without_them_is_not(kinds: list[str]) -> None:
    with pytest.raises(ModelError, match="family lfm2 are not supported: some of its layers keep a recurrent"):
        model = random_model(tiny_config("lfm2", layer_types=kinds * 2))
        BaseLM(model, None, name="lfm2", fingerprint="lfm2")
    check_answers(random_model(tiny_config("lfm2", layer_types=["full_attention"] * LAYERS)), "lfm2")


def test_the_survey_needs_no_weights_and_leaves_the_model_as_it_was() -> None:
    model = random_model(tiny_config("jetmoe"))  # its experts cannot run without data: the model itself is asked
    before = model.config._attn_implementation
    state = torch.random.get_rng_state()
    assert survey_windows(model) == {}
    assert model.config._attn_implementation == before
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("family", ["gpt_oss", "doge"])
def test_a_folder_is_refused_before_its_tokenizer_and_weights_are_read(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, and a family without a name by the survey: the folder has no weights at all."""
    tiny_config(family).save_pretrained(tmp_path)
    monkeypatch.setattr("hetspec_core.catalog.families.refusal", lambda *_: "")
    architecture = Architecture(
        model_type=family,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB,
        max_position_embeddings=256,
    )
    spec = BaseSpec(name=family, source=PathSource(path=str(tmp_path)), architecture=architecture)
    with pytest.raises(ModelError, match=f"family {family} are not supported"):
        BaseLM.load(spec, device="cpu", dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_answers_as_hugging_face_does_or_is_refused_by_name(family: str) -> None:
    try:
        config = tiny_config(family)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception:  # no small configuration by this recipe; the default one is surveyed without weights
        assert family not in DECODED
        check_default(family)
        return
    if sum(parameter.numel() for parameter in model.parameters()) > MOST_WEIGHTS:
        check_default(family)
        return
    model = random_model(config)
    if family in DECODED:
        check_answers(model, family)
        return
    try:
        check_answers(model, family)
    except ModelError as error:
        assert config.model_type in str(error) or type(model).__name__ in str(error) or family in str(error)


def check_default(family: str) -> None:
    """A family without a small configuration is refused by name, or nothing speaks against it."""
    try:
        config = AutoConfig.for_model(family)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        assert family in NO_CONFIGURATION or refusal(family), f"{family} has no default model: {error}"
        if not refusal(family):
            pytest.skip(f"{family} has no small and no default configuration: {error}")
        return
    try:
        BaseLM(model, None, name=family, fingerprint=family)
    except ModelError as error:
        assert family in str(error) or type(model).__name__ in str(error) or config.model_type in str(error)
