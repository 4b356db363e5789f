"""Bare prompts: {"prompt": ...}, {"text": ...}, {"turns": [...]} (MT-Bench), or a plain string. No answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetspec_core.engine.data.conversation import Conversation, RowError, from_prompts, row_name

_KEYS = ("turns", "prompt", "text")


class Prompts:
    """Rows with `prompt`, `text` or `turns` (several user turns), or bare strings."""

    def matches(self, row: Any) -> bool:
        """Whether the row is a string or has one of the keys."""
        return isinstance(row, str) or (isinstance(row, Mapping) and any(key in row for key in _KEYS))

    def read(self, row: Any) -> Conversation:
        """The row as user turns.

        Raises:
            RowError: it has none of the keys, or the value is no text.
        """
        if isinstance(row, str):
            return from_prompts("", [row])
        key = next((key for key in _KEYS if isinstance(row, Mapping) and row.get(key) is not None), None)
        if key is None:
            raise RowError(f"it has none of {', '.join(_KEYS)}")
        value = row[key]
        if key == "turns" and not isinstance(value, list):
            raise RowError("`turns` is not a list")
        return from_prompts(
            row_name(row), value if key == "turns" else [value], category=str(row.get("category") or "")
        )
