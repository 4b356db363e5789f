"""The interface of a decoder: answers batches of prompts with one base and whatever draft a call names.

All that decodes goes through it: generate, chat, bench, tune, and answers for datasets. The readable path is
`ReferenceDecoder`; a faster one is held against it token by token.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch

from hetspec_core.engine.decoding.answers import BatchAnswers, TreesOnHost, packed_trees
from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener, synchronize
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.kv_cache import SlotTables
from hetspec_core.engine.decoding.plain import write_answers
from hetspec_core.engine.decoding.rows import PlainRows, SpeculativeRows
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import DecodingSpec, SamplingSpec

Key = TypeVar("Key", bound=Hashable)


class Decoder(ABC):
    """Decodes with one base. What it prepares for a base or a draft (tables, graphs) lives as long as it does.

    Args:
        base: the model that decides.
        why: why it is this decoder and no faster one; empty where nothing is faster.

    Attributes:
        name: what `resources.decoder` calls it.
        notices: sentences for the user on what did not go as planned.
        on_notice: told of each when it is made.
        on_compile: told the name of a program when it is compiled, and every second how many seconds that has taken;
            from another thread, while the decoder does nothing else.
        keep_prefixes: whether a prompt that begins as the one before it, or as that one's answer went on, is read from
            where it differs. For conversations; a measurement reads every prompt whole.
    """

    name: str
    keep_prefixes: bool = False

    def __init__(self, base: BaseLM, why: str = "") -> None:
        self.base = base
        self.why = why
        self.notices: list[str] = []
        self.on_notice: Callable[[str], None] = lambda notice: None
        self.on_compile: Callable[[str, float], None] = lambda program, seconds: None

    @property
    def used(self) -> str:
        """The name of the decoder that answered: another one may have had to."""
        return self.name

    def notice(self, text: str) -> None:
        """Say that something did not go as planned."""
        self.notices.append(text)
        self.on_notice(text)

    def forget(self, draft: DraftLM) -> None:
        """Free what was prepared for a draft."""
        del draft  # nothing is, unless a decoder says otherwise

    @abstractmethod
    def generate(
        self,
        prompts: list[list[int]],
        decoding: DecodingSpec,
        draft: DraftLM | None = None,
        *,
        listener: Listener = SILENT,
        most_per_step: int | None = None,
    ) -> list[Completion]:
        """Answer a batch of prompts; rows advance together.

        With greedy decoding in float32 the answers equal plain decoding's token by token. When sampling, they have the
        base's distribution, and the same seed gives the same answer with every draft and tree, up to rounding.

        Args:
            prompts: token ids of each prompt.
            decoding: tree shape, sampling and limits.
            draft: proposes; None (or `decoding.plain`) = plain decoding.
            listener: told of tokens and steps as they come, in order.
            most_per_step: most tokens that a verify step commits; 1 shows the tree at every position of the answer. The
                answer is the same; the accept length is not.

        Raises:
            DataError: a prompt is empty, longer than the context, or has a token that the base does not have.
        """

    @abstractmethod
    def write_answers(
        self,
        prompts: Iterable[tuple[Key, list[int]]],
        sampling: SamplingSpec,
        max_new_tokens: int,
        batch_size: int,
        seed_of: Callable[[Key], int] = lambda key: 0,
        *,
        stop_ids: frozenset[int] | None = None,
        max_length: int | None = None,
    ) -> Iterator[tuple[Key, list[int]]]:
        """Answer many prompts plainly, `batch_size` at a time; a row that ends is refilled with the next prompt.

        Args:
            prompts: (key, token ids); read as rows become free.
            sampling: how tokens are chosen.
            max_new_tokens: most tokens of an answer.
            batch_size: rows.
            seed_of: randomness of a prompt, so that its answer does not depend on its neighbours or on the order.
            stop_ids: tokens that end an answer; the base's when absent.
            max_length: most tokens of a prompt with its answer; the base's context when absent.

        Yields:
            (key, answer) as answers end, not in order; an answer ends with its stop token when it reached one.
        """


class ReferenceDecoder(Decoder):
    """The readable path: eager forwards, one transfer to the host per cycle. Any base, any device."""

    name = "reference"

    def __init__(self, base: BaseLM, why: str = "") -> None:
        super().__init__(base, why)
        self._tables: WeakKeyDictionary[object, SlotTables] = WeakKeyDictionary()  # by model, of one row

    def generate(
        self,
        prompts: list[list[int]],
        decoding: DecodingSpec,
        draft: DraftLM | None = None,
        *,
        listener: Listener = SILENT,
        most_per_step: int | None = None,
    ) -> list[Completion]:
        """As in `Decoder`."""
        return generate(
            self.base,
            draft,
            prompts,
            decoding,
            listener=listener,
            most_per_step=most_per_step,
            tables_of=self._tables_of if self.keep_prefixes and len(prompts) == 1 else None,
        )

    def _tables_of(self, model: BaseLM | DraftLM) -> SlotTables:
        return self._tables.setdefault(model, SlotTables())

    def forget(self, draft: DraftLM) -> None:
        """As in `Decoder`."""
        for model in list(self._tables):
            if isinstance(model, DraftLM) and model.backbone is draft.backbone:
                del self._tables[model]

    def write_answers(
        self,
        prompts: Iterable[tuple[Key, list[int]]],
        sampling: SamplingSpec,
        max_new_tokens: int,
        batch_size: int,
        seed_of: Callable[[Key], int] = lambda key: 0,
        *,
        stop_ids: frozenset[int] | None = None,
        max_length: int | None = None,
    ) -> Iterator[tuple[Key, list[int]]]:
        """As in `Decoder`."""
        return write_answers(
            self.base,
            lambda num_rows, length: PlainRows(self.base, num_rows, length, sampling),
            prompts,
            max_new_tokens,
            batch_size,
            seed_of,
            stop_ids=stop_ids,
            max_length=max_length,
        )


@torch.inference_mode()
def generate(
    base: BaseLM,
    draft: DraftLM | None,
    prompts: list[list[int]],
    decoding: DecodingSpec,
    *,
    listener: Listener = SILENT,
    most_per_step: int | None = None,
    tables_of: Callable[[BaseLM | DraftLM], SlotTables] | None = None,
) -> list[Completion]:
    """Answer a batch of prompts, as `Decoder.generate` says.

    Args:
        base: the model that decides.
        draft: proposes; None (or `decoding.plain`) = plain decoding.
        prompts: token ids of each prompt.
        decoding: tree shape, draft vocabulary, sampling and limits.
        listener: told of tokens and steps as they come; its clock times prefill, propose, verify and commit.
        most_per_step: a verify step commits no more tokens than this, whatever was accepted.
        tables_of: the tables of keys and values of a model, which keep what an answer leaves; None = new ones.

    Raises:
        DataError: a prompt is empty, longer than the context, or has a token that the base does not have.
        SpecError, ModelError: the draft cannot have the vocabulary of `decoding.draft_vocab`.
    """
    if not prompts:
        return []
    answers = BatchAnswers(base, prompts, decoding, listener)
    if draft is None or decoding.plain:
        return _plain(base, prompts, decoding, answers, None if tables_of is None else tables_of(base))
    draft = proposing_draft(base, draft, decoding)
    phase, started = listener.phase, time.perf_counter()
    rows = SpeculativeRows(
        base,
        draft,
        len(prompts),
        answers.length,
        decoding.tree,
        decoding.sampling,
        most_per_step=most_per_step,
        tables=(None, None) if tables_of is None else (tables_of(base), tables_of(draft)),
    )
    with phase("prefill"):
        rows.prefill(prompts, answers.take_held(prompts, rows.base_cache, rows.draft_cache))
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
    answers.hold(prompts, rows.base_cache, rows.draft_cache)
    return answers.completions


def _plain(
    base: BaseLM, prompts: list[list[int]], decoding: DecodingSpec, answers: BatchAnswers, tables: SlotTables | None
) -> list[Completion]:
    """Ordinary decoding, one token per step and row; rows that end are given up."""
    started = time.perf_counter()
    rows = PlainRows(base, len(prompts), answers.length, decoding.sampling, tables=tables)
    living = list(range(len(prompts)))  # prompt of each row
    tokens = rows.admit(living, prompts, living, answers.take_held(prompts, rows.cache))
    answers.take_first(tokens, time.perf_counter() - started)
    while True:
        for row in reversed(range(len(living))):
            if answers.rows[living[row]].done:
                living[row] = living[-1]
                living.pop()
                if living:
                    rows.drop(row)
        if not living or answers.stop():
            if len(prompts) == 1:  # rows that were given up have moved others
                answers.hold(prompts, rows.cache)
            return answers.completions
        for prompt, token in zip(living, rows.step(), strict=True):
            answers.take_token(prompt, token, time.perf_counter() - started)
