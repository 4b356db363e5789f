"""Which tokens of a conversation are supervised: from marked characters of the text to ranges of tokens.

The characters come from the template's generation marks; what each message says of itself (`weight`, `finish_reason`)
takes some of them away. The tokens come from the offsets of the whole sequence: every marked span becomes one range of
tokens between two boundaries, so that no single token can fall out of it. It knows text and offsets, no template.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from hetspec_core.engine.data.conversation import Message

Span = tuple[int, int]


def supervised_spans(
    text: str, spans: Sequence[Span], messages: Sequence[Message], answer_end: Callable[[], str]
) -> list[Span]:
    """The characters that are learnt, in order.

    Args:
        text: the rendered conversation.
        spans: (start, end) of every generation block of it.
        messages: the conversation. An answer of weight 0 is left out; of an answer whose writer did not end the turn
            (`finish_reason` other than "stop") the text is kept and `answer_end` behind it is left out.
        answer_end: gives what the template writes inside a block behind the answer's text; called where it is needed.

    Raises:
        ValueError: a message asks for an exception and the blocks cannot be assigned to the answers.
    """
    answers = [message for message in messages if message.role == "assistant"]
    if all(message.weight and message.finish_reason == "stop" for message in answers):
        return list(spans)
    if len(spans) != len(answers):
        raise ValueError(f"it marks {len(spans)} spans for {len(answers)} answers, so that none can be left out")
    found: list[Span] = []
    for (start, end), message in zip(spans, answers, strict=True):
        if not message.weight:
            continue
        if message.finish_reason != "stop":
            if not text.endswith(answer_end(), start, end):
                raise ValueError("the end of a turn is not found behind an answer that was cut")
            end -= len(answer_end())
        found.append((start, end))
    return found


def token_mask(begins: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """[T], True from the first token that begins at or behind a span's start to the last that begins before its end.

    A token that begins before the span belongs to the text before it: at inference the base writes the answer after the
    prompt's tokens.

    Args:
        begins: [T] where each token begins, not decreasing.
        spans: (start, end) characters.
    """
    mask = [False] * len(begins)
    for start, end in spans:
        first, last = bisect_left(begins, start), bisect_left(begins, end)
        mask[first:last] = [True] * (last - first)
    return mask


def token_begins(
    text: str, ids: Sequence[int], offsets: Sequence[Span], untrimmed_tokenizer: Callable[[], Any]
) -> list[int]:
    """[T] the character at which each token begins, not decreasing.

    Post-processors with `trim_offsets` take the spaces out of the offsets: a token of spaces only covers nothing, and
    " word" begins at its letter. Where the offsets leave characters uncovered, those without the post-processor are
    taken. A token that covers nothing even then begins where the token before it ends.

    Args:
        text: what was tokenized.
        ids: [T] its tokens.
        offsets: [T] (start, end) of each as the tokenizer gives them.
        untrimmed_tokenizer: gives `without_post_processor` of the tokenizer; called where it is needed.
    """
    if _has_gaps(offsets, len(text)):
        untrimmed = untrimmed_tokenizer().encode(text, add_special_tokens=False)
        if untrimmed.ids == list(ids):
            offsets = untrimmed.offsets
    begins: list[int] = []
    begin = covered = 0
    for start, end in offsets:
        begin = max(begin, start if start < end else covered)
        covered = max(covered, end)
        begins.append(begin)
    return begins


def _has_gaps(offsets: Sequence[Span], length: int) -> bool:
    covered = 0
    for start, end in offsets:
        if start > covered or start >= end:
            return True
        covered = max(covered, end)
    return covered < length


def without_post_processor(tokenizer: Any) -> Any:
    """A copy of the tokenizer's Rust part whose offsets cover every character; padding and truncation are off."""
    made = copy.deepcopy(tokenizer.backend_tokenizer)
    made.post_processor = None
    made.no_padding()
    made.no_truncation()
    return made
