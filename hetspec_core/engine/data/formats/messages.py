"""OpenAI rows: {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hetspec_core.engine.data.conversation import Conversation, RowError, from_turns, label, row_name
from hetspec_core.engine.data.row_fields import read_turns, system_conflict, unused_fields

_KEYS = ("messages", "conversations", "conversation")


class Messages:
    """Rows with `messages`: a list of {role, content}."""

    def matches(self, row: Any) -> bool:
        """Whether the row has `messages` (or `conversations`) whose turns say `role`; one without turns has no form."""
        turns = _turns(row)
        return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and "role" in turns[0]

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: a turn lacks `role` or `content`, or they do not make a conversation.
        """
        listed = _turns(row)
        turns = read_turns(listed, "messages", "role", "content")
        if not isinstance(row, Mapping):
            raise RowError("it has no list `messages`")
        conversation = from_turns(row_name(row), turns, category=label(row.get("category")), row=row)
        unused = unused_fields(row, _KEYS, listed, ("role", "content")) | system_conflict(row, turns)
        return replace(conversation, unused=unused)


def _turns(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return None
    return next((row[key] for key in _KEYS if key in row), None)
