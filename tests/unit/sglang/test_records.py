"""The tree plugin: records from hand-made tensors, the publisher, the hooks, and the viewer's end."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hetspec_core.sglang.plugin import hooks as hooks_module
from hetspec_core.sglang.plugin.hooks import TreeHooks
from hetspec_core.sglang.plugin.publisher import QUEUE_BATCHES, Publisher
from hetspec_core.sglang.plugin.records import VerifyBatch, pack, parents_of, unpack
from hetspec_core.sglang.stream import TreeFeed, committed_tokens, step_count, tree_step

TOPK = 2
# Depth 3 with topk 2. Candidates: 0, 1 are the root's children; 2..5 those of candidates 0 and 1; 6..9 those of the two
# expanded ones of level two, which are candidates 2 and 4.
PARENT_LIST = torch.tensor([[-1, 0, 1, 2, 4], [-1, 0, 1, 3, 2]])
CHOSEN = torch.tensor([[0, 1, 2, 4, 8], [0, 2, 3, 6, 7]])
PARENTS = [[0, 0, 0, 1, 2, 4], [0, 0, 1, 1, 3, 3]]


def test_parents_follow_the_candidates_of_each_request() -> None:
    assert parents_of(PARENT_LIST, CHOSEN, TOPK).tolist() == PARENTS


def test_a_chain_is_its_own_order_and_a_tree_of_one_level_hangs_on_the_root() -> None:
    assert parents_of(torch.tensor([[-1, 0, 1]]), torch.tensor([[0, 1, 2]]), 1).tolist() == [[0, 0, 1, 2]]
    assert parents_of(torch.empty(1, 0, dtype=torch.long), torch.tensor([[0, 1, 2]]), 3).tolist() == [[0, 0, 0, 0]]


def two_requests(**changes: Any) -> VerifyBatch:
    """A batch of two: the first accepts nodes 1 and 3, the second nothing."""
    torch.manual_seed(0)
    nodes, vocabulary = 6, 12
    tokens = torch.tensor([[3, 5, 6, 7, 8, 9], [4, 1, 2, 10, 11, 0]])
    logits = torch.randn(2 * nodes, vocabulary)
    logits[0, 5], logits[1, 7], logits[3, 11] = 9.0, 9.0, 9.0
    predict = torch.zeros(2 * nodes, dtype=torch.int32)
    predict[[0, 1, 3, 6]] = torch.tensor([5, 7, 11, 9], dtype=torch.int32)
    values: dict[str, Any] = {
        "draft_token": tokens.flatten(),
        "links": torch.cat([PARENT_LIST, CHOSEN], dim=1),
        "topk": TOPK,
        "scores": torch.tensor([[0.5, 0.25, 0.4, 0.2, 0.1]] * 2),
        "logits": logits,
        "predict": predict,
        "accept_index": torch.tensor([[0, 1, 3, -1], [6, -1, -1, -1]], dtype=torch.int32),
        "accept_lens": torch.tensor([3, 1], dtype=torch.int32),
        "seq_lens": torch.tensor([20, 30]),
    }
    return VerifyBatch(**values | changes)


def test_a_record_says_tree_scores_path_and_bonus_as_the_tensors_do() -> None:
    batch = two_requests()
    one, other = unpack(pack(batch), ["a", "b"], at=1.0, dropped=2)
    assert (one["rid"], one["dropped"], one["kv_tokens"]) == ("a", 2, 20)
    assert one["tokens"] == [3, 5, 6, 7, 8, 9]
    assert one["path"] == [1, 3]
    assert one["bonus"] == 11
    assert committed_tokens(one) == [5, 7, 11]
    assert one["base_ranks"][1] == one["base_ranks"][3] == 0
    probs = batch.logits.softmax(-1)
    for node, parent in enumerate(one["parents"][1:], start=1):
        assert one["base_probs"][node] == pytest.approx(float(probs[parent, one["tokens"][node]]), rel=1e-5)
        better = int((batch.logits[parent] > batch.logits[parent, one["tokens"][node]]).sum())
        assert one["base_ranks"][node] == better
    assert one["bonus_prob"] == pytest.approx(float(probs[3, 11]), rel=1e-5)
    assert (other["path"], other["bonus"], committed_tokens(other)) == ([], 9, [9])
    assert other["parents"] == PARENTS[1]


def test_only_the_first_requests_of_a_large_batch_are_told() -> None:
    assert len(unpack(pack(two_requests(), most_rows=1), ["a", "b"], at=0.0, dropped=0)) == 1


def test_a_record_becomes_the_step_that_is_drawn() -> None:
    record = unpack(pack(two_requests()), ["a", "b"], at=1.0, dropped=0)[0]
    step = tree_step(record, 4, [5, 7], lambda token: f"<{token}>")  # the bonus token was cut off
    assert (step.index, step.texts[1], step.committed, step.path) == (4, "<5>", [5, 7], [1, 3])
    assert step.draft_probs[:4] == pytest.approx([1.0, 0.5, 0.25, 0.8])  # 0.4 below 0.5
    count = step_count(record, 2)
    assert (count.committed, count.accepted, count.offered) == (2, 2, 2)  # node 3 has no children
    bare = unpack(pack(two_requests(scores=None)), ["a", "b"], at=1.0, dropped=0)[0]
    assert tree_step(bare, 0, [5], str).draft_probs == [1.0, 0, 0, 0, 0, 0]


def feed_of(publisher: Publisher, path: Path) -> TreeFeed:
    feed = TreeFeed(str(path))
    assert feed.open()
    limit = time.monotonic() + 5
    while not publisher.has_viewers and time.monotonic() < limit:
        time.sleep(0.01)
    assert publisher.has_viewers
    return feed


def test_what_is_published_arrives_by_request_and_a_viewer_may_leave(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path / "s"))
    try:
        feed = feed_of(publisher, tmp_path / "s")
        publisher.put(lambda: unpack(pack(two_requests()), ["a", "b"], 1.0, 0))
        record = feed.take("b", 5.0)
        assert record is not None and record["bonus"] == 9
        assert feed.take("b", 0.01) is None
        publisher.put(lambda: [{"v": 99, "rid": "b"}])  # of another version: left alone
        assert feed.take("b", 0.3) is None
        feed.close()
        limit = time.monotonic() + 5
        while publisher.has_viewers and time.monotonic() < limit:
            time.sleep(0.01)
        assert not publisher.has_viewers
    finally:
        publisher.close()
    assert not (tmp_path / "s").exists()


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path: Path) -> None:
    publisher = Publisher(str(tmp_path / "s"))
    try:
        feed = feed_of(publisher, tmp_path / "s")
        publisher.put(lambda: time.sleep(0.5) or [])
        for _ in range(QUEUE_BATCHES + 20):
            publisher.put(lambda: [])
        assert publisher.dropped >= 10
        feed.close()
    finally:
        publisher.close()


def test_without_a_plugin_there_is_no_feed(tmp_path: Path) -> None:
    assert not TreeFeed(str(tmp_path / "nobody")).open(timeout_s=0.1)


class Sink:
    """A publisher that keeps what it is given."""

    has_viewers, dropped = True, 0

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def put(self, batch: Any) -> None:
        self.records += batch()


def steps_through(hooks: TreeHooks) -> None:
    """One verify step as SGLang makes it."""
    batch = two_requests()
    requests = [SimpleNamespace(rid="a"), SimpleNamespace(rid="b")]
    state = SimpleNamespace(forward_mode=SimpleNamespace(is_idle=lambda: False), reqs=requests, seq_lens=batch.seq_lens)
    scores = torch.arange(1, 11).flip(0).float().expand(2, -1)  # of ten candidates
    hooks.after_organize((PARENT_LIST, CHOSEN, None), [scores[:, :4], scores[:, 4:]], [], [], 6)
    hooks.after_build(None, state, None, PARENT_LIST, CHOSEN, None, None, topk=TOPK)
    sample = (batch.predict, batch.accept_lens, batch.accept_index)
    verify = SimpleNamespace(draft_token_num=6, draft_token=batch.draft_token)
    hooks.after_sample(sample, verify, state, SimpleNamespace(next_token_logits=batch.logits))


def test_the_hooks_put_a_step_together() -> None:
    sink = Sink()
    hooks = TreeHooks(lambda: sink)  # type: ignore[arg-type, return-value]
    steps_through(hooks)
    assert [record["rid"] for record in sink.records] == ["a", "b"]
    assert sink.records[0]["scores"] == [1.0, 10.0, 9.0, 8.0, 6.0, 2.0]  # 10 - candidate, root first
    assert hooks.faults == 0


def test_a_buffer_of_scores_is_the_same_one_at_every_step() -> None:
    """A captured graph writes to the address that it was captured with."""
    hooks = TreeHooks(lambda: None)
    places = set()
    for _ in range(3):
        steps_through(hooks)
        places.add(hooks._scores[5].data_ptr())
    assert len(places) == 1


def test_nobody_looking_costs_no_record() -> None:
    sink = Sink()
    sink.has_viewers = False  # type: ignore[misc]
    hooks = TreeHooks(lambda: sink)  # type: ignore[arg-type, return-value]
    steps_through(hooks)
    assert sink.records == []


def test_the_first_step_is_gathered_although_nobody_looks_so_that_no_viewer_waits_for_a_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gathered: list[int] = []
    monkeypatch.setattr(hooks_module, "pack", lambda step: gathered.append(step.num_nodes) or pack(step))
    sink = Sink()
    sink.has_viewers = False  # type: ignore[misc]
    hooks = TreeHooks(lambda: sink)  # type: ignore[arg-type, return-value]
    steps_through(hooks)
    steps_through(hooks)
    assert (gathered, sink.records) == ([6], [])
    sink.has_viewers = True  # type: ignore[misc]
    steps_through(hooks)
    assert (gathered, len(sink.records)) == ([6, 6], 2)


def test_a_hook_that_fails_is_silent_and_after_a_few_times_stays_away(caplog: pytest.LogCaptureFixture) -> None:
    hooks = TreeHooks(lambda: Sink())  # type: ignore[arg-type, return-value]
    for _ in range(20):
        hooks.after_build(None, None, None)  # nothing of what it needs
        hooks.after_organize(None, None)
    assert hooks.faults == 5
    assert len(caplog.records) == 5
    steps_through(hooks)  # it does not even look any more


def test_a_socket_that_cannot_be_made_is_a_fault_of_the_hook_alone() -> None:
    def broken() -> Publisher:
        raise OSError("no room")

    hooks = TreeHooks(broken)
    steps_through(hooks)
    steps_through(hooks)
    assert hooks.faults == 1
