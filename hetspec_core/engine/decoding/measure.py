"""Measuring decoding: the same prompts through several ways of decoding, interleaved, and what comes of it.

It knows completions and clocks; where prompts come from, and who reads the result, it does not know.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from hetspec_core.acceptance import AcceptStats, bootstrap_interval, macro_accept_length
from hetspec_core.engine.decoding.completion import Completion, Listener, PhaseClock
from hetspec_core.engine.decoding.decoder import Decoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events.results import (
    AnswerDifference,
    CategoryResult,
    DepthResult,
    Lossless,
    PassCosts,
    PhaseSeconds,
    PlainResult,
    TreeResult,
)
from hetspec_core.spec import DecodingSpec, DraftVocabChoice, TreeSpec

PLAIN = "plain"


@dataclass(frozen=True)
class Question:
    """One prompt to be measured.

    Attributes:
        conversation: index of its conversation; turns of one conversation are resampled together.
        turn: from 0.
        category: kind of task, or "".
        ids: token ids of the whole prompt.
    """

    conversation: int
    turn: int
    category: str
    ids: list[int]


@dataclass
class Track:
    """All answers of one way of decoding, in the order of the questions; the median repeat of each.

    Attributes:
        label: the tree, or `plain`; with the draft vocabulary where several are measured.
        decoding: how it decodes.
        completions: one per question.
        batches: sizes of the batches that they were decoded in, in order; empty = one by one.
    """

    label: str
    decoding: DecodingSpec
    completions: list[Completion] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    @property
    def completion_tokens(self) -> int:
        return sum(len(completion.tokens) for completion in self.completions)

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens after the first / seconds after the first token, summed over the batches before dividing."""
        seconds = sum(max(row.decode_s for row in rows) for rows in self._batches())
        tokens = sum(len(completion.tokens) - 1 for completion in self.completions)
        return tokens / seconds if seconds > 0 and tokens else None

    @property
    def end_to_end_tokens_per_s(self) -> float | None:
        """All tokens / seconds with prefill, summed before dividing."""
        seconds = sum(max(row.total_s for row in rows) for rows in self._batches())
        return self.completion_tokens / seconds if seconds > 0 else None

    @property
    def first_token_s(self) -> float | None:
        """Median seconds to the first token (prefill)."""
        return statistics.median(c.first_token_s for c in self.completions) if self.completions else None

    def _batches(self) -> Iterator[list[Completion]]:
        """The answers that shared their time; a batch is over when its last row is."""
        rows = iter(self.completions)
        for size in self.batches or [1] * len(self.completions):
            yield list(islice(rows, size))


def speculative_tracks(
    decoding: DecodingSpec, trees: Sequence[TreeSpec], draft_vocabs: Sequence[DraftVocabChoice]
) -> list[Track]:
    """A track for every tree with every draft vocabulary; labels name the vocabulary where there are several.

    Args:
        decoding: everything else; its own vocabulary counts when `draft_vocabs` is empty.
        trees: shapes.
        draft_vocabs: as `DecodingSpec.draft_vocab`.
    """
    tracks = []
    for tree in trees:
        for choice in draft_vocabs or (decoding.draft_vocab,):
            label = f"{tree.label} vocab {choice}" if len(draft_vocabs) > 1 else tree.label
            update = {"tree": tree, "draft_vocab": choice, "plain": False}
            tracks.append(Track(label, decoding.model_copy(update=update)))
    return tracks


def measure_questions(
    decoder: Decoder, draft: DraftLM | None, questions: Sequence[Question], tracks: Sequence[Track], repeats: int
) -> None:
    """Answer questions as one batch by every track, in turns, `repeats` times; each track keeps its median repeat.

    The order rotates from repeat to repeat, so that no track always runs on a warmer machine.
    """
    runs: dict[str, list[list[Completion]]] = {track.label: [] for track in tracks}
    for repeat in range(repeats):
        start = (questions[0].conversation + questions[0].turn + repeat) % len(tracks)
        for track in (*tracks[start:], *tracks[:start]):
            prompts = [question.ids for question in questions]
            runs[track.label].append(decoder.generate(prompts, track.decoding, draft))
    for track in tracks:
        ordered = sorted(runs[track.label], key=lambda rows: max(row.total_s for row in rows))
        track.completions += ordered[(len(ordered) - 1) // 2]
        track.batches.append(len(questions))


def profile(
    decoder: Decoder, draft: DraftLM, questions: Sequence[Question], decoding: DecodingSpec
) -> tuple[PhaseSeconds, PassCosts]:
    """Where the time goes at batch 1, from a pass of its own.

    Returns:
        Seconds per verify step of propose, verify, commit and other; and seconds of the whole pass by phase, prefill
        included, with its steps, prompt tokens and completion tokens. Both have no value without a step.
    """
    listener = Listener()
    clock = listener.clock = PhaseClock(decoder.base.device)
    steps, tokens, decode_s = 0, 0, 0.0
    for question in questions:
        completion = decoder.generate([question.ids], decoding, draft, listener=listener)[0]
        listener.lap()()  # what the last cycle left
        steps += len(completion.steps)
        tokens += len(completion.tokens)
        decode_s += completion.decode_s
    prefill = clock.seconds.pop("prefill", 0.0)
    if not steps:
        return PhaseSeconds(), PassCosts()
    seconds = clock.seconds | {"other": max(0.0, decode_s - sum(clock.seconds.values()))}
    costs = PassCosts(
        prefill_s=prefill,
        verify_steps=steps,
        prompt_tokens=sum(len(question.ids) for question in questions),
        completion_tokens=tokens,
        **{f"{phase}_s": spent for phase, spent in seconds.items()},
    )
    return PhaseSeconds(**{f"{phase}_s": spent / steps for phase, spent in seconds.items()}), costs


Gap = Callable[[list[int]], float | None]
"""How far apart the logits of the base's two likeliest tokens after a context are; None where nobody can tell."""


def base_gap(base: BaseLM) -> Gap:
    """The gap by a forward of the base."""

    def gap(context: list[int]) -> float:
        with torch.inference_mode():
            ids = torch.tensor([context], device=base.device)
            logits = base.logits(base.forward(ids).hidden[0, -1]).float()
        best = logits.topk(2).values
        return float(best[0] - best[1])

    return gap


def first_difference(
    gap: Gap, index: int, question: Question, plain: Completion, other: Completion
) -> AnswerDifference | None:
    """Where two answers part, and how close the base's two likeliest tokens are there; None when they are equal.

    Without a mistake they part only where the base is undecided within the rounding of its number type.

    Args:
        gap: of the two likeliest tokens after a context.
        index: of the question, for the record.
        question: the prompt.
        plain, other: the two answers.
    """
    length = min(len(plain.tokens), len(other.tokens))
    at = next((i for i in range(length) if plain.tokens[i] != other.tokens[i]), None)
    if at is None:
        if len(plain.tokens) == len(other.tokens):
            return None
        return AnswerDifference(question=index, token=length, plain=None, speculative=None, top2_gap=None)
    return AnswerDifference(
        question=index,
        token=at,
        plain=plain.tokens[at],
        speculative=other.tokens[at],
        top2_gap=gap(question.ids + plain.tokens[:at]),
    )


def compared(
    gap: Gap, questions: Sequence[Question], plain: Sequence[Completion], others: Sequence[Completion]
) -> Lossless:
    """Answers held to those of plain decoding, one by one, with the first difference of each that differs."""
    pairs = enumerate(zip(questions, others, plain, strict=True))
    found = [first_difference(gap, index, question, theirs, ours) for index, (question, ours, theirs) in pairs]
    differences = [one for one in found if one is not None]
    return Lossless(prompts=len(questions), identical=len(questions) - len(differences), differences=differences)


def speculative_report(
    gap: Gap, questions: Sequence[Question], plain: Track, track: Track, *, bootstrap: int
) -> TreeResult:
    """Everything that is said of one tree against plain decoding."""
    stats = AcceptStats.of(track.completions)
    groups = _by_conversation(questions, track.completions)
    tree = track.decoding.tree
    return TreeResult(
        tree=track.label,
        depth=tree.depth,
        top_k=tree.top_k,
        num_draft_tokens=tree.num_draft_tokens,
        **(_chosen(track.completions) if tree.auto else {}),
        accept_length=stats.accept_length,
        accept_length_interval=bootstrap_interval(groups, bootstrap),
        accept_length_macro=macro_accept_length(groups),
        verify_steps=stats.num_steps,
        histogram=dict(stats.histogram),
        by_depth=[
            DepthResult(
                depth=row.depth,
                offered=row.offered,
                accepted=row.accepted,
                acceptance_rate=row.acceptance_rate,
                joint_rate=row.joint_rate,
            )
            for row in stats.by_depth
        ],
        **_speeds(track),
        speedup=_ratio(track.decode_tokens_per_s, plain.decode_tokens_per_s),
        speedup_end_to_end=_ratio(track.end_to_end_tokens_per_s, plain.end_to_end_tokens_per_s),
        lossless=compared(gap, questions, plain.completions, track.completions),
        categories=_by_category(questions, plain, track),
    )


def _chosen(completions: Sequence[Completion]) -> dict[str, Any]:
    """What `auto` took for answers and what it expected of it; plain decoding is 1."""
    expected = [
        1.0 if each.tree == PLAIN else each.predicted_speedup
        for each in completions
        if each.tree == PLAIN or each.predicted_speedup is not None
    ]
    mean = statistics.fmean(expected) if expected else None  # type: ignore[type-var]
    return {"shapes": dict(Counter(each.tree for each in completions)), "predicted_speedup": mean}


def plain_report(track: Track) -> PlainResult:
    """What is said of plain decoding."""
    return PlainResult(**_speeds(track))


def _speeds(track: Track) -> dict[str, Any]:
    return {
        "completion_tokens": track.completion_tokens,
        "decode_tokens_per_s": track.decode_tokens_per_s,
        "end_to_end_tokens_per_s": track.end_to_end_tokens_per_s,
        "first_token_s": track.first_token_s,
        "stop_reasons": {
            reason: sum(completion.stop_reason == reason for completion in track.completions)
            for reason in ("stop", "length", "context")
        },
    }


def _ratio(value: float | None, reference: float | None) -> float | None:
    return value / reference if value and reference else None


def _by_conversation(questions: Sequence[Question], completions: Sequence[Completion]) -> list[list[Any]]:
    groups: dict[int, list[Any]] = {}
    for question, completion in zip(questions, completions, strict=True):
        groups.setdefault(question.conversation, []).extend(completion.steps)
    return list(groups.values())


def _by_category(questions: Sequence[Question], plain: Track, track: Track) -> dict[str, CategoryResult]:
    report: dict[str, CategoryResult] = {}
    together = any(size > 1 for size in track.batches)
    for category in sorted({question.category for question in questions} - {""}):
        chosen = [index for index, question in enumerate(questions) if question.category == category]
        ours = Track(track.label, track.decoding, [track.completions[index] for index in chosen])
        theirs = Track(plain.label, plain.decoding, [plain.completions[index] for index in chosen])
        report[category] = CategoryResult(
            prompts=len(chosen),
            accept_length=AcceptStats.of(ours.completions).accept_length,
            # Rows of a batch share its time, so it cannot be said what a category took.
            decode_tokens_per_s=None if together else ours.decode_tokens_per_s,
            speedup=None if together else _ratio(ours.decode_tokens_per_s, theirs.decode_tokens_per_s),
        )
    return report
