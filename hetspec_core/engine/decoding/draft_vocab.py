"""Which tokens a draft proposes: `decoding.draft_vocab` (FR-Spec, arXiv 2502.14856).

A draft multiplies its state with a row of the output head for every token that it could propose, at every level of a
tree. With a vocabulary of 49,152 to 152,064 tokens that is most of what a small draft reads. With the commonest tokens
only a level is cheaper, and rare tokens are never proposed. The base verifies with its whole vocabulary, so answers
stay the same.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import DecodingSpec, TreeSpec

_SIZES = tuple(1 << power for power in range(11, 18))  # 2,048 to 131,072
_ACCEPTANCE = 0.8  # of a level, before tokens are left out: the higher it is, the more is lost with them
_LEAST_GAIN = 1.05
_PAYING: WeakKeyDictionary[DraftLM, dict[TreeSpec, int | None]] = WeakKeyDictionary()


def proposing_draft(base: BaseLM, draft: DraftLM, decoding: DecodingSpec) -> DraftLM:
    """The draft with the vocabulary that `decoding.draft_vocab` asks for; the draft itself for its own.

    Raises:
        SpecError: the base does not have so many tokens, or more than these are special.
        ModelError: a number is asked for, and it is not known which tokens are common.
    """
    wanted = decoding.draft_vocab
    size = paying_size(base, draft, decoding.tree) if wanted == "auto" else None if wanted == "whole" else wanted
    return draft if size is None else draft.reduced(size, special_tokens(base))


def special_tokens(base: BaseLM) -> set[int]:
    """Token ids without which no answer ends."""
    return {*base.stop_ids, *(base.tokenizer.all_special_ids if base.tokenizer is not None else ())}


def paying_size(base: BaseLM, draft: DraftLM, tree: TreeSpec) -> int | None:
    """The vocabulary that the cost model expects to be fastest; None = the draft's own.

    The cost of a cycle is the weights that it reads: the base's once, the draft's layers and head once a level. A level
    is accepted with a probability of 0.8, times the share of text that the vocabulary covers. A smaller vocabulary is
    taken where tokens for the cost rise by 5 % or more. Without token counts nothing is known, and the draft keeps its
    own.
    """
    known = _PAYING.setdefault(draft, {})
    if tree not in known:
        known[tree] = _paying_size(base, draft, tree)
    return known[tree]


def _paying_size(base: BaseLM, draft: DraftLM, tree: TreeSpec) -> int | None:
    counts = draft.token_counts
    if counts is None or counts.vocab_size != base.vocab_size:
        return None
    width = draft.output_head.weight.shape[1]
    own_head = draft.head.own_output_head
    layers = draft.num_active_parameters - (0 if own_head is None else own_head.weight.numel())
    verify = sum(parameter.numel() for parameter in base.model.parameters())

    def speed(size: int, covered: float) -> float:
        rate = _ACCEPTANCE * covered
        tokens = sum(rate**level for level in range(tree.depth + 1))
        return tokens / (verify + tree.depth * (layers * draft.head.passes + size * width))

    special = special_tokens(base)
    covered = 1.0 if draft.vocab is None else counts.coverage(draft.vocab.ids)
    best, found = _LEAST_GAIN * speed(draft.vocab_size, covered), None
    for size in _SIZES:
        if max(len(special), tree.top_k) <= size < draft.vocab_size:
            expected = speed(size, counts.coverage(draft.reduced_vocab(size, special).ids))
            if expected > best:
                best, found = expected, size
    return found
