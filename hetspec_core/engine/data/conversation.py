"""A conversation: who said what, in order. The one form that all dataset formats are read into.

It knows nothing of files, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

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
"""Names of roles in datasets -> ours."""


class RowError(ValueError):
    """A dataset row that is not a conversation; the message says why."""


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then turns of user and assistant in alternation, beginning with the user.

    Attributes:
        id: name in the source (for people; samples are known by their content).
        messages: the turns.
        category: kind of task, when the source says one.
    """

    id: str
    messages: tuple[Message, ...]
    category: str = ""

    @property
    def user_turns(self) -> tuple[str, ...]:
        """What the user says, in order."""
        return tuple(message.content for message in self.messages if message.role == "user")

    @property
    def has_answers(self) -> bool:
        """Whether the assistant says anything."""
        return any(message.role == "assistant" for message in self.messages)

    def without_answers(self) -> Conversation:
        """The same system message and user turns; the assistant's turns are left out."""
        return replace(self, messages=tuple(message for message in self.messages if message.role != "assistant"))

    def with_system(self, prompt: str | None) -> Conversation:
        """The same with a system message in front, unless it has one already or `prompt` is None."""
        if prompt is None or (self.messages and self.messages[0].role == "system"):
            return self
        return replace(self, messages=(Message("system", prompt), *self.messages))


def from_turns(row_id: str, turns: Iterable[tuple[str, Any]], *, category: str = "") -> Conversation:
    """A checked conversation from (role as the dataset says it, content) pairs.

    Turns of the assistant before the first of the user are dropped: many ShareGPT records begin in the middle.

    Raises:
        RowError: a role is not known, a turn is empty or no text, two turns of one role follow each other, or the user
            says nothing.
    """
    messages: list[Message] = []
    for number, (name, content) in enumerate(turns, start=1):
        role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            raise RowError(f"turn {number} has role {name!r}; known: {', '.join(ROLES)}")
        text = _text(content, number)
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
        messages.append(Message(role, text))
    if not any(message.role == "user" for message in messages):
        raise RowError("it has no turn of the user")
    return Conversation(row_id, tuple(messages), category)


def from_prompts(row_id: str, prompts: Iterable[Any], *, category: str = "") -> Conversation:
    """A conversation of user turns only, to be answered one after another.

    Raises:
        RowError: there is none, or one is empty or no text.
    """
    texts = [_text(prompt, number) for number, prompt in enumerate(prompts, start=1)]
    if not texts:
        raise RowError("it has no turn")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise RowError(f"turn {number} (user) is empty")
    return Conversation(row_id, tuple(Message("user", text) for text in texts), category)


def row_name(row: Mapping[str, Any]) -> str:
    """The id a row gives itself, or nothing."""
    for key in ("id", "question_id", "conversation_id"):
        if row.get(key) not in (None, ""):
            return str(row[key])
    return ""


def _text(content: Any, number: int) -> str:
    """The text of a turn: a string, or the OpenAI list of parts when all of them are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise RowError(f"turn {number} has content of type {type(content).__name__}; text is needed")
