"""The interface of a backend: load, turn conversations into tokens, answer with a stream of steps, stop, free.

It knows specs and messages, not models; the built-in backend runs them here, another may drive a server. The chat stage
calls one backend from one thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hetspec_core.acceptance import StepCount
from hetspec_core.engine.data.conversation import Message
from hetspec_core.errors import SpecError
from hetspec_core.events.chat import BaseFacts, DraftFacts, ShapeCost, Step, StopReason
from hetspec_core.spec import BaseSpec, DecodingSpec, ResourcesSpec

Capability = Literal["trees", "every_position", "calibrate", "sampling"]


@dataclass(frozen=True)
class Watcher:
    """Who listens to an answer.

    Attributes:
        on_tokens: tokens that no draft proposed.
        on_step: a verify step.
        stop_asked: whether the answer should end now; looked at between steps.
        trees: whether steps carry their trees.
        every_position: commit one token per step.
        phases: whether steps carry the seconds of their phases, which costs a wait for the device per phase.
    """

    on_tokens: Callable[[list[int]], None]
    on_step: Callable[[Step], None]
    stop_asked: Callable[[], bool] = lambda: False
    trees: bool = True
    every_position: bool = False
    phases: bool = True


@dataclass
class Written:
    """An answer as a backend leaves it.

    Attributes:
        tokens: all of it, the stop token included.
        first_token_s, decode_s: seconds to the first token, and after it.
        counts: the verify steps as a server counted them, whose stream may bring several at once; None = they were told
            one by one.
        draft_vocab_size: tokens that the draft proposed, where these are fewer than it has; 0 = all of its own.
    """

    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason = "length"
    first_token_s: float = 0.0
    decode_s: float = 0.0
    counts: list[StepCount] | None = None
    draft_vocab_size: int = 0


class Backend(ABC):
    """Runs one base and one draft at a time."""

    capabilities: tuple[Capability, ...] = ()

    def __init__(self) -> None:
        self.on_progress: Callable[[str, float], None] = lambda label, done: None
        """Is told of long tasks and their progress (0 to 1); the opener of a backend may set it."""
        self.stop_asked: Callable[[], bool] = lambda: False
        """Whether what takes long should be given up, which raises `Cancelled`; looked at meanwhile."""

    def configure(self, options: Mapping[str, Any]) -> None:
        """Take the options of the card's model, before `open`.

        Raises:
            SpecError: this backend has none.
        """
        if options:
            raise SpecError(f"this backend takes no options; seen: {', '.join(options)}")

    def use_folders(self, work: Path, logs: Path) -> None:
        """Where a backend may write files for its servers, and their logs; called before `open`."""
        del work, logs  # most write nothing

    @abstractmethod
    def open(self, base: BaseSpec, resources: ResourcesSpec) -> BaseFacts:
        """Load the base.

        Raises:
            ModelError: it cannot be loaded.
            ResourceError: the device is not there.
        """

    @abstractmethod
    def facts(self) -> BaseFacts:
        """What is loaded, and what it runs on."""

    @abstractmethod
    def use_draft(self, folder: str, name: str) -> DraftFacts | None:
        """Make a draft the present one, loading it if it is not in memory; empty = plain decoding.

        Raises:
            ModelError, CheckpointError: it does not fit the base, or cannot be read.
        """

    @abstractmethod
    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Raises:
            DataError: the chat template refuses it.
        """

    @abstractmethod
    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""

    def token_name(self, token: int) -> str:
        """The vocabulary's own name of a token; empty where the backend cannot tell."""
        return ""

    @abstractmethod
    def answer(self, prompt: list[int], decoding: DecodingSpec, watcher: Watcher) -> Written:
        """Answer a prompt by base and present draft.

        Raises:
            DataError: the prompt leaves no room in the context.
        """

    @abstractmethod
    def calibrate(
        self, prompt: list[int], decoding: DecodingSpec, trees: Sequence[str], stop_asked: Callable[[], bool]
    ) -> tuple[float, list[ShapeCost]]:
        """Seconds per token of plain decoding, and what a step of each tree costs with the present draft."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


def token_name(tokenizer: Any, token: int) -> str:
    """The vocabulary's own name of a token; `<id>` for one that the tokenizer does not have, or cannot name."""
    names = getattr(tokenizer, "convert_ids_to_tokens", None)
    try:
        name = names(token) if names is not None else None
    except (OverflowError, IndexError):
        name = None
    return f"<{token}>" if name is None else str(name)


def token_text(tokenizer: Any, token: int) -> str:
    """What one token says inside a text; the vocabulary's own name for a piece of a character.

    It is decoded behind itself, because some decoders strip the space that a text begins with.
    """
    try:
        alone = tokenizer.decode([token])
        text = tokenizer.decode([token, token])[len(alone) :]
    except OverflowError:  # a number that no vocabulary has
        return token_name(tokenizer, token)
    return token_name(tokenizer, token) if not text or "\N{REPLACEMENT CHARACTER}" in alone + text else text
