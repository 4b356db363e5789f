"""What is to be captured: token sequences with their content ids, made from conversations before any model is loaded.

The content id says what a sample is: template, base, messages and settings. Equal content has equal ids, whatever the
order or the file it came from, which is what resuming and merging stand on. It knows tokens; it knows no states.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """

    items: dict[str, CaptureItem] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0

    def add(self, content_id_: str, encoded: Encoded, *, max_length: int) -> None:
        """Add an encoded conversation: cut to `max_length`, and after the last token of the assistant.

        What comes after the assistant's last token can teach nothing, so it is neither computed nor stored.
        """
        if content_id_ in self.items:
            self.dropped["said before, word for word"] += 1
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
        """Make sure that there is something to learn, before any time is spent on a model.

        Raises:
            DataError: no item has a supervised token; says why.
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
        settings: what else decides the tokens (longest length, sampling of answers).
    """
    content = [template_hash, base_fingerprint, [[m.role, m.content] for m in messages], dict(settings)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


def encode_all(
    conversations: Iterable[Conversation],
    template: ChatTemplate,
    *,
    base_fingerprint: str,
    settings: Mapping[str, Any],
    max_length: int,
    share: Share | None = None,
) -> ItemList:
    """Conversations with answers as items: all of them, or those of a share.

    Raises:
        DataError: the template refuses a conversation; it is named.
    """
    found = ItemList()
    template_hash = template.hash
    conversations = list(conversations)
    names = [
        content_id(
            conversation.messages, template_hash=template_hash, base_fingerprint=base_fingerprint, settings=settings
        )
        for conversation in conversations
    ]
    mine = (share or Share()).pick(names)
    for name, conversation in zip(names, conversations, strict=True):
        if name not in mine:
            continue
        if not conversation.has_answers:
            found.dropped["no answer"] += 1
            continue
        try:
            encoded = template.encode(conversation.messages)
        except DataError as error:
            raise DataError(f"conversation {conversation.id}: {error.message}", hint=error.hint) from error
        found.add(name, encoded, max_length=max_length)
    return found
