"""Fields of rows and turns: which are read, and which of the others change what a conversation means.

A field that is not read is never dropped silently: it is given with the conversation, counted over all rows and named.
It knows keys; what a row looks like is the business of the formats.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from hetspec_core.engine.data.conversation import (
    ROLES,
    SYSTEM_COLUMNS,
    UNSET,
    FinishReason,
    RawTurn,
    RowError,
    UnusedField,
    label,
)

_NAMES = frozenset({"id", "question_id", "conversation_id", "category", *SYSTEM_COLUMNS})
_PROMPT_COLUMNS = frozenset(
    {
        *("tools", "tool_choice", "functions", "function_call", "documents", "history", "response_format"),
        *("image", "images", "video", "videos", "audio", "audios"),
        *("chat_template_kwargs", "enable_thinking", "reasoning_effort"),
    }
)
"""Columns that change the prompt under which the answers were written."""

_TURN_FIELDS = frozenset(
    {
        *("reasoning_content", "reasoning", "thinking", "thought"),
        *("tool_calls", "tool_call_id", "function_call", "name", "refusal", "prefix", "audio", "image", "images"),
        *("weight", "finish_reason", "train", "training", "loss", "mask", "masked"),
    }
)
"""Fields of a turn that change the prompt, what the assistant wrote, or what is learnt of it."""

_CALLS = ("tool_calls", "function_call")
_CUT = frozenset({"length", "max_tokens", "model_length"})


def read_turns(turns: Any, list_name: str, role_key: str, content_key: str) -> list[RawTurn]:
    """Turns of a row that keeps them in a list of mappings.

    `weight` (0 or 1) and `finish_reason` of a turn are read. Text that a tool call follows does not end the turn.

    Args:
        turns: the list.
        list_name: its key, for messages.
        role_key, content_key: keys of a turn.

    Raises:
        RowError: it is no list, or a turn lacks a key.
    """
    if not isinstance(turns, list):
        raise RowError(f"it has no list `{list_name}`")
    found: list[RawTurn] = []
    for number, turn in enumerate(turns, start=1):
        if isinstance(turn, Mapping) and (call := _call(turn)) and turn.get(content_key) in UNSET:
            raise RowError(f"turn {number} has `{call}` and no text; calls of tools are not read")
        if not isinstance(turn, Mapping) or role_key not in turn or content_key not in turn:
            raise RowError(f"turn {number} needs `{role_key}` and `{content_key}`")
        found.append(RawTurn(turn[role_key], turn[content_key], _weight(turn), _finish_reason(turn)))
    return found


def unused_fields(
    row: Mapping[str, Any],
    used: Collection[str],
    turns: Iterable[Mapping[str, Any]] = (),
    turn_keys: Collection[str] = (),
) -> frozenset[UnusedField]:
    """The fields of a row and of its turns that say something and are not read.

    Args:
        row: the row.
        used: its keys that the format reads, besides id, category and the system prompt.
        turns: its turns, when they are mappings.
        turn_keys: keys of a turn that the format reads; the first of them is that of the role.
    """
    found = {
        UnusedField(label(key), "row", key in _PROMPT_COLUMNS)
        for key, value in row.items()
        if key not in used and key not in _NAMES and value not in UNSET
    }
    role_key = next(iter(turn_keys), "role")
    for turn in turns:
        role = turn.get(role_key)
        is_answer = isinstance(role, str) and ROLES.get(role.strip().lower()) == "assistant"
        place: Literal["question", "answer"] = "answer" if is_answer else "question"
        for key, value in turn.items():
            if key in turn_keys or value in UNSET or (is_answer and _is_read(key, value)):
                continue
            found.add(UnusedField(label(key), place, key in _TURN_FIELDS))
    return frozenset(found)


def system_conflict(row: Mapping[str, Any], turns: Iterable[RawTurn]) -> frozenset[UnusedField]:
    """The column with a system prompt that is not read, because the turns begin with another one."""
    first = next(iter(turns), None)
    is_system = first is not None and isinstance(first.role, str) and first.role.strip().lower() == "system"
    if first is None or not is_system or first.content in UNSET:
        return frozenset()
    return frozenset(
        UnusedField(key, "row", True) for key in SYSTEM_COLUMNS if row.get(key) not in (*UNSET, first.content)
    )


def _is_read(key: str, value: Any) -> bool:
    return (key == "weight" and value in (0, 1)) or (key == "finish_reason" and isinstance(value, str))


def _weight(turn: Mapping[str, Any]) -> int:
    return 0 if turn.get("weight", 1) == 0 else 1


def _finish_reason(turn: Mapping[str, Any]) -> FinishReason:
    reason = turn.get("finish_reason")
    if isinstance(reason, str) and reason.lower() in _CUT:
        return "length"
    return "other_stop_token" if reason == "other_stop_token" or _call(turn) else "stop"


def _call(turn: Mapping[str, Any]) -> str:
    return next((key for key in _CALLS if turn.get(key) not in UNSET), "")
