"""A base over several devices: which layer goes where, and that inputs follow. Two GPUs are not needed for that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.config import resolve
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.modeling import spread as module
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.spread import follow, memory_bytes, place_layers, spread
from hetspec_core.errors import ResourceError, SpecError
from hetspec_core.spec import DecodingSpec, TreeSpec
from tests.fakes.tiny_models import ragged_prompts, tiny_base, tiny_draft, tiny_model
from tests.fakes.tiny_training import write_tiny_base


def test_sizes_are_read_with_their_units() -> None:
    assert [memory_bytes(text) for text in ("17.5GiB", "2 MB", "10")] == [int(17.5 * 2**30), 2_000_000, 10]
    for text in ("much", "-1GiB", "1.5 apples"):
        with pytest.raises(SpecError, match="max_memory"):
            memory_bytes(text)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(0, 9),
    st.dictionaries(st.integers(0, 3), st.integers(0, 40), min_size=1),
)
def test_layers_keep_their_order_and_no_budget_is_exceeded(
    layers: list[int], ends: int, budgets: dict[int, int]
) -> None:
    try:
        placed = place_layers(layers, ends, budgets)
    except ResourceError:
        return
    assert placed == sorted(placed) and len(placed) == len(layers)
    for device, budget in budgets.items():
        held = sum(size for size, at in zip(layers, placed) if at == device)
        assert held + (ends if device == min(budgets) else 0) <= budget


def test_what_does_not_fit_is_refused_with_what_it_needs() -> None:
    assert place_layers([4, 4, 4], 2, {0: 6, 1: 8}) == [0, 1, 1]
    with pytest.raises(ResourceError, match="does not fit"):
        place_layers([4, 4, 4], 2, {0: 6, 1: 7})
    with pytest.raises(ResourceError, match="does not fit"):
        place_layers([1], 9, {0: 8, 1: 100})


def test_inputs_follow_in_whatever_form_they_come() -> None:
    class Layer(torch.nn.Module):
        def forward(self, hidden, *, position_embeddings, cache, mask=None):
            assert cache == "a cache" and mask is None
            return hidden.device.type, [part.device.type for part in position_embeddings]

    layer = Layer()
    follow(layer, torch.device("meta"))
    here = torch.zeros(2)
    assert layer(here, position_embeddings=(here, here), cache="a cache", mask=None) == ("meta", ["meta", "meta"])


@pytest.mark.parametrize("algorithm", ["eagle", "eagle3", "latent"])
@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("gemma3_text", True), ("qwen3_moe", False)])
def test_a_spread_base_decodes_as_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, family: str, tied: bool, algorithm: str
) -> None:
    """Both "devices" are the CPU, but every layer and the norm are reached through the moves of a spread one."""
    moves: list[torch.device] = []
    real = module._moved
    monkeypatch.setattr(module, "_moved", lambda value, device: (moves.append(device), real(value, device))[1])
    model = tiny_model(family, tied=tied)
    devices = spread(model, model.get_decoder(), {"0": "60KB", "1": "1MB"}, kind="cpu")
    assert len(devices) == 2
    base = BaseLM(model, None, name="spread", fingerprint="spread")
    whole = tiny_base(family, tied=tied)
    draft = tiny_draft(base, algorithm=algorithm)
    decoding = DecodingSpec(max_new_tokens=10, ignore_eos=True, tree=TreeSpec.parse("3/2/5"))
    prompts = ragged_prompts((5, 9))
    plain = [answer.tokens for answer in generate(whole, None, prompts, decoding)]
    assert [answer.tokens for answer in generate(base, draft, prompts, decoding)] == plain
    assert moves


def test_it_is_refused_where_it_means_nothing(tmp_path) -> None:
    spec = write_tiny_base(tmp_path / "base")
    with pytest.raises(ResourceError, match="on the CPU"):
        BaseLM.load(spec, device="cpu", dtype=torch.float32, max_memory={"0": "1GiB"})
    asked = {"resources.max_memory": {"0": "1GiB", "1": "1GiB"}, "resources.num_gpus": 2}
    assert resolve("smollm2-llama-eagle", stage="bench", options=asked).spec.resources.max_memory == {
        "0": "1GiB",
        "1": "1GiB",
    }
    with pytest.raises(SpecError) as error:
        resolve("smollm2-llama-eagle", stage="train", options=asked)
    assert any("resources.max_memory: spreads the base" in problem for problem in error.value.problems)
    with pytest.raises(SpecError) as error:
        resolve("smollm2-llama-eagle", stage="bench", options=asked | {"resources.num_gpus": 1})
    assert any("num_gpus is 1" in problem for problem in error.value.problems)
