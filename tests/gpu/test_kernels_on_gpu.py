"""Kernels of decoding against their readable twins, over drawn shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.engine.decoding.kv_cache import SlotCache
from hetspec_core.engine.modeling.attention import attend, key_bounds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
kernels = pytest.importorskip("hetspec_core.engine.modeling.kernels", reason="needs Triton", exc_type=ImportError)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.sampled_from([1, 2, 3, 8]),
    group=st.sampled_from([1, 3, 4]),
    tokens=st.sampled_from([1, 2, 7, 30, 61, 70]),
    keys=st.sampled_from([64, 65, 200, 1024]),
    width=st.sampled_from([8, 16, 64, 80, 128]),
    value_width=st.sampled_from([8, 64, 128]),
    softcap=st.sampled_from([None, 5.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 1000),
)
def test_attention_over_a_table_equals_the_readable_one(
    batch: int,
    kv_heads: int,
    group: int,
    tokens: int,
    keys: int,
    width: int,
    value_width: int,
    softcap: float | None,
    dtype: torch.dtype,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    query = torch.randn(batch, tokens, kv_heads * group, width, device="cuda", dtype=dtype).transpose(1, 2)
    key = torch.randn(batch, kv_heads, keys, width, device="cuda", dtype=dtype)
    value = torch.randn(batch, kv_heads, keys, value_width, device="cuda", dtype=dtype)
    mask = torch.rand(batch, 1, tokens, keys, device="cuda") < 0.3
    mask[..., 0] = True  # everybody sees something
    mask[:, :, :, 64:128] = False  # a block that nobody sees
    length = torch.randint(1, keys + 1, (batch,), device="cuda")
    mask &= torch.arange(keys, device="cuda") < length[:, None, None, None]
    expected = attend(query.float(), key.float(), value.float(), mask, width**-0.5, softcap)
    found = kernels.masked_attention(query, key, value, mask, key_bounds(mask), width**-0.5, softcap).float()
    tolerance = 2e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.sampled_from([(1,), (1, 1), (2, 10), (8, 10)]),
    vocab=st.sampled_from([12, 100, 2048, 2049, 8192, 49152, 151_936]),
    count=st.sampled_from([1, 2, 7, 10]),
    coarse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_top_candidates_are_the_largest_and_the_lower_id_comes_first_among_equals(
    rows: tuple[int, ...], vocab: int, count: int, coarse: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(*rows, vocab, device="cuda")
    if coarse:  # with many equal ones
        logits = logits.round()
    values, ids, total = kernels.top_candidates(logits, count)
    order = torch.sort(logits, dim=-1, descending=True, stable=True)
    assert torch.equal(values, order.values[..., :count])
    assert torch.equal(ids, order.indices[..., :count])
    torch.testing.assert_close(total, logits.logsumexp(-1))


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 4),
    heads=st.sampled_from([1, 3, 8]),
    width=st.sampled_from([8, 64, 80, 128]),
    steps=st.integers(1, 9),
    layers=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_accepted_tokens_are_moved_in_all_tables_as_table_by_table(
    batch: int, heads: int, width: int, steps: int, layers: int, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    caches = [SlotCache(batch, 96, "cuda", fixed=True, fused=fused) for fused in (False, True)]
    tables = [
        torch.randn(2, batch, heads, 96, width if layer else 2 * width, device="cuda", dtype=dtype)
        for layer in range(layers)
    ]
    for cache in caches:
        cache.stage(torch.arange(96, device="cuda").expand(batch, -1), visible=0)
        for layer, (keys, values) in enumerate(tables):
            cache.update(keys, values, layer)
    lengths = torch.randint(0, 30, (batch,), device="cuda")
    path = torch.stack([torch.randperm(60, device="cuda")[:steps].sort().values for _ in range(batch)])
    path[:, 0] = 0
    counts = torch.randint(0, steps + 1, (batch, 3), device="cuda")[:, 1]  # one of several columns
    for cache in caches:
        cache.lengths.copy_(lengths)
        cache.keep(path, counts)
        assert torch.equal(cache.lengths, lengths + counts)
    readable, fused = caches
    for layer in range(layers):
        for row in range(batch):
            end = int(lengths[row] + counts[row])
            assert torch.equal(readable._keys[layer][row, :, :end], fused._keys[layer][row, :, :end])
            assert torch.equal(readable._values[layer][row, :, :end], fused._values[layer][row, :, :end])
