"""Capture: stored states are those of a forward of the sample alone, without padding, and errors are not lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.engine.data.capture import capture, plan_capture
from hetspec_core.engine.data.hidden_states import HiddenStateWriter, open_store
from hetspec_core.engine.data.items import CaptureItem
from hetspec_core.engine.data.manifest import StoreIdentity
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError
from tests.fakes.tiny_base import make_tiny_base

WIDTH = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseLM:
    spec = make_tiny_base(tmp_path_factory.mktemp("base"), hidden_size=WIDTH)
    return BaseLM.load(spec, device="cpu", dtype=torch.float32)


def items(lengths: list[int]) -> list[CaptureItem]:
    generator = torch.Generator().manual_seed(0)
    return [
        CaptureItem(
            f"id{number}",
            torch.randint(3, 300, (length,), generator=generator).tolist(),
            [i > 1 for i in range(length)],
        )
        for number, length in enumerate(lengths)
    ]


def writer(folder: Path, *, layers: tuple[int, ...] = (), dtype: str = "float32") -> HiddenStateWriter:
    identity = StoreIdentity(
        base_fingerprint="b",
        tokenizer_hash="t",
        template_hash="t",
        hidden_size=WIDTH,
        vocab_size=400,
        layers=layers,
        norm="after_final_norm",
        dtype=dtype,
    )
    return HiddenStateWriter(folder, identity, about={}, shard_bytes=2000)


def test_states_are_those_of_the_sample_alone(base: BaseLM, tmp_path: Path) -> None:
    wanted = items([9, 3, 14, 7, 2, 9, 30])
    with writer(tmp_path, layers=(0, 1)) as out:
        capture(base, wanted, out, tokens_per_batch=32)

    store = open_store([tmp_path])

    assert sorted(store.ids) == sorted(item.id for item in wanted)
    by_id = {store[number].id: store[number] for number in range(len(store))}
    for item in wanted:
        output = base.model(torch.tensor([item.input_ids]), output_hidden_states=True)
        sample = by_id[item.id]
        assert sample.input_ids.tolist() == item.input_ids
        assert sample.assistant_mask.tolist() == item.assistant_mask
        torch.testing.assert_close(sample.hidden, output.hidden_states[-1][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sample.layers[0], output.hidden_states[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sample.layers[1], output.hidden_states[1][0], rtol=1e-4, atol=1e-5)


def test_final_state_is_after_the_norm(base: BaseLM, tmp_path: Path) -> None:
    """The head on the stored state gives the model's own logits, which is what the norm is for."""
    (item,) = items([12])
    with writer(tmp_path) as out:
        capture(base, [item], out, tokens_per_batch=64)

    stored = open_store([tmp_path])[0].hidden

    torch.testing.assert_close(
        base.logits(stored), base.model(torch.tensor([item.input_ids])).logits[0], rtol=1e-4, atol=1e-4
    )


def test_states_are_rounded_to_the_type_of_the_store(base: BaseLM, tmp_path: Path) -> None:
    (item,) = items([12])
    with writer(tmp_path, dtype="bfloat16") as out:
        capture(base, [item], out, tokens_per_batch=64)

    stored = open_store([tmp_path])[0].hidden

    assert torch.equal(stored, base.forward(torch.tensor([item.input_ids])).hidden[0].bfloat16())


def test_error_of_the_writer_comes_out(base: BaseLM, tmp_path: Path) -> None:
    repeated = [items([5])[0]] * 2
    with pytest.raises(DataError, match="in the store already"), writer(tmp_path) as out:
        capture(base, repeated, out, tokens_per_batch=8)


def test_stop_between_batches_keeps_what_was_captured(base: BaseLM, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at_second(samples: int, tokens: int) -> None:
        seen.append(samples)
        if len(seen) == 2:
            raise Stop

    seen: list[int] = []
    with pytest.raises(Stop), writer(tmp_path) as out:
        capture(base, items([8] * 6), out, tokens_per_batch=16, on_batch=stop_at_second)

    assert len(open_store([tmp_path])) == sum(seen) == 4


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=60), budget=st.integers(1, 600))
@settings(max_examples=50, deadline=None)
def test_plan_takes_each_sample_once_within_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_capture(lengths, budget)

    assert sorted(number for batch in plan for number in batch) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * max(lengths[number] for number in batch) <= budget


def test_plan_wastes_little_on_padding() -> None:
    lengths = [10 + (37 * number) % 200 for number in range(400)]

    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan_capture(lengths, 2048))

    assert padded < 1.05 * sum(lengths)


@pytest.mark.gpu
def test_gpu_capture_equals_the_forward(base: BaseLM, tmp_path: Path) -> None:
    on_gpu = BaseLM(base.model.cuda(), base.tokenizer, name="tiny", fingerprint="b")
    wanted = items([9, 3, 14, 7, 2, 9, 30] * 20)
    wanted = [CaptureItem(f"n{number}", item.input_ids, item.assistant_mask) for number, item in enumerate(wanted)]
    with writer(tmp_path, layers=(1,)) as out:
        capture(on_gpu, wanted, out, tokens_per_batch=64)

    store = open_store([tmp_path])
    for number in range(len(store)):
        sample = store[number]
        fresh = on_gpu.forward(sample.input_ids.long().cuda()[None], layers=(1,))
        torch.testing.assert_close(sample.hidden, fresh.hidden[0].cpu(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(sample.layers[1], fresh.layers[1][0].cpu(), rtol=1e-3, atol=1e-3)
    base.model.cpu()


@pytest.mark.parametrize("layers", [(), (0,)])
def test_a_sample_whose_states_are_not_finite_is_named_and_not_stored(tmp_path: Path, layers: tuple[int, ...]) -> None:
    broken = BaseLM.load(make_tiny_base(tmp_path / "base", hidden_size=WIDTH), device="cpu", dtype=torch.float32)
    with torch.no_grad():
        broken.ends.embedding.weight[7] = torch.inf
    wanted = items([9, 4, 6])
    wanted[1].input_ids[2] = 7
    for item in (wanted[0], wanted[2]):
        item.input_ids[:] = [8 if token == 7 else token for token in item.input_ids]
    with writer(tmp_path / "store", layers=layers) as out:
        found = capture(broken, wanted, out, tokens_per_batch=64)
    assert list(found) == ["id1"] and found["id1"].startswith("final state, token ")
    assert sorted(open_store([tmp_path / "store"]).ids) == ["id0", "id2"]


def test_states_that_the_stored_type_cannot_hold_are_not_finite(base: BaseLM, tmp_path: Path) -> None:
    """float16 ends at 65,504: a state beyond it is finite in the base and infinite in the store."""
    scaled = BaseLM.load(make_tiny_base(tmp_path / "base", hidden_size=WIDTH), device="cpu", dtype=torch.float32)
    with torch.no_grad():
        scaled.decoder.norm.weight.fill_(1e6)
    with writer(tmp_path / "store", dtype="float16") as out:
        assert list(capture(scaled, items([5]), out, tokens_per_batch=64)) == ["id0"]
