"""Bare prompts: {"prompt": ...}, {"text": ...}, {"turns": [...]} (MT-Bench), or a plain string. No answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hetspec_core.engine.data.conversation import UNSET, Conversation, RowError, from_prompts, label, row_name
from hetspec_core.engine.data.row_fields import unused_fields

_KEYS = ("turns", "prompt", "text")


class Prompts:
    """Rows with `prompt`, `text` or `turns` (several user turns), or bare strings."""

    def matches(self, row: Any) -> bool:
        """Whether the row is a string or has one of the keys. Empty ones say nothing."""
        if isinstance(row, str):
            return bool(row.strip())
        return isinstance(row, Mapping) and any(row.get(key) not in UNSET for key in _KEYS)

    def read(self, row: Any) -> Conversation:
        """The row as user turns.

        Raises:
            RowError: it has none of the keys, or the value is no text.
        """
        if isinstance(row, str):
            return from_prompts("", [row])
        if not isinstance(row, Mapping):
            raise RowError(f"it is a {type(row).__name__} with none of {', '.join(_KEYS)}")
        key = next((key for key in _KEYS if row.get(key) is not None), None)
        if key is None:
            raise RowError(f"it has none of {', '.join(_KEYS)}")
        value = row[key]
        if key == "turns" and not isinstance(value, list):
            raise RowError("`turns` is not a list")
        prompts = value if key == "turns" else [value]
        conversation = from_prompts(row_name(row), prompts, category=label(row.get("category")), row=row)
        return replace(conversation, unused=unused_fields(row, (key,)))
