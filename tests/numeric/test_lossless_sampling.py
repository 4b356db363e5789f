"""Sampling is lossless: speculative answers have the base's exact distribution. Checked by a statistic with a bound.

The bound: with n independent draws over m outcomes the expected total variation distance between the empirical and the
true distribution is at most sqrt(m / n) / 2, and it exceeds its expectation by t with probability at most
exp(-2 n t^2) (one draw moves it by at most 1 / n: McDiarmid). With t = sqrt(7 / n) a right sampler fails once in a
million seeds; the seeds here are fixed.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.decoding.sampling import pick, process_logits
from hetspec_core.engine.decoding.tree import DraftTree, ancestor_matrix, verify
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.spec import DecodingSpec, SamplingSpec, TreeSpec
from tests.fakes.tiny_models import perfect_pair, ragged_prompts, tiny_base, tiny_draft

Outcome = tuple[int, ...]


def bound(outcomes: int, draws: int) -> float:
    """What a right sampler's total variation distance stays below, but for one seed in a million."""
    return math.sqrt(outcomes / draws) / 2 + math.sqrt(7 / draws)


def distance(counts: Counter[Outcome], exact: dict[Outcome, float]) -> float:
    """Total variation distance; outcomes that cannot be count in full."""
    draws = counts.total()
    return sum(abs(counts[outcome] / draws - exact.get(outcome, 0.0)) for outcome in counts.keys() | exact.keys()) / 2


# --- whole decoding ------------------------------------------------------------------------------------------------

SMALL = 5  # tokens of the base's vocabulary


def exact_answers(base: BaseLM, prompt: list[int], sampling: SamplingSpec, length: int) -> dict[Outcome, float]:
    """Probability of every answer of `length` tokens, from logits over whole sequences, without any cache."""
    exact = {}
    for answer in itertools.product(range(base.vocab_size), repeat=length):
        hidden = base.forward(torch.tensor([prompt + list(answer)])).hidden[0]
        allowed = process_logits(base.logits(hidden[len(prompt) - 1 : -1]), sampling)
        probability = math.prod(allowed[index, token].item() for index, token in enumerate(answer))
        if probability > 0:
            exact[answer] = probability
    return exact


SAMPLINGS = [
    SamplingSpec(temperature=1.0),
    SamplingSpec(temperature=0.6),
    SamplingSpec(temperature=1.0, top_k=3),
    SamplingSpec(temperature=1.3, top_p=0.8),
    SamplingSpec(temperature=1.2, top_k=4, top_p=0.9),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda s: f"t{s.temperature}-k{s.top_k}-p{s.top_p}")
@pytest.mark.parametrize("tree", ["2/1/2", "2/3/12"])
def test_answers_have_the_distribution_of_the_base(sampling: SamplingSpec, tree: str) -> None:
    base = tiny_base(vocab=SMALL, head_factor=0.15)
    draft = tiny_draft(base)
    prompt, rows, rounds, length = [1, 3, 0], 1500, 2, 3
    exact = exact_answers(base, prompt, sampling, length)
    assert max(exact.values()) < 0.5  # nothing is all but certain
    settings = DecodingSpec(tree=TreeSpec.parse(tree), max_new_tokens=length, ignore_eos=True)
    counts: Counter[Outcome] = Counter()
    accepted = 0
    for seed in range(rounds):
        seeded = settings.model_copy(update={"sampling": sampling.model_copy(update={"seed": seed})})
        for answer in generate(base, draft, [prompt] * rows, seeded):
            counts[tuple(answer.tokens)] += 1
            accepted += sum(step.accepted for step in answer.steps)
    assert counts.keys() <= exact.keys()  # nothing that top-k or top-p rules out
    assert distance(counts, exact) < bound(len(exact), counts.total())
    assert accepted > 0.1 * counts.total()  # speculation did take part


@pytest.mark.parametrize("tree", ["1/1/1", "4/1/4", "3/3/12", "6/10/60"])
@pytest.mark.parametrize("sampling", SAMPLINGS[:1] + SAMPLINGS[-1:], ids=["t1", "all"])
def test_a_seed_gives_the_plain_sampled_answer(tree: str, sampling: SamplingSpec) -> None:
    prompts = ragged_prompts((6, 1, 17))
    for base, draft in [(tiny_base(), tiny_draft(tiny_base())), perfect_pair(head_factor=1.0)]:
        for seed in range(2):
            seeded = sampling.model_copy(update={"seed": seed})
            settings = DecodingSpec(tree=TreeSpec.parse(tree), sampling=seeded, max_new_tokens=10)
            plain = generate(base, None, prompts, settings)
            answers = generate(base, draft, prompts, settings)
            assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]


def test_seeds_rows_and_limits() -> None:
    """Another seed or row is another answer; a longer limit continues the same answer."""
    base = tiny_base(head_factor=0.3)
    draft = tiny_draft(base)

    def answers(seed: int, limit: int, rows: int = 2) -> list[list[int]]:
        sampling = SamplingSpec(temperature=1.0, seed=seed)
        settings = DecodingSpec(tree=TreeSpec.parse("3/2/6"), sampling=sampling, max_new_tokens=limit)
        return [answer.tokens for answer in generate(base, draft, [[1, 2, 3]] * rows, settings)]

    first, second = answers(0, 12)
    assert first != second
    assert answers(0, 12) == [first, second] != answers(1, 12)
    assert [answer[:12] for answer in answers(0, 30)] == [first, second]
    assert answers(0, 12, rows=1) == [first]


# --- verification by itself ----------------------------------------------------------------------------------------

CHILDREN = (2, 0, 5)  # tokens of the root's children; 2 has two children of its own
GRANDCHILDREN = (1, 4)
WORDS = 6


def small_tree(rows: int) -> DraftTree:
    tokens = torch.tensor([9, *CHILDREN, *GRANDCHILDREN]).expand(rows, -1)
    parents = torch.tensor([0, 0, 0, 0, 1, 1]).expand(rows, -1)
    nothing = torch.zeros(rows, 6)
    return DraftTree(tokens, parents, nothing, nothing, ancestor_matrix(parents, 2))


def distributions(seed: int) -> Tensor:
    """[6, WORDS] the base's distribution at each index of the tree."""
    return torch.softmax(1.5 * torch.randn(6, WORDS, generator=torch.Generator().manual_seed(seed)), -1)


def exact_commits(p: Tensor) -> dict[Outcome, float]:
    """What one step of `small_tree` commits when every token is drawn from the base: the definition of lossless."""
    exact: dict[Outcome, float] = {}
    for first in range(WORDS):
        if first not in CHILDREN:
            exact[first,] = p[0, first].item()
            continue
        node = 1 + CHILDREN.index(first)
        for second in range(WORDS):
            joint = p[0, first].item() * p[node, second].item()
            if node == 1 and second in GRANDCHILDREN:
                for third in range(WORDS):
                    exact[first, second, third] = joint * p[4 + GRANDCHILDREN.index(second), third].item()
            else:
                exact[first, second] = joint
    return exact


def accept_one_by_one(p: Tensor, random: torch.Generator) -> Outcome:
    """Scheme (a) as EAGLE states it: a child with p(c), else its mass is struck out and the rest renormalised."""
    node, committed = 0, []
    children = {
        0: [(1 + i, token) for i, token in enumerate(CHILDREN)],
        1: [(4 + i, t) for i, t in enumerate(GRANDCHILDREN)],
    }
    while True:
        rest = p[node].double().clone()
        for child, token in children.get(node, []):
            if torch.rand((), generator=random) < rest[token]:
                committed.append(token)
                node = child
                break
            rest[token] = 0.0
            rest /= rest.sum()
        else:
            return (*committed, int(torch.multinomial(rest, 1, generator=random)))


def accept_by_ratio(p: Tensor, q: Tensor, random: torch.Generator) -> Outcome:
    """The wrong mixture: the draft's top-K children, accepted by p/q as if they had been drawn from q."""
    rest, proposal = p[0].double().clone(), q.double().clone()
    for token in proposal.topk(3).indices.tolist():
        if torch.rand((), generator=random) < rest[token] / proposal[token]:
            return (token,)
        rest = (rest - proposal).clamp(min=0)
        rest /= rest.sum()
        proposal[token] = 0.0
        proposal /= proposal.sum()
    return (int(torch.multinomial(rest, 1, generator=random)),)


def test_exact_commits_is_a_distribution() -> None:
    assert sum(exact_commits(distributions(0)).values()) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_verify_on_sampled_choices_commits_with_the_bases_distribution(seed: int) -> None:
    p, draws = distributions(seed), 60_000
    uniform = torch.rand(draws, 6, generator=torch.Generator().manual_seed(100 + seed))
    verdict = verify(small_tree(draws), pick(p.expand(draws, -1, -1), uniform), 2)
    tokens, accepted = verdict.tokens.tolist(), verdict.num_accepted.tolist()
    counts = Counter(tuple(row[: count + 1]) for row, count in zip(tokens, accepted, strict=True))
    exact = exact_commits(p)
    assert distance(counts, exact) < bound(len(exact), draws)


@pytest.mark.parametrize("seed", range(2))
def test_accepting_children_one_by_one_has_the_same_distribution(seed: int) -> None:
    p, draws, random = distributions(seed), 6_000, torch.Generator().manual_seed(seed)
    counts = Counter(accept_one_by_one(p, random) for _ in range(draws))
    exact = exact_commits(p)
    assert distance(counts, exact) < bound(len(exact), draws)


def check_first_token(sample: Callable[[], Outcome], p: Tensor, draws: int) -> float:
    """Distance over bound for the first token: below 1 is a pass."""
    counts = Counter(sample()[:1] for _ in range(draws))
    return distance(counts, {(token,): p[0, token].item() for token in range(WORDS)}) / bound(WORDS, draws)


def test_the_wrong_mixture_of_schemes_is_caught() -> None:
    """Worst for a perfect draft, whose likeliest child the mixture always accepts."""
    p, random = distributions(0), torch.Generator().manual_seed(7)
    other = torch.softmax(torch.tensor([0.5, 1.0, 2.0, 0.0, -1.0, 1.5]), -1)
    assert check_first_token(lambda: accept_one_by_one(p, random), p, 3_000) < 1
    assert check_first_token(lambda: accept_by_ratio(p, p[0], random), p, 3_000) > 5
    assert check_first_token(lambda: accept_by_ratio(p, other, random), p, 3_000) > 1.5
