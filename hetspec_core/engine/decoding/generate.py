"""The readable decoding of a batch: prefill, then propose, verify, commit until every answer is complete.

A faster path is tested against this one. One transfer to the host per cycle says what was committed; everything else
stays on the device.
"""

from __future__ import annotations

import time

import torch

from hetspec_core.engine.decoding.answers import BatchAnswers, TreesOnHost, packed_trees
from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener, synchronize
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.rows import PlainRows, SpeculativeRows
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import DecodingSpec


@torch.inference_mode()
def generate(
    base: BaseLM,
    draft: DraftLM | None,
    prompts: list[list[int]],
    decoding: DecodingSpec,
    *,
    listener: Listener = SILENT,
    most_per_step: int | None = None,
) -> list[Completion]:
    """Answer a batch of prompts, as `Decoder.generate` says.

    Args:
        base: the model that decides.
        draft: proposes; None (or `decoding.plain`) = plain decoding.
        prompts: token ids of each prompt.
        decoding: tree shape, draft vocabulary, sampling and limits.
        listener: told of tokens and steps as they come; its clock times prefill, propose, verify and commit.
        most_per_step: a verify step commits no more tokens than this, whatever was accepted.

    Raises:
        DataError: a prompt is empty, longer than the context, or has a token that the base does not have.
        SpecError, ModelError: the draft cannot have the vocabulary of `decoding.draft_vocab`.
    """
    if not prompts:
        return []
    answers = BatchAnswers(base, prompts, decoding, listener)
    if draft is None or decoding.plain:
        return _plain(base, prompts, decoding, answers)
    draft = proposing_draft(base, draft, decoding)
    phase, started = listener.phase, time.perf_counter()
    rows = SpeculativeRows(
        base, draft, len(prompts), answers.length, decoding.tree, decoding.sampling, most_per_step=most_per_step
    )
    with phase("prefill"):
        rows.prefill(prompts)
    answers.take_first(rows.root.tolist(), time.perf_counter() - started)
    listener.lap()()
    while not answers.done and not answers.stop():
        rows.active.copy_(torch.tensor(answers.active))
        with phase("propose"):
            tree = rows.propose()
        with phase("verify"):
            verdict, features, logits = rows.verify(tree)
        with phase("commit"):
            rows.commit(tree, verdict, features)
            rows.keep(verdict)
            packed = rows.packed.tolist()  # the one transfer of the cycle
        synchronize(base.device)
        elapsed_s = time.perf_counter() - started
        rows.count([row[0] for row in packed])
        trees = None
        if listener.trees:
            trees = TreesOnHost(packed_trees(tree, verdict, logits).tolist(), decoding.tree.depth)
        answers.take_cycle(packed, elapsed_s, listener.lap()(), trees)
    return answers.completions


def _plain(base: BaseLM, prompts: list[list[int]], decoding: DecodingSpec, answers: BatchAnswers) -> list[Completion]:
    """Ordinary decoding, one token per step and row; rows that end are given up."""
    started = time.perf_counter()
    rows = PlainRows(base, len(prompts), answers.length, decoding.sampling)
    living = list(range(len(prompts)))  # prompt of each row
    tokens = rows.admit(living, prompts, living)
    answers.take_first(tokens, time.perf_counter() - started)
    while True:
        for row in reversed(range(len(living))):
            if answers.rows[living[row]].done:
                living[row] = living[-1]
                living.pop()
                if living:
                    rows.drop(row)
        if not living or answers.stop():
            return answers.completions
        for prompt, token in zip(living, rows.step(), strict=True):
            answers.take_token(prompt, token, time.perf_counter() - started)
