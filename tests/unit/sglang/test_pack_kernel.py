"""The kernel that gathers a step at once against the readable way: on a GPU, or by Triton's interpreter."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.sglang.plugin.records import VerifyBatch, pack, unpack

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernel is defined
pytest.importorskip("triton", reason="Triton is not installed; it comes with PyTorch for GPUs")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 12), st.integers(1, 3), st.integers(3, 9000))


def random_step(depth: int, topk: int, nodes: int, rows: int, vocabulary: int, seed: int) -> VerifyBatch:
    """A step as SGLang numbers it: candidates in levels, the best nodes of them, and accepted paths of any length."""
    draw = torch.Generator().manual_seed(seed)
    candidates = topk + (depth - 1) * topk**2
    nodes = depth if topk == 1 else min(nodes, candidates)
    links = []
    for _ in range(rows):
        expanded, first = [-1], 0
        for level in range(depth - 1):
            size = topk if level == 0 else topk**2
            expanded += sorted((first + torch.randperm(size, generator=draw)[:topk]).tolist())
            first += size
        # An ancestor's score is higher than its descendants', so the best nodes always have their parents with them.
        chosen: list[int] = []
        allowed = list(range(topk))
        while len(chosen) < nodes:
            pick = allowed.pop(int(torch.randint(len(allowed), (1,), generator=draw)))
            chosen.append(pick)
            allowed += [c for c in range(topk, candidates) if expanded[c // topk] == pick]
        links.append((expanded if depth > 1 else []) + sorted(chosen))
    total = rows * (nodes + 1)
    accepted = torch.full((rows, depth + 1), -1)
    lengths = torch.randint(1, depth + 2, (rows,), generator=draw)
    for row, length in enumerate(lengths.tolist()):
        path = torch.randperm(nodes, generator=draw)[: length - 1].sort().values + 1
        accepted[row, : 1 + len(path)] = row * (nodes + 1) + torch.cat([torch.zeros(1).long(), path])
        lengths[row] = 1 + len(path)
    values = {
        "draft_token": torch.randint(vocabulary, (total,), generator=draw),
        "links": torch.tensor(links),
        "scores": None if topk == 1 else torch.rand(8, nodes, generator=draw),
        "logits": 4 * torch.randn(total, vocabulary, generator=draw),
        "predict": torch.randint(vocabulary, (total,), generator=draw).int(),
        "accept_index": accepted.int(),
        "accept_lens": lengths.int(),
        "seq_lens": torch.randint(1, 5000, (rows,), generator=draw),
    }
    moved = {name: None if value is None else value.to(DEVICE) for name, value in values.items()}
    return VerifyBatch(topk=topk, **moved)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)  # every shape is compiled anew on a GPU
@given(shape=shapes, half=st.booleans(), seed=st.integers(0, 10**6))
def test_the_kernel_tells_what_the_readable_way_tells(shape: tuple[int, ...], half: bool, seed: int) -> None:
    from hetspec_core.sglang.plugin.pack_kernel import pack_at_once

    depth, topk, nodes, rows, vocabulary = shape
    step = random_step(depth, topk, nodes, rows, vocabulary, seed)
    step = replace(step, logits=step.logits.bfloat16()) if half else step
    ids = [str(row) for row in range(rows)]
    slow, fast = (
        unpack(type(found)(found.numbers.cpu(), found.nodes), ids, at=0.0, dropped=0)
        for found in (pack(step), pack_at_once(step))
    )
    assert len(slow) == len(fast) == rows
    for one, other in zip(slow, fast, strict=True):
        for name in ("base_probs", "bonus_prob"):
            assert other.pop(name) == pytest.approx(one.pop(name), rel=1e-4, abs=1e-7)
        assert other == one


def test_only_the_first_requests_of_a_large_batch_are_told() -> None:
    from hetspec_core.sglang.plugin.pack_kernel import pack_at_once

    assert pack_at_once(random_step(2, 2, 4, 3, 50, 0), most_rows=2).numbers.shape[0] == 2
