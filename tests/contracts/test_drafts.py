"""Every algorithm with every backbone: what a draft owes to decoding, training, storage and measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.data.batches import Batch, make_batch
from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.training.evaluation import accept_length, base_choices, follow_paths
from hetspec_core.service.planning.parameters import count_draft
from hetspec_core.spec import DecodingSpec, TreeSpec
from tests.fakes.tiny_models import algorithm_spec, draft_spec, ragged_prompts, tiny_draft
from tests.fakes.tiny_training import LAYERS, learn, load_tiny_base, states_of, write_tiny_base, write_tiny_store

ALGORITHMS = [card.name for card in list_cards("algorithms")]
BACKBONES = [card.name for card in list_cards("backbones")]
NARROW = 24  # another width than the base's
PAIRS = [(algorithm, backbone) for algorithm in ALGORITHMS for backbone in BACKBONES]
every_pair = pytest.mark.parametrize(("algorithm", "backbone"), PAIRS)
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseLM:
    return load_tiny_base(write_tiny_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def batch(base: BaseLM, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    folder = tmp_path_factory.mktemp("store") / "store"
    store = open_store([write_tiny_store(folder, base, samples=4, layers=LAYERS)])
    return make_batch([store[index] for index in range(len(store))])


@torch.no_grad()
@every_pair
def test_one_token_at_a_time_gives_the_states_of_the_whole_sequence(
    base: BaseLM, batch: Batch, algorithm: str, backbone: str
) -> None:
    draft = tiny_draft(base, backbone, algorithm=algorithm, layers=2, hidden=NARROW)
    tokens, start = batch.tokens[:2, :6], states_of(draft, batch)[:2, :6]
    whole = draft(tokens, start)
    cache, found = DynamicCache(), []
    for place in range(tokens.shape[1]):
        part = slice(place, place + 1)
        mask = torch.ones(1, 1, 1, place + 1, dtype=torch.bool)
        found.append(draft(tokens[:, part], start[:, part], positions=torch.tensor([[place]]), mask=mask, cache=cache))
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-3, atol=1e-4)


@every_pair
def test_it_learns_a_tiny_set_by_heart(base: BaseLM, batch: Batch, algorithm: str, backbone: str) -> None:
    draft = tiny_draft(base, backbone, algorithm=algorithm, hidden=NARROW).train().requires_grad_(True)
    history = learn(draft, batch, algorithm)
    assert history[-1] > 0.6 and history[-1] > history[0] + 0.3
    assert all(parameter.grad is not None for parameter in draft.parameters())  # processes wait for every gradient
    draft.eval()
    with torch.no_grad():
        paths = follow_paths(draft, batch, base_choices(draft, batch), per_sample=9, depth=3, width=1)
    assert accept_length(paths.counts(1)) > 1.3


@each_algorithm
@pytest.mark.parametrize("backbone", ["llama", "qwen3-moe"])
def test_a_step_in_bfloat16_is_nearly_the_exact_one(base: BaseLM, batch: Batch, algorithm: str, backbone: str) -> None:
    """As in training: float32 weights, the forward under autocast, the loss behind it."""
    draft = tiny_draft(base, backbone, algorithm=algorithm, hidden=NARROW, vocab=tuple(range(0, 48, 2))).requires_grad_(
        True
    )
    rule = build_algorithm(algorithm_spec(algorithm, noise=0.0))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        forward = torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16)(draft.forward)
        wrapped = torch.nn.Module()
        wrapped.module, wrapped.forward = draft, forward  # type: ignore[assignment]
        output = rule.loss(wrapped, batch)
        draft.zero_grad()
        output.total.backward()
        assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in draft.parameters())
        found.append(output.total.item())
    assert found[1] != found[0] and found[1] == pytest.approx(found[0], rel=0.05)


@torch.no_grad()
@every_pair
@pytest.mark.parametrize("vocab", [(), (0, 1, 5, 6, 9, 40)])
def test_what_is_saved_is_loaded(
    base: BaseLM, batch: Batch, tmp_path: Path, algorithm: str, backbone: str, vocab: tuple[int, ...]
) -> None:
    draft = tiny_draft(base, backbone, algorithm=algorithm, layers=2, hidden=NARROW, vocab=vocab)
    save_draft(draft, tmp_path / "draft", algorithm=algorithm_spec(algorithm), facts={})
    loaded = load_draft(tmp_path / "draft", base)
    assert loaded.captured_layers == draft.captured_layers
    mine, theirs = (each.logits(each(batch.tokens, states_of(each, batch))) for each in (draft, loaded))
    assert torch.equal(mine, theirs) and mine.shape[-1] == (len(vocab) or base.vocab_size)


@every_pair
def test_parameters_are_counted_before_it_is_built(base: BaseLM, algorithm: str, backbone: str) -> None:
    for layers, hidden, vocab in ((1, None, None), (2, 24, 10)):
        spec = draft_spec(base, backbone, layers=layers, hidden=hidden, vocab_size=vocab)
        options = algorithm_spec(algorithm)
        ids = torch.arange(vocab) if vocab else None
        draft = build_draft(spec, options, base, vocab=ids)
        counted = count_draft(spec, options, base.hidden_size)
        assert (counted.total, counted.exact) == (draft.num_parameters, backbone != "hf")
        assert counted.active == draft.num_active_parameters - _own_head(draft)


def _own_head(draft: DraftLM) -> int:
    """Rows of a draft's own output head: counted as what logits cost, not as what its layers cost."""
    own = draft.head.own_output_head
    return 0 if own is None else own.weight.numel()


@each_algorithm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_bases_own_whatever_the_number_type(base: BaseLM, algorithm: str, dtype: torch.dtype) -> None:
    prompts = ragged_prompts((5, 1, 9), vocab=base.vocab_size)
    settings: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}
    expected = [c.tokens for c in generate(base, None, prompts, DecodingSpec(**settings))]
    draft = tiny_draft(base, algorithm=algorithm, hidden=NARROW).to(dtype)
    for tree in ("1/1/1", "4/3/20"):
        answers = generate(base, draft, prompts, DecodingSpec(tree=TreeSpec.parse(tree), **settings))
        assert [c.tokens for c in answers] == expected


@each_algorithm
def test_its_card_names_a_head_and_the_layers_it_reads(algorithm: str) -> None:
    card = load_card("algorithms", algorithm)
    assert card.load_capability("head").build is not None
    for layers in (1, 2, 3, 5, 6, 30):
        assert all(0 <= layer < layers for layer in card.captured_layers({}, layers))
