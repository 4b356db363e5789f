"""ShareGPT rows: {"id": ..., "conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetspec_core.engine.data.conversation import Conversation, RowError, from_turns, row_name

_KEYS = ("conversations", "conversation")


class ShareGPT:
    """Rows with `conversations`: a list of {from, value}."""

    def matches(self, row: Any) -> bool:
        """Whether the row has `conversations` whose turns say `from`."""
        turns = _turns(row)
        return isinstance(turns, list) and (not turns or (isinstance(turns[0], Mapping) and "from" in turns[0]))

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: a turn lacks `from` or `value`, or they do not make a conversation.
        """
        turns = _turns(row)
        if not isinstance(turns, list):
            raise RowError("it has no list `conversations`")
        for number, turn in enumerate(turns, start=1):
            if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
                raise RowError(f"turn {number} needs `from` and `value`")
        return from_turns(
            row_name(row), ((turn["from"], turn["value"]) for turn in turns), category=str(row.get("category") or "")
        )


def _turns(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return None
    return next((row[key] for key in _KEYS if key in row), None)
