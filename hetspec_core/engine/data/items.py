"""Items of a capture: token sequences with their content ids, made from conversations before a model is loaded.

The content id identifies a sample by template, base, messages and settings. Equal content has equal ids, whatever the
order or the file; resuming and merging depend on that.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hetspec_core.engine.data.chat import ChatTemplate, Encoded
from hetspec_core.engine.data.conversation import Conversation, Message
from hetspec_core.engine.data.shards import count_supervised
from hetspec_core.engine.run_folder import Share
from hetspec_core.errors import DataError


@dataclass(frozen=True)
class CaptureItem:
    """One sequence to run through the base.

    Attributes:
        id: content id, 32 hex digits.
        input_ids: token ids.
        assistant_mask: which of them the assistant wrote.
    """

    id: str
    input_ids: list[int]
    assistant_mask: list[bool]


@dataclass
class ItemList:
    """Items without repetition, and why others were left out.

    Attributes:
        items: by content id, in the order of the source.
        dropped: reason -> how many conversations.
        cut: conversations that were shortened to the longest length.
        overrun: conversations with an answer that ran past the template's end of turn and was cut there.
        refused: conversations that the chat template refuses -> why, by name.
        answers: answers that the base wrote.
        cut_answers: setting -> how many of them it cut.
        unasked: questions that were not asked, because the turns before them leave no room.
    """

    items: dict[str, CaptureItem] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    overrun: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    answers: int = 0
    cut_answers: Counter[str] = field(default_factory=Counter)
    unasked: int = 0

    @property
    def complaints(self) -> list[str]:
        """Sentences on what was refused, cut or not asked."""
        found: list[str] = []
        if self.refused:
            name, reason = next(iter(self.refused.items()))
            found.append(
                f"{_count(len(self.refused), 'conversation')} cannot be written with the chat template; "
                f"the first, {name}: {reason}"
            )
        if self.overrun:
            found.append(
                f"{_count(self.overrun, 'conversation')} with an answer that runs past the template's end of turn: "
                "it is cut there"
            )
        if self.cut_answers:
            limits = ", ".join(f"{count} by {limit}" for limit, count in self.cut_answers.most_common())
            found.append(
                f"{sum(self.cut_answers.values())} of {_count(self.answers, 'answer')} are cut ({limits}); "
                "the draft does not learn an end of turn behind them"
            )
        if self.unasked:
            found.append(f"{_count(self.unasked, 'question')} not asked: no room is left within dataset.max_length")
        return found

    def refuse(self, name: str, reason: str) -> None:
        """Leave out a conversation that the chat template refuses."""
        self.refused[name] = reason
        self.dropped["refused by the chat template"] += 1

    def add(self, content_id_: str, encoded: Encoded, *, max_length: int) -> None:
        """Add an encoded conversation: cut to `max_length`, and after the last token of the assistant.

        Nothing after the assistant's last token is supervised, so it is neither computed nor stored.
        """
        if content_id_ in self.items:
            self.dropped["repeated word for word"] += 1
            return
        had_any = any(encoded.assistant_mask)
        mask = encoded.assistant_mask[:max_length]
        self.cut += len(encoded.assistant_mask) > max_length and had_any
        if count_supervised(mask) == 0:
            self.dropped[f"no answer within {max_length} tokens" if had_any else "no answer"] += 1
            return
        end = len(mask) - mask[::-1].index(True)
        self.items[content_id_] = CaptureItem(content_id_, encoded.input_ids[:end], mask[:end])

    def check(self, source: str, *, max_length: int) -> None:
        """Check that there is something to learn, before a model is loaded.

        Raises:
            DataError: no item has a supervised token; the message gives the reasons.
        """
        if self.items:
            return
        reasons = "; ".join(f"{reason}: {count}" for reason, count in self.dropped.most_common())
        cut_off = any("within" in reason for reason in self.dropped)
        raise DataError(
            f"{source} has no supervised token ({reasons or 'no conversation is left'})",
            hint=f"raise dataset.max_length (now {max_length})"
            if cut_off
            else "let the base write the answers: dataset.answers = 'base' (--answers base)",
        )


def content_id(
    messages: Sequence[Message], *, template_hash: str, base_fingerprint: str, settings: Mapping[str, Any]
) -> str:
    """Identity of a sample: 32 hex digits over everything that decides its tokens and states.

    Args:
        messages: the conversation; without the answers when the base writes them.
        template_hash: identity of the chat template.
        base_fingerprint: identity of the base.
        settings: everything else that decides the tokens (longest length, sampling of answers).
    """
    turns = [[m.role, m.content, *_exceptions(m)] for m in messages]
    content = [template_hash, base_fingerprint, turns, dict(settings)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


Identify = Callable[[Sequence[Message]], str]
"""`content_id` of one template, base and settings."""


def encode_all(
    conversations: Iterable[Conversation],
    template: ChatTemplate,
    identify: Identify,
    *,
    max_length: int,
    share: Share | None = None,
) -> ItemList:
    """Conversations with answers as items: all of them, or those of a share.

    A conversation that the template refuses is left out and counted. An answer with the template's end of turn in its
    text is cut there: its writer continued after the end.

    Raises:
        DataError: the template refuses every conversation; the first is named.
    """
    found = ItemList()
    first_refusal: DataError | None = None
    ended = [_end_answers(conversation, template.end_of_turn_text) for conversation in conversations]
    names = [identify(conversation.messages) for conversation, _ in ended]
    mine = (share or Share()).pick(names)
    for name, (conversation, is_overrun) in zip(names, ended, strict=True):
        if name not in mine:
            continue
        found.overrun += is_overrun
        if not conversation.has_answers:
            found.dropped["no answer"] += 1
            continue
        try:
            encoded = template.encode(conversation.messages)
        except DataError as error:
            first_refusal = first_refusal or error
            found.refuse(conversation.id, error.message)
            continue
        found.add(name, encoded, max_length=max_length)
    if first_refusal and not found.items and (share is None or share.is_whole):
        name, reason = next(iter(found.refused.items()))
        raise DataError(f"conversation {name}: {reason}", hint=first_refusal.hint) from first_refusal
    return found


def _end_answers(conversation: Conversation, end_of_turn: str) -> tuple[Conversation, bool]:
    """The conversation with its answers cut at the end of turn, and whether one continued after it."""
    if not end_of_turn or not any(m.role == "assistant" and end_of_turn in m.content for m in conversation.messages):
        return conversation, False
    messages: list[Message] = []
    is_overrun = False
    for message in conversation.messages:
        if message.role == "assistant":
            text, _, rest = message.content.partition(end_of_turn)
            is_overrun = is_overrun or bool(rest.strip())
            messages.append(replace(message, content=text))
        else:
            messages.append(message)
    return replace(conversation, messages=tuple(messages)), is_overrun


def _exceptions(message: Message) -> list[Any]:
    """Facts of a turn in addition to its text; empty for an ordinary one, so that ids match those of older stores."""
    return [] if message.weight and message.finish_reason == "stop" else [message.weight, message.finish_reason]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
