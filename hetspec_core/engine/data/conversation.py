"""A conversation: system message and turns, the form that all dataset formats are read into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
}
"""Names of roles in datasets -> HetSpec's."""


SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
"""Columns of a row that hold its system prompt."""

UNSET: tuple[Any, ...] = (None, "", [], {})
"""Values of fields that are not set; writers of rows often write every field."""


class RowError(ValueError):
    """A dataset row that is not a conversation; the message says why."""


FinishReason = Literal["stop", "length", "other_stop_token"]


class UnusedField(NamedTuple):
    """A field of a row that is set and was not read.

    Attributes:
        name: its key.
        place: row, question (a turn of the user or the system) or answer.
        matters: whether it is known to change the prompt, the answer, or what is learnt.
    """

    name: str
    place: Literal["row", "question", "answer"]
    matters: bool


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        weight: 0 for an answer that is not learnt, else 1.
        finish_reason: of an answer: "stop" when its writer ended the turn as the template does; "length" when it was
            cut, "other_stop_token" when it ended with another token. In the last two cases the end-of-turn token after
            it comes from the template and is not learnt.
    """

    role: Role
    content: str
    weight: int = 1
    finish_reason: FinishReason = "stop"

    def as_dict(self) -> dict[str, str]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content}

    def as_row(self) -> dict[str, Any]:
        """The turn as in a row of the messages form; `weight` and `finish_reason` where they are not the default."""
        row: dict[str, Any] = dict(self.as_dict())
        if not self.weight:
            row["weight"] = self.weight
        if self.finish_reason != "stop":
            row["finish_reason"] = self.finish_reason
        return row


class RawTurn(NamedTuple):
    """An unchecked turn of a dataset; the attributes are those of `Message`."""

    role: Any
    content: Any
    weight: int = 1
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then turns of user and assistant in alternation, beginning with the user.

    Attributes:
        id: name in the source; samples are identified by their content.
        messages: the turns.
        category: kind of task, when the source has one.
        unused: fields of the row that were not read.
    """

    id: str
    messages: tuple[Message, ...]
    category: str = ""
    unused: frozenset[UnusedField] = frozenset()

    @property
    def user_turns(self) -> tuple[str, ...]:
        return tuple(message.content for message in self.messages if message.role == "user")

    @property
    def has_answers(self) -> bool:
        return any(message.role == "assistant" for message in self.messages)

    def without_answers(self) -> Conversation:
        """The same system message and user turns; the assistant's turns are left out."""
        return replace(self, messages=tuple(message for message in self.messages if message.role != "assistant"))

    def with_system(self, prompt: str | None) -> Conversation:
        """The same with a system message in front, unless it has one already or `prompt` is None."""
        if prompt is None or (self.messages and self.messages[0].role == "system"):
            return self
        return replace(self, messages=(Message("system", prompt), *self.messages))


def from_turns(
    row_id: str, turns: Iterable[RawTurn | tuple[str, Any]], *, category: str = "", row: Mapping[str, Any] | None = None
) -> Conversation:
    """A checked conversation from turns, or from (role of the dataset, content) pairs.

    Turns of the assistant before the first of the user are dropped: many ShareGPT records begin in the middle.

    Args:
        row_id: name of the row.
        turns: in order.
        category: kind of task.
        row: the whole row; its column with a system prompt (`system`, `system_prompt`) is used, unless the turns begin
            with one.

    Raises:
        RowError: a role is not known, a turn is empty or no text, two turns of one role follow each other, or there is
            no turn of the user.
    """
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        name, content, weight, finish_reason = turn if isinstance(turn, RawTurn) else RawTurn(turn[0], turn[1])
        role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            raise RowError(f"turn {number} has role {shortened(repr(name))}; known: {', '.join(ROLES)}")
        text = _text(content, f"turn {number}")
        if role == "assistant" and not any(message.role == "user" for message in messages):
            continue
        if not text.strip():
            if role == "system":
                continue
            raise RowError(f"turn {number} ({role}) is empty")
        if role == "system" and messages:
            raise RowError(f"turn {number} is a system message; it is allowed at the beginning only")
        if messages and messages[-1].role == role:
            raise RowError(f"turns {number - 1} and {number} are both of the {role}")
        messages.append(Message(role, text, weight, finish_reason) if role == "assistant" else Message(role, text))
    if not any(message.role == "user" for message in messages):
        raise RowError("it has no turn of the user")
    return Conversation(row_id, tuple(messages), category).with_system(_system_column(row))


def from_prompts(
    row_id: str, prompts: Iterable[Any], *, category: str = "", row: Mapping[str, Any] | None = None
) -> Conversation:
    """A conversation of user turns only, to be answered one after another; `row` as of `from_turns`.

    Raises:
        RowError: there is none, or one is empty or no text.
    """
    texts = [_text(prompt, f"turn {number}") for number, prompt in enumerate(prompts, start=1)]
    if not texts:
        raise RowError("it has no turn")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise RowError(f"turn {number} (user) is empty")
    messages = tuple(Message("user", text) for text in texts)
    return Conversation(row_id, messages, category).with_system(_system_column(row))


def row_name(row: Mapping[str, Any]) -> str:
    """The id in a row; empty when it has none."""
    return next((name for key in ("id", "question_id", "conversation_id") if (name := label(row.get(key)))), "")


def label(value: Any) -> str:
    """A short name from a row (id, category, key) as text that can be written anywhere; empty when it is no name."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return shortened(str(value).encode("utf-8", "backslashreplace").decode(), 200)


def shortened(text: str, most: int = 60) -> str:
    """A text of a row, cut for a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _system_column(row: Mapping[str, Any] | None) -> str | None:
    for key in SYSTEM_COLUMNS:
        if row is not None and row.get(key) not in UNSET:
            text = _text(row[key], f"`{key}`")
            return text if text.strip() else None
    return None


def _text(content: Any, place: str) -> str:
    """The text of a turn: a string, or the OpenAI list of parts when all of them are text."""
    if isinstance(content, str):
        return _encodable(content, place)
    if not isinstance(content, list):
        raise RowError(f"{place} has content of type {type(content).__name__}; text is needed")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind != "text" or not isinstance(part.get("text"), str):
            named = label(kind) or f"of type {type(part).__name__}"
            raise RowError(f"{place} has a part {named}, which is no text; only text is read")
    return _encodable("".join(part["text"] for part in content), place)


def _encodable(text: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        kind = "a byte that is not UTF-8" if 0xDC80 <= code <= 0xDCFF else "half of a surrogate pair"
        raise RowError(f"{place} has {kind} (U+{code:04X}) at character {error.start}") from None
    return text
