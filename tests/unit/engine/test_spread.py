"""A pair over several devices: which layer goes where, and that inputs follow. Two GPUs are not needed for that."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hetspec_core.config import resolve
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.decoding.rows import SpeculativeRows
from hetspec_core.engine.modeling import device_map as module
from hetspec_core.engine.modeling.attention_survey import survey_windows
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft, place_draft
from hetspec_core.engine.modeling.device_map import Room, follow, memory_bytes, place_base, place_layers
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.errors import ResourceError, SpecError
from hetspec_core.spec import AlgorithmSpec, DecodingSpec, TreeSpec
from tests.fakes.tiny_models import algorithm_spec, draft_spec, ragged_prompts, tiny_base, tiny_draft, tiny_model
from tests.fakes.tiny_training import write_tiny_base


def test_sizes_are_read_with_their_units() -> None:
    assert [memory_bytes(text) for text in ("17.5GiB", "2 MB", "10")] == [int(17.5 * 2**30), 2_000_000, 10]
    for text in ("much", "-1GiB", "1.5 apples"):
        with pytest.raises(SpecError, match="max_memory"):
            memory_bytes(text)


@pytest.mark.parametrize("from_last", [True, False])
@given(
    layers=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    ends=st.integers(0, 9),
    budgets=st.dictionaries(st.integers(0, 3), st.integers(0, 40), min_size=1),
)
def test_layers_keep_their_order_and_no_budget_is_exceeded(
    from_last: bool, layers: list[int], ends: int, budgets: dict[int, int]
) -> None:
    try:
        placed = place_layers(layers, ends, budgets, from_last=from_last)
    except ResourceError:
        assert sum(layers) + ends > sum(budgets.values()) - len(budgets) * max(layers) or ends > budgets[min(budgets)]
        return
    assert placed == sorted(placed) and len(placed) == len(layers)
    for device, budget in budgets.items():
        held = sum(size for size, at in zip(layers, placed) if at == device)
        assert held + (ends if device == min(budgets) else 0) <= budget


def test_what_does_not_fit_is_refused_with_what_it_needs() -> None:
    assert place_layers([4, 4, 4], 2, {0: 6, 1: 8}) == [0, 1, 1]
    assert place_layers([4, 4, 4], 2, {0: 99, 1: 8}) == [0, 1, 1], "the first device keeps what is left"
    assert place_layers([4, 4, 4], 2, {0: 11, 1: 99}, from_last=False) == [0, 0, 1]
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
def test_a_spread_pair_decodes_as_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, family: str, tied: bool, algorithm: str
) -> None:
    """Both "devices" are the CPU, but every layer and the norms are reached through the moves of a spread pair."""
    moves: list[torch.device] = []
    real = module._moved
    monkeypatch.setattr(module, "_moved", lambda value, device: (moves.append(device), real(value, device))[1])
    whole = tiny_base(family, tied=tied)
    draft = tiny_draft(whole, algorithm=algorithm, layers=2)
    decoding = DecodingSpec(max_new_tokens=10, ignore_eos=True, tree=TreeSpec.parse("3/2/5"))
    prompts = ragged_prompts((5, 9))
    once = generate(whole, draft, prompts, decoding)

    model = tiny_model(family, tied=tied)
    room = Room({"0": "1MB", "1": "100KB"}, kind="cpu")
    place_base(model, model.get_decoder(), room)
    base = BaseLM(model, None, name="spread", fingerprint="spread", room=room)
    place_draft(draft.bind(base), room)
    moves.clear()
    again = generate(base, draft, prompts, decoding)
    assert [answer.tokens for answer in again] == [answer.tokens for answer in once]
    assert [answer.steps for answer in again] == [answer.steps for answer in once]
    assert moves


def bytes_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


@pytest.mark.parametrize("with_follow", [True, False])
@pytest.mark.parametrize(
    ("family", "algorithm"), [("llama", "eagle"), ("llama", "latent"), ("gemma3_text", "eagle3"), ("qwen3", "eagle")]
)
def test_a_pair_over_three_devices_never_mixes_tensors_of_two(
    monkeypatch: pytest.MonkeyPatch, family: str, algorithm: str, with_follow: bool
) -> None:
    """Tensors without contents, on devices of which torch checks every operation: prefill and one whole cycle."""
    model = tiny_model(family, num_hidden_layers=4)
    draft = tiny_draft(tiny_base(family, num_hidden_layers=4), algorithm=algorithm, layers=3)
    a, b, c, d = map(bytes_of, model.get_decoder().layers)
    e, f, g = map(bytes_of, draft.backbone.layers)
    ends = bytes_of(model) + bytes_of(draft) - (a + b + c + d) - (e + f + g)
    room = Room({"0": str(ends + e), "1": str(a + b + f + g), "2": str(c + d)}, kind="cpu")
    if not with_follow:
        monkeypatch.setattr(module, "follow", lambda *_: None)
    monkeypatch.setattr(FakeTensor, "tolist", lambda self: [[1] * self.shape[1]] * self.shape[0])
    shape = TreeSpec.parse("3/2/5")
    decoding = DecodingSpec(max_new_tokens=10, ignore_eos=True, tree=shape)
    windows = survey_windows(model)  # before it is spread, as a base is loaded
    with FakeTensorMode(allow_non_fake_inputs=True), contextlib.ExitStack() as stack:
        assert [device.index for device in place_base(model, model.get_decoder(), room)] == [1, 1, 2, 2]
        base = BaseLM(model, None, name="spread", fingerprint="spread", room=room, windows=windows)
        assert [device.index for device in place_draft(draft.bind(base), room)] == [0, 1, 1]
        assert set(room.left().values()) == {0}
        if not with_follow:
            stack.enter_context(pytest.raises(RuntimeError, match="same device"))
        work = SpeculativeRows(base, draft, 2, 3 + decoding.max_new_tokens, shape, decoding.sampling)
        work.prefill([[1, 2, 3], [4, 5]])
        tree = work.propose()
        verdict, features, logits = work.verify(tree)
        work.commit(tree, verdict, features)
        work.keep(verdict)
        for tensor in (tree.tokens, verdict.tokens, features, logits, work.state, work.root):
            assert tensor.device == torch.device("cpu", 0)
        assert [work.base_cache._keys[layer].device.index for layer in range(4)] == [1, 1, 2, 2]
        assert [work.draft_cache._keys[layer].device.index for layer in range(3)] == [0, 1, 1]


def test_a_loaded_draft_takes_what_the_base_has_left_and_gives_it_back(tmp_path: Path) -> None:
    whole = tiny_base()
    draft = tiny_draft(whole, layers=2, vocab=(1, 2, 3, 5, 8))
    save_draft(draft, tmp_path / "draft", algorithm=AlgorithmSpec(name="eagle"), facts={})
    model = tiny_model()
    needed = bytes_of(model) + bytes_of(draft) + 5 * whole.hidden_size * 4  # the rows of its vocabulary are copied
    room = Room({"0": str(needed)}, kind="cpu")
    place_base(model, model.get_decoder(), room)
    base = BaseLM(model, None, name="spread", fingerprint="spread", room=room)
    assert room.left() == {0: needed - bytes_of(model)}
    loaded = load_draft(tmp_path / "draft", base)
    assert room.left() == {0: 0}
    with pytest.raises(ResourceError, match=r"the draft beside the base needs .* leaves \(0: 0 B\)"):
        load_draft(tmp_path / "draft", base)
    del loaded
    gc.collect()
    load_draft(tmp_path / "draft", base)


def test_layers_that_share_their_norms_stay_together() -> None:
    base = tiny_base()
    draft = build_draft(draft_spec(base, layers=3, tie_layer_norms=True), algorithm_spec("eagle"), base)
    layers = draft.backbone.layers
    ends = bytes_of(draft) - bytes_of(layers)
    room = Room({"0": str(ends + bytes_of(layers) - 1), "1": str(bytes_of(layers))}, kind="cpu")
    assert [device.index for device in place_draft(draft, room)] == [1, 1, 1]
    assert room.left() == {0: bytes_of(layers) - 1, 1: 0}


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
