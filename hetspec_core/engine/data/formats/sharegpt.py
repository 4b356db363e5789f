"""ShareGPT rows: {"id": ..., "conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hetspec_core.engine.data.conversation import Conversation, RowError, from_turns, label, row_name
from hetspec_core.engine.data.row_fields import read_turns, system_conflict, unused_fields

_KEYS = ("conversations", "conversation")


class ShareGPT:
    """Rows with `conversations`: a list of {from, value}."""

    def matches(self, row: Any) -> bool:
        """Whether the row has `conversations` whose turns say `from`; a row without turns has no form."""
        turns = _turns(row)
        return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and "from" in turns[0]

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: a turn lacks `from` or `value`, or they do not make a conversation.
        """
        listed = _turns(row)
        turns = read_turns(listed, "conversations", "from", "value")
        if not isinstance(row, Mapping):
            raise RowError("it has no list `conversations`")
        conversation = from_turns(row_name(row), turns, category=label(row.get("category")), row=row)
        unused = unused_fields(row, _KEYS, listed, ("from", "value")) | system_conflict(row, turns)
        return replace(conversation, unused=unused)


def _turns(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return None
    return next((row[key] for key in _KEYS if key in row), None)
