"""A conversation: turns that can be edited, answered anew, saved and loaded."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetspec_core.documents import MIB, DocumentError, read_bounded
from hetspec_core.errors import CorruptFileError, HetSpecError, NotFoundError, ResourceError, UsageError
from hetspec_core.events.chat_settings import ChatMessage
from hetspec_core.files import write_output
from hetspec_core.paths import roots
from hetspec_core.service.chat.answer import Answer, Piece

VERSION = 1
_LONGEST_BYTES = 256 * MIB


class Turn(BaseModel):
    """One turn.

    Attributes:
        pieces: text and origin of each token of an answer; empty when not known (an edited answer).
        label: way of decoding of an answer.
        stop_reason: why an answer ended: stop, length, context, stopped (by the user), died.
        accept_length, tokens_per_s: figures of an answer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    role: Literal["user", "assistant"]
    text: str
    pieces: tuple[Piece, ...] = ()
    label: str = ""
    stop_reason: str = ""
    tokens: int = 0
    accept_length: float | None = None
    tokens_per_s: float | None = None


class ChatHistory(BaseModel):
    """Turns of user and assistant in alternation, beginning with the user.

    Attributes:
        title: for lists; the first question when empty.
        base: name of the base.
        system_prompt: the system message before the turns.
    """

    model_config = ConfigDict(extra="ignore")

    version: int = VERSION
    title: str = ""
    base: str = ""
    system_prompt: str | None = None
    created: float = Field(default_factory=time.time)
    turns: list[Turn] = Field(default_factory=list)

    @property
    def messages(self) -> list[ChatMessage]:
        """The turns as messages to a worker."""
        return [ChatMessage(role=turn.role, content=turn.text) for turn in self.turns]

    @property
    def name(self) -> str:
        """The title, or the beginning of the first question."""
        first = self.turns[0].text if self.turns else "empty"
        return self.title or " ".join(first.split())[:60]

    def ask(self, text: str) -> None:
        """Append a question. One that was never answered is replaced, so that roles alternate.

        Raises:
            UsageError: it is empty.
        """
        if not text.strip():
            raise UsageError("the question is empty", hint="write something")
        if self.turns and self.turns[-1].role == "user":
            self.turns.pop()
        self.turns.append(Turn(role="user", text=text))

    def answer(self, answer: Answer) -> None:
        """Append an answer, complete or not; an empty one leaves the question open."""
        if not answer.pieces or not self.turns or self.turns[-1].role != "user":
            return
        reason = answer.end.stop_reason if answer.end else answer.state
        self.turns.append(
            Turn(
                role="assistant",
                text=answer.text,
                pieces=tuple(answer.pieces),
                label=answer.label,
                stop_reason=reason,
                tokens=len(answer.tokens),
                accept_length=answer.stats.accept_length,
                tokens_per_s=answer.decode_tokens_per_s,
            )
        )

    def drop_answer(self) -> None:
        """Take the last answer back, so that its question can be answered anew.

        Raises:
            UsageError: nothing was asked yet.
        """
        if self.turns and self.turns[-1].role == "assistant":
            self.turns.pop()
        if not self.turns:
            raise UsageError("there is no question to answer again", hint="ask one first")

    def edit(self, index: int, text: str) -> None:
        """Change a turn. Everything after a changed question is deleted; an answer is changed in place.

        Raises:
            UsageError: there is no such turn, or the text is empty.
        """
        if not 0 <= index < len(self.turns):
            raise UsageError(f"there is no turn {index}; there are {len(self.turns)}, from 0")
        if not text.strip():
            raise UsageError("the text is empty", hint="write something")
        turn = self.turns[index]
        self.turns[index] = Turn(role=turn.role, text=text)
        if turn.role == "user":
            del self.turns[index + 1 :]

    def save(self, path: Path) -> None:
        """Write it to a file, as `files.write_output`.

        Raises:
            ResourceError: the file cannot be written.
        """
        try:
            write_output(path, self.model_dump_json(indent=1) + "\n", mode=0o600)
        except HetSpecError as error:
            raise ResourceError(f"the conversation cannot be written: {error.message}", hint=error.hint) from error

    @classmethod
    def load(cls, path: Path) -> ChatHistory:
        """Read one from a file.

        Raises:
            NotFoundError: there is no such file.
            CorruptFileError: it is no conversation, or one of a newer version.
        """
        try:
            found = cls.model_validate_json(read_bounded(path, _LONGEST_BYTES, streams=True))
        except FileNotFoundError:
            raise NotFoundError(f"there is no conversation {path}") from None
        except (ValidationError, DocumentError, OSError) as error:
            raise CorruptFileError(f"{path} is no conversation: {str(error).splitlines()[0]}") from None
        if found.version > VERSION:
            raise CorruptFileError(
                f"{path} is of conversation version {found.version}; this program reads up to {VERSION}",
                hint="update HetSpec",
            )
        return found


def saved_conversations(folder: Path) -> list[Path]:
    """Conversations in a folder, newest first."""
    ages: dict[Path, float] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError):  # deleted meanwhile, or a link to nothing
            ages[path] = path.stat().st_mtime
    return sorted(ages, key=ages.__getitem__, reverse=True)


def conversation_folder() -> Path:
    """The default folder of conversations."""
    return roots().conversations
