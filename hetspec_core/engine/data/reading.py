"""From a dataset spec to conversations: rows are chosen and read in their format; broken ones are counted by place.

Each format is a class and a card on the axis `formats`. A field that is not read is kept with the conversation, counted
over all rows and named to the user.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.engine.data.conversation import (
    ROLES,
    SYSTEM_COLUMNS,
    UNSET,
    Conversation,
    FinishReason,
    RawTurn,
    RowError,
    UnusedField,
    from_prompts,
    from_turns,
    label,
    row_name,
    shortened,
)
from hetspec_core.engine.data.sources import Rows, open_rows
from hetspec_core.errors import DataError
from hetspec_core.spec import DatasetSpec

AUTO = "auto"
_PROMPT_KEYS = ("turns", "prompt", "text")
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
"""Fields of a turn that change the prompt, the answer, or what is learnt."""

_CALLS = ("tool_calls", "function_call")
_CUT = frozenset({"length", "max_tokens", "model_length"})


class RowFormat(Protocol):
    """One form of rows."""

    def matches(self, row: Any) -> bool:
        """Whether the row has the keys of this form; the values may still be wrong."""
        ...

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: it is not one; the message says why.
        """
        ...


def format_names() -> list[str]:
    """Every registered format."""
    return [card.name for card in list_cards("formats")]


def load_format(name: str) -> RowFormat:
    """The format with this name.

    Raises:
        NotFoundError: there is none.
    """
    return load_card("formats", name).load()()


def detect_format(row: Any) -> str | None:
    """Name of the first format that the row has the keys of; None when there is none."""
    return next((name for name in format_names() if load_format(name).matches(row)), None)


class _TurnList:
    """Rows that keep a conversation as a list of mappings.

    Attributes:
        keys: keys of the row under which the list may be, the first of them for messages.
        role_key, content_key: keys of a turn.
    """

    keys: ClassVar[tuple[str, ...]]
    role_key: ClassVar[str]
    content_key: ClassVar[str]

    def matches(self, row: Any) -> bool:
        """Whether the row has such a list whose turns have `role_key`; a row without turns has no form."""
        turns = self._turns(row)
        return isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and self.role_key in turns[0]

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: a turn lacks `role_key` or `content_key`, or the turns do not make a conversation.
        """
        listed = self._turns(row)
        turns = read_turns(listed, self.keys[0], self.role_key, self.content_key)
        if not isinstance(row, Mapping):
            raise RowError(f"it has no list `{self.keys[0]}`")
        conversation = from_turns(row_name(row), turns, category=label(row.get("category")), row=row)
        unused = unused_fields(row, self.keys, listed, (self.role_key, self.content_key)) | system_conflict(row, turns)
        return replace(conversation, unused=unused)

    def _turns(self, row: Any) -> Any:
        if not isinstance(row, Mapping):
            return None
        return next((row[key] for key in self.keys if key in row), None)


class Messages(_TurnList):
    """OpenAI rows: {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}."""

    keys: ClassVar[tuple[str, ...]] = ("messages", "conversations", "conversation")
    role_key: ClassVar[str] = "role"
    content_key: ClassVar[str] = "content"


class ShareGPT(_TurnList):
    """ShareGPT rows: {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}."""

    keys: ClassVar[tuple[str, ...]] = ("conversations", "conversation")
    role_key: ClassVar[str] = "from"
    content_key: ClassVar[str] = "value"


class Prompts:
    """Rows without answers: {"prompt": ...}, {"text": ...}, {"turns": [...]} (MT-Bench), or a plain string."""

    def matches(self, row: Any) -> bool:
        """Whether the row is a string or has a value under one of the keys."""
        if isinstance(row, str):
            return bool(row.strip())
        return isinstance(row, Mapping) and any(row.get(key) not in UNSET for key in _PROMPT_KEYS)

    def read(self, row: Any) -> Conversation:
        """The row as user turns.

        Raises:
            RowError: it has none of the keys, or the value is no text.
        """
        if isinstance(row, str):
            return from_prompts("", [row])
        if not isinstance(row, Mapping):
            raise RowError(f"it is a {type(row).__name__} with none of {', '.join(_PROMPT_KEYS)}")
        key = next((key for key in _PROMPT_KEYS if row.get(key) is not None), None)
        if key is None:
            raise RowError(f"it has none of {', '.join(_PROMPT_KEYS)}")
        value = row[key]
        if key == "turns" and not isinstance(value, list):
            raise RowError("`turns` is not a list")
        prompts = value if key == "turns" else [value]
        conversation = from_prompts(row_name(row), prompts, category=label(row.get("category")), row=row)
        return replace(conversation, unused=unused_fields(row, (key,)))


def read_turns(turns: Any, list_name: str, role_key: str, content_key: str) -> list[RawTurn]:
    """Turns of a row that keeps them in a list of mappings.

    `weight` (0 or 1) and `finish_reason` of a turn are read. Text that a tool call follows does not end the turn.

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
        weight = 0 if turn.get("weight", 1) == 0 else 1
        found.append(RawTurn(turn[role_key], turn[content_key], weight, _finish_reason(turn)))
    return found


def unused_fields(
    row: Mapping[str, Any],
    used: Collection[str],
    turns: Iterable[Mapping[str, Any]] = (),
    turn_keys: Collection[str] = (),
) -> frozenset[UnusedField]:
    """The fields of a row and of its turns that are set and not read.

    Args:
        row: the row.
        used: its keys that the format reads, in addition to id, category and the system prompt.
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
            is_read = (key == "weight" and value in (0, 1)) or (key == "finish_reason" and isinstance(value, str))
            if key in turn_keys or value in UNSET or (is_answer and is_read):
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


def _finish_reason(turn: Mapping[str, Any]) -> FinishReason:
    reason = turn.get("finish_reason")
    if isinstance(reason, str) and reason.lower() in _CUT:
        return "length"
    return "other_stop_token" if reason == "other_stop_token" or _call(turn) else "stop"


def _call(turn: Mapping[str, Any]) -> str:
    return next((key for key in _CALLS if turn.get(key) not in UNSET), "")


_SHOWN = 5  # broken rows that a message names
_NAMED = 12  # keys that a message names
_DETECT_ROWS = 100


@dataclass(frozen=True)
class Malformed:
    """A row that could not be read."""

    place: str
    reason: str


@dataclass
class DatasetReading:
    """The result of reading a dataset.

    Attributes:
        source: its name.
        format: the format it was read in.
        conversations: those that could be read.
        malformed: those that could not.
        unused: fields of the conversations' rows that were not read -> how many rows have them.
    """

    source: str
    format: str
    conversations: list[Conversation] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    unused: Counter[UnusedField] = field(default_factory=Counter)

    @property
    def num_answers(self) -> int:
        """Turns of the assistant in all conversations."""
        return sum(message.role == "assistant" for c in self.conversations for message in c.messages)

    def add(self, conversation: Conversation) -> None:
        """Take a conversation, and count the fields of its row that were not read."""
        self.conversations.append(conversation)
        self.unused.update(conversation.unused)

    def unused_counts(self, *, answers: bool, matters: bool | None = None) -> dict[str, int]:
        """Fields that were not read -> rows: `tools`, `name of a question`, `tool_calls of an answer`.

        Args:
            answers: whether the answers of the rows are used; otherwise fields of answers do not count.
            matters: True = fields that are known to change the meaning, False = the others, None = all.
        """
        found: dict[str, int] = {}
        for unused, count in self.unused.most_common():
            if (unused.place != "answer" or answers) and matters in (None, unused.matters):
                article = "an" if unused.place == "answer" else "a"
                found[unused.name + (f" of {article} {unused.place}" if unused.place != "row" else "")] = count
        return found

    def warning(self, *, answers: bool) -> str:
        """One sentence on the fields that were not read and change the meaning; empty when there is none."""
        named = _named(self.unused_counts(answers=answers, matters=True))
        return (
            f"fields of {self.source} that are not read, and change what was asked or answered: {named}"
            if named
            else ""
        )

    def remark(self, *, answers: bool) -> str:
        """One sentence on the other fields that were not read; empty when there is none."""
        named = _named(self.unused_counts(answers=answers, matters=False))
        return f"other fields of {self.source} that are not read: {named}" if named else ""

    @property
    def complaint(self) -> str:
        """One sentence on the malformed rows, the first of them by line; empty when there is none."""
        if not self.malformed:
            return ""
        count = len(self.malformed)
        named = "; ".join(f"{item.place}: {item.reason}" for item in self.malformed[:_SHOWN])
        more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
        total = count + len(self.conversations)
        return f"{count} of {total} rows of {self.source} cannot be read as {self.format}: {named}{more}"


def read_conversations(spec: DatasetSpec) -> DatasetReading:
    """Read the conversations that a spec asks for: shuffle, then range, then ids, then limit.

    Raises:
        NotFoundError: the source is not there.
        DataError: the source is of no known kind, no format fits it, the range is outside, or no row can be read.
    """
    rows = open_rows(spec.source, split=spec.split)
    order = list(range(len(rows)))
    if spec.shuffle_seed is not None:
        random.Random(spec.shuffle_seed).shuffle(order)
    if spec.range is not None:
        order = order[spec.range[0] : spec.range[1]]
        if not order:
            raise DataError(
                f"dataset.range is {spec.range[0]}:{spec.range[1]}, but {spec.source} has {len(rows)} rows",
                hint=f"choose a range within 0:{len(rows)}",
            )
    name = _detect(rows, order) if spec.format == AUTO else spec.format
    row_format = load_format(name)
    reading = DatasetReading(rows.name, name)
    wanted, seen = set(spec.sample_ids), []
    for index in order:
        if spec.limit is not None and len(reading.conversations) >= spec.limit:
            break
        try:
            conversation = row_format.read(rows.get(index))
        except RowError as error:
            reading.malformed.append(Malformed(rows.place(index), str(error)))
            continue
        if not conversation.id:
            conversation = replace(conversation, id=rows.place(index))
        if wanted and conversation.id not in wanted:
            seen.append(conversation.id)
            continue
        reading.add(conversation)
    missing = wanted - {conversation.id for conversation in reading.conversations} if spec.limit is None else set()
    if missing or (wanted and not reading.conversations):
        raise DataError(
            f"{spec.source} has no conversation with id {', '.join(sorted(missing or wanted))}",
            hint=f"ids are id or question_id of a row, or its place; there are {', '.join(seen[:_SHOWN]) or 'none'}",
        )
    if not reading.conversations:
        raise DataError(reading.complaint, hint=f"set dataset.format to one of {', '.join(format_names())}")
    return reading


def _named(counts: Mapping[str, int]) -> str:
    names = [f"{name} ({count} row{'s' if count != 1 else ''})" for name, count in counts.items()]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _detect(rows: Rows, order: list[int]) -> str:
    """The format that most of the first rows have. Rows without a turn have none."""
    reason = "no row is JSON"
    found: Counter[str] = Counter()
    for index in order[:_DETECT_ROWS]:
        try:
            row = rows.get(index)
        except RowError as error:
            reason = f"{rows.place(index)}: {error}"
            continue
        if name := detect_format(row):
            found[name] += 1
            continue
        keys = f"keys {_keys(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        reason = f"{rows.place(index)} has {keys}" + (", and no turn" if _is_empty(row) else "")
    if found:
        return found.most_common(1)[0][0]
    raise DataError(
        f"the format of {rows.name} is not known: {reason}",
        hint="rows need `conversations`, `messages`, `turns`, `prompt` or `text`; see docs/datasets.md",
    )


def _keys(row: Mapping[str, object]) -> str:
    names = [shortened(label(key)) for key in row]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _is_empty(row: object) -> bool:
    return not row or (isinstance(row, dict) and any(value in UNSET for value in row.values()))
