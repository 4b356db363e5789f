"""The dynamic tree against a slow, readable one: plain Python, no cache, no tensors of trees, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hetspec_core.engine.decoding import tree as tree_module
from hetspec_core.engine.decoding.kv_cache import SlotCache
from hetspec_core.engine.decoding.propose import propose, tree_slots
from hetspec_core.engine.decoding.tree import DraftTree, ancestor_matrix, best_first, build_tree, select_best
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import TreeSpec
from tests.fakes.tiny_models import ragged_prompts, tiny_base, tiny_draft

Path = tuple[int, ...]  # tokens from the root's child down to a node
NextTokens = Callable[[Path], list[tuple[float, int]]]  # every next token of a path: (log q, token), likeliest first

SMALL_SHAPES = [(depth, top_k) for depth in range(1, 5) for top_k in range(1, 4)]


@dataclass(frozen=True)
class Candidate:
    path: Path
    log_prob: float
    score: float


def enumerate_candidates(next_tokens: NextTokens, depth: int, top_k: int) -> list[Candidate]:
    """All candidates of EAGLE-2 in level order: the K best of a level are expanded into K children each."""
    levels = [[Candidate((token,), log_prob, log_prob) for log_prob, token in next_tokens(())[:top_k]]]
    while len(levels) < depth:
        expanded = sorted(levels[-1], key=lambda node: -node.score)[:top_k]
        levels.append(
            [
                Candidate((*node.path, token), log_prob, node.score + log_prob)
                for node in expanded
                for log_prob, token in next_tokens(node.path)[:top_k]
            ]
        )
    return [candidate for level in levels for candidate in level]


def best_of(candidates: list[Candidate], count: int) -> dict[Path, Candidate]:
    return {node.path: node for node in sorted(candidates, key=lambda node: -node.score)[:count]}


def paths_of(tree: DraftTree, row: int) -> list[Path]:
    """The token path of every node, by walking its parents one at a time."""
    tokens, parents = tree.tokens[row].tolist(), tree.parents[row].tolist()
    paths = []
    for index in range(1, len(tokens)):
        path: Path = ()
        while index != 0:
            path, index = (tokens[index], *path), parents[index]
        paths.append(path)
    return paths


class Prompts:
    """A batch of prompts with a root each, as the draft sees them: (x_{t+1}, f_t) pairs and their features."""

    def __init__(self, draft: DraftLM, lengths: tuple[int, ...], seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.draft = draft
        self.tokens = [torch.tensor(ids) for ids in ragged_prompts(lengths, seed=seed)]  # x_1 .. x_n, the root last
        self.features = [torch.randn(length, draft.hidden_size, generator=random) for length in lengths]
        self._prefilled: tuple[Tensor, Tensor, SlotCache] | None = None

    def next_tokens(self, row: int) -> NextTokens:
        """Exact conditional distributions of one row: the whole sequence is read again for every path."""
        memory: dict[Path, tuple[Tensor, list[tuple[float, int]]]] = {}

        def read(path: Path) -> tuple[Tensor, list[tuple[float, int]]]:
            if path not in memory:
                features = [self.features[row]]  # a node continues the draft's own state at its parent
                features += [read(path[:depth])[0][None] for depth in range(len(path))]
                tokens = torch.cat([self.tokens[row], torch.tensor(path, dtype=torch.int64)])
                hidden = self.draft(tokens[None], torch.cat(features)[None])[0, -1]
                log_probs = torch.log_softmax(self.draft.logits(hidden).double(), -1)
                ids = self.draft.to_base_ids(torch.arange(len(log_probs))).tolist()
                memory[path] = hidden, sorted(zip(log_probs.tolist(), ids, strict=True), reverse=True)
            return memory[path]

        return lambda path: read(path)[1]

    def propose(self, shape: TreeSpec) -> DraftTree:
        """Grow trees on one cache again and again: nothing of a tree may stay in it."""
        if self._prefilled is None:
            self._prefilled = self._prefill()
        root, hidden, cache = self._prefilled
        return propose(self.draft, root, hidden, cache, shape)

    def _prefill(self) -> tuple[Tensor, Tensor, SlotCache]:
        lengths = [len(tokens) for tokens in self.tokens]
        cache = SlotCache(len(lengths), max(lengths) + tree_slots(TreeSpec(depth=4, top_k=3)), "cpu")
        tokens = torch.nn.utils.rnn.pad_sequence(self.tokens, batch_first=True)
        features = torch.nn.utils.rnn.pad_sequence(self.features, batch_first=True)
        cache.stage(torch.arange(max(lengths)).expand_as(tokens), visible=0)
        hidden = self.draft(tokens, features, cache=cache)
        cache.advance(torch.tensor(lengths), lengths)
        last, rows = torch.tensor(lengths) - 1, torch.arange(len(lengths))
        return tokens[rows, last], hidden[rows, last], cache


@pytest.mark.parametrize("lengths", [(4,), (3, 9), (7, 1, 5)])
@pytest.mark.parametrize(("depth", "top_k"), SMALL_SHAPES)
@torch.no_grad()
def test_tree_is_the_brute_force_tree_for_every_number_of_nodes(
    depth: int, top_k: int, lengths: tuple[int, ...]
) -> None:
    prompts = Prompts(tiny_draft(tiny_base()), lengths)
    candidates = [enumerate_candidates(prompts.next_tokens(row), depth, top_k) for row in range(len(lengths))]
    for num_nodes in range(1, len(candidates[0]) + 1):
        tree = prompts.propose(TreeSpec(depth=depth, top_k=top_k, num_draft_tokens=num_nodes))
        for row in range(len(lengths)):
            assert tree.tokens[row, 0] == prompts.tokens[row][-1]
            paths, expected = paths_of(tree, row), best_of(candidates[row], num_nodes)
            assert len(paths) == num_nodes and set(paths) == set(expected)
            assert [len(path) for path in paths] == sorted(len(path) for path in paths)  # level order
            assert tree.depths[row, 1:].tolist() == [len(path) for path in paths]
            assert tree.log_probs[row, 1:].tolist() == pytest.approx([expected[p].log_prob for p in paths], abs=1e-3)
            assert tree.scores[row, 1:].tolist() == pytest.approx([expected[p].score for p in paths], abs=1e-3)


@pytest.mark.parametrize(("backbone", "layers", "vocab"), [("qwen3", 2, ()), ("llama", 3, (1, 4, 5, 17, 30, 44))])
@torch.no_grad()
def test_tree_of_deeper_drafts_and_reduced_vocabularies(backbone: str, layers: int, vocab: tuple[int, ...]) -> None:
    draft = tiny_draft(tiny_base(), backbone, layers=layers, vocab=vocab)
    prompts = Prompts(draft, (6, 2, 70))
    tree = prompts.propose(TreeSpec(depth=4, top_k=3, num_draft_tokens=20))
    for row in range(3):
        expected = best_of(enumerate_candidates(prompts.next_tokens(row), 4, 3), 20)
        assert set(paths_of(tree, row)) == set(expected)
    assert not vocab or set(tree.tokens[:, 1:].flatten().tolist()) <= set(vocab)


@torch.no_grad()
def test_more_children_than_the_draft_has_words_and_more_nodes_than_candidates() -> None:
    prompts = Prompts(tiny_draft(tiny_base(), vocab=(3, 9)), (5, 8))
    tree = prompts.propose(TreeSpec(depth=3, top_k=10, num_draft_tokens=60))
    assert tree.num_nodes == 2 + 2 * 4
    for row in range(2):
        assert set(paths_of(tree, row)) == set(best_of(enumerate_candidates(prompts.next_tokens(row), 3, 2), 60))


@torch.no_grad()
def test_chain_is_the_greedy_continuation_of_the_draft() -> None:
    prompts = Prompts(tiny_draft(tiny_base()), (6, 3))
    tree = prompts.propose(TreeSpec(depth=4, top_k=1, num_draft_tokens=4))
    assert tree.parents.tolist() == [[0, 0, 1, 2, 3]] * 2
    for row in range(2):
        next_tokens, path = prompts.next_tokens(row), ()
        for _ in range(4):
            path = (*path, next_tokens(path)[0][1])
        assert tree.tokens[row, 1:].tolist() == list(path)


class TiedDraft(DraftLM):
    """Log-probabilities that tie everywhere: each state is zero, and so are all logits but those of a sure word."""

    def __init__(self, draft: DraftLM, sure: bool) -> None:
        super().__init__(draft.backbone, draft.head)
        self.bind(draft.ends)
        self._sure = sure

    def logits(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(*hidden.shape[:-1], self.vocab_size)
        if self._sure:
            logits[..., 5] = 200.0  # log q = 0 in float32: a child scores exactly what its parent scores
        return logits


@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize(("depth", "top_k"), SMALL_SHAPES)
@torch.no_grad()
def test_exact_ties_keep_every_parent(sure: bool, depth: int, top_k: int) -> None:
    prompts = Prompts(TiedDraft(tiny_draft(tiny_base()), sure), (4, 2))
    shape = TreeSpec(depth=depth, top_k=top_k, num_draft_tokens=1)
    for num_nodes in range(1, shape.num_candidates + 1):
        tree = prompts.propose(shape.model_copy(update={"num_draft_tokens": num_nodes}))
        for row in range(2):
            paths = paths_of(tree, row)
            assert len(set(paths)) == num_nodes  # no node twice
            assert all(path[:-1] in {(), *paths} for path in paths)
            assert tree.scores[row, 1:].tolist() == pytest.approx(
                [sum(-200.0 * (t != 5) if sure else -torch.log(torch.tensor(48.0)).item() for t in p) for p in paths],
                rel=1e-5,
            )
            if sure and num_nodes >= depth:
                assert all((5,) * length in paths for length in range(1, depth + 1))


@st.composite
def forests(draw: st.DrawFn) -> tuple[Tensor, int]:
    """[B, M] parents, each before its children, index 0 the root; and the depth of the deepest."""
    rows, size = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    parents = [[0] + [draw(st.integers(0, index - 1)) for index in range(1, size)] for _ in range(rows)]
    return torch.tensor(parents), max(len(walk(row, index)) - 1 for row in parents for index in range(size))


def walk(parents: list[int], index: int) -> set[int]:
    """The index and all above it, one parent at a time."""
    line = {index}
    while index != 0:
        index = parents[index]
        line.add(index)
    return line


@given(forests(), st.integers(0, 3))
def test_ancestors_are_found_by_walking_the_parents(forest: tuple[Tensor, int], slack: int) -> None:
    parents, depth = forest
    above = ancestor_matrix(parents, depth + slack)
    for row, line in enumerate(parents.tolist()):
        for index in range(len(line)):
            assert set(above[row, index].nonzero()[:, 0].tolist()) == walk(line, index)


@given(
    st.lists(st.lists(st.sampled_from([0.0, -0.5, -1.0, -3.0]), min_size=6, max_size=6), min_size=1, max_size=3),
    st.integers(1, 6),
)
def test_the_best_are_chosen_in_order_and_ties_go_to_the_lower_index(rows: list[list[float]], count: int) -> None:
    chosen = select_best(torch.tensor(rows), count).tolist()
    for scores, picked in zip(rows, chosen, strict=True):
        assert picked == sorted(set(picked)) and len(picked) == count
        wanted = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]
        assert set(picked) == set(wanted)


@given(st.data())
def test_chosen_nodes_keep_their_parents_tokens_and_scores(data: st.DataObject) -> None:
    """Any candidate tree whose children never score above their parents; steps of 0 are frequent."""
    size, count = data.draw(st.integers(1, 15)), data.draw(st.integers(1, 18))
    depths: list[int] = []
    parents: list[int] = []
    scores: list[float] = []
    for index in range(size):  # level order: parents do not go back
        first = parents[-1] if parents else -1
        parent = data.draw(st.integers(first, index - 1)) if index else -1
        parents.append(parent)
        depths.append(depths[parent] + 1 if parent >= 0 else 1)
        scores.append((scores[parent] if parent >= 0 else 0.0) + data.draw(st.sampled_from([0.0, 0.0, -0.25, -1.0])))
    step = [score - (scores[parent] if parent >= 0 else 0.0) for score, parent in zip(scores, parents, strict=True)]
    tree = build_tree(
        torch.tensor([99]),
        torch.arange(size)[None],
        torch.tensor([parents]),
        torch.tensor([step]),
        torch.tensor([scores]),
        num_nodes=count,
        max_depth=max(depths),
    )
    tokens = tree.tokens[0].tolist()  # a candidate's token is its number
    assert tokens[0] == 99 and tree.num_nodes == min(count, size)
    for index in range(1, len(tokens)):
        parent = tree.parents[0, index].item()
        assert parent < index
        assert tokens[parent] == (99 if parents[tokens[index]] < 0 else parents[tokens[index]])
        assert tree.scores[0, index] == scores[tokens[index]]
        assert tree.depths[0, index] == depths[tokens[index]]


@given(rows=st.integers(1, 3), size=st.integers(1, 40), count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_counting_who_is_ahead_gives_the_order_of_a_stable_sort(rows: int, size: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-4, 1, (rows, size), generator=generator).float()  # with many equal ones
    count = min(count, size)
    by_sort = best_first(scores, count), select_best(scores, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_module, "is_fused", lambda tensor: True)
        by_count = best_first(scores, count), select_best(scores, count)
    for one, other in zip(by_sort, by_count, strict=True):
        assert torch.equal(one, other)
