"""Small hidden-state stores whose samples are told by their number."""

from __future__ import annotations

from pathlib import Path

import torch

from hetspec_core.engine.data.hidden_states import HiddenStateWriter, Sample
from hetspec_core.engine.data.manifest import StoreIdentity

WIDTH = 8


def identity(**changes: object) -> StoreIdentity:
    values: dict[str, object] = {
        "base_fingerprint": "base",
        "tokenizer_hash": "tok",
        "template_hash": "tpl",
        "hidden_size": WIDTH,
        "vocab_size": 100,
        "layers": (1,),
        "dtype": "bfloat16",
    }
    return StoreIdentity.model_validate(values | changes)


def sample(number: int, length: int = 6) -> Sample:
    generator = torch.Generator().manual_seed(number)
    return Sample(
        id=f"id{number}",
        input_ids=torch.randint(0, 100, (length,), generator=generator, dtype=torch.int32),
        assistant_mask=torch.rand(length, generator=generator) > 0.5,
        hidden=torch.randn(length, WIDTH, generator=generator).bfloat16(),
        layers={1: torch.randn(length, WIDTH, generator=generator).bfloat16()},
    )


def writer(folder: Path, *, shard_bytes: int = 300, **changes: object) -> HiddenStateWriter:
    return HiddenStateWriter(folder, identity(**changes), about={"base": "tiny"}, shard_bytes=shard_bytes)


def write(folder: Path, numbers: range, **options: int) -> None:
    with writer(folder, **options) as out:
        for number in numbers:
            out.add(sample(number))


def assert_same(one: Sample, two: Sample) -> None:
    assert one.id == two.id
    assert torch.equal(one.input_ids, two.input_ids)
    assert torch.equal(one.assistant_mask, two.assistant_mask)
    assert torch.equal(one.hidden, two.hidden)
    assert all(torch.equal(one.layers[layer], two.layers[layer]) for layer in one.layers)
