"""OpenAI rows: {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetspec_core.engine.data.conversation import Conversation, RowError, from_turns, row_name

_KEYS = ("messages", "conversations", "conversation")


class Messages:
    """Rows with `messages`: a list of {role, content}."""

    def matches(self, row: Any) -> bool:
        """Whether the row has `messages` (or `conversations`) whose turns say `role`."""
        turns = _turns(row)
        return isinstance(turns, list) and (not turns or (isinstance(turns[0], Mapping) and "role" in turns[0]))

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: a turn lacks `role` or `content`, or they do not make a conversation.
        """
        turns = _turns(row)
        if not isinstance(turns, list):
            raise RowError("it has no list `messages`")
        for number, turn in enumerate(turns, start=1):
            if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
                raise RowError(f"turn {number} needs `role` and `content`")
        return from_turns(
            row_name(row), ((turn["role"], turn["content"]) for turn in turns), category=str(row.get("category") or "")
        )


def _turns(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return None
    return next((row[key] for key in _KEYS if key in row), None)
