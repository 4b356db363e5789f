"""The interface of a backend: load, turn conversations into tokens, answer with a stream of steps, stop, free.

The built-in backend runs models in this process; another may drive a server. A stage calls one backend from one thread.
`TextStream` decodes the tokens of an answer as they come.
"""

from __future__ import annotations

import re
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
    """The receiver of an answer's tokens and steps.

    Attributes:
        on_tokens: tokens that no draft proposed.
        on_step: a verify step.
        stop_asked: whether the answer should end now; called between steps.
        trees: whether steps carry their trees.
        every_position: commit one token per step.
        phases: whether steps carry the seconds of their phases; each phase is then a launch of its own.
        whole_prompt: read all of the prompt, whatever was kept of the answer before.
    """

    on_tokens: Callable[[list[int]], None] = lambda tokens: None
    on_step: Callable[[Step], None] = lambda step: None
    stop_asked: Callable[[], bool] = lambda: False
    trees: bool = True
    every_position: bool = False
    phases: bool = True
    whole_prompt: bool = False


@dataclass
class Written:
    """An answer as a backend leaves it.

    Attributes:
        tokens: all of it, the stop token included.
        first_token_s, decode_s: seconds to the first token, and after it.
        counts: the verify steps by the count of a server, whose stream may report several at once; None = each step was
            reported.
        draft_vocab_size: tokens that the draft proposed, where these are fewer than it has; 0 = all of its own.
        tree: the shape that `tree = auto` took, or `plain`; empty where it was not asked to choose.
        predicted_speedup: over plain decoding, of the best shape for `auto`.
        kept_tokens: of the prompt, whose keys and values were kept from the answer before.
    """

    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason = "length"
    first_token_s: float = 0.0
    decode_s: float = 0.0
    counts: list[StepCount] | None = None
    draft_vocab_size: int = 0
    tree: str = ""
    predicted_speedup: float | None = None
    kept_tokens: int = 0


class Backend(ABC):
    """Runs one base and one draft at a time."""

    capabilities: tuple[Capability, ...] = ()

    def __init__(self) -> None:
        self.on_progress: Callable[[str, float], None] = lambda label, done: None
        """Called with the name of a long task and its progress (0 to 1); the opener of a backend may set it."""
        self.on_notice: Callable[[str], None] = lambda notice: None
        """Called with a sentence for the reader when something did not go as planned."""
        self.stop_asked: Callable[[], bool] = lambda: False
        """Whether a long task should end with `Cancelled`; called during the task."""

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
    """The text of one token inside a text; the vocabulary's own name for a piece of a character.

    It is decoded after itself, because some decoders strip the space at the beginning of a text.
    """
    try:
        alone = tokenizer.decode([token])
        text = tokenizer.decode([token, token])[len(alone) :]
    except OverflowError:  # a number that no vocabulary has
        return token_name(tokenizer, token)
    return token_name(tokenizer, token) if not text or "\N{REPLACEMENT CHARACTER}" in alone + text else text


_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # the name of a byte token in SentencePiece's vocabularies
_WINDOW = 64  # tokens that are decoded anew for every token, at most about so many
_KEPT = 8  # tokens that a new window begins with
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class BackendTokenizer:
    """A backend with the interface of a tokenizer, for a text stream."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return self._backend.text(tokens)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self._backend.token_name(token)


class TextStream:
    """Decodes a growing list of tokens: a piece of text is returned only when its characters can no longer change.

    Joined, the pieces are the decoding of all tokens at once. Decoders look at more than one token: they may strip the
    first space of a text, bytes of one character may come in several tokens, and SentencePiece decodes a run of byte
    tokens together, so that a bad byte changes the ones before it.

    Args:
        tokenizer: a Hugging Face tokenizer, or an object that decodes like one. Special tokens are left out.

    Attributes:
        text: all pieces so far; after `finish`, the decoding of all tokens at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._start = 0  # first token of the window; decoding begins there, so that the cost per token is bounded
        self._said = 0  # characters of the window's text that were returned
        self._in_bytes = False  # whether the text ends in byte tokens, which a later byte can still change
        self.text = ""

    def add(self, token: int) -> str:
        """Add a token; returns the text that became final, often nothing in the middle of a character."""
        self._tokens.append(token)
        self._in_bytes = self._is_byte(token) or (self._in_bytes and not self._decode([token]))
        if self._in_bytes:
            return ""
        window = self._decode(self._tokens[self._start :])
        if window.endswith(_UNFINISHED):
            return ""
        piece = window[self._said :]
        self._said = len(window)
        self.text += piece
        if len(self._tokens) - self._start > _WINDOW:
            self._move_window()
        return piece

    def finish(self) -> str:
        whole = self._decode(self._tokens)
        piece = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text = whole
        return piece

    def _move_window(self) -> None:
        """Begin the window a few tokens back, where its text is the end of the returned text.

        The window begins with visible text, so that nothing new is stripped by the decoder, and outside a run of byte
        tokens.
        """
        for start in range(len(self._tokens) - _KEPT, self._start, -1):
            text = self._decode(self._tokens[start:])
            if text.strip() and self.text.endswith(text) and not self._is_byte(self._tokens[start]):
                self._start, self._said = start, len(text)
                return

    def _is_byte(self, token: int) -> bool:
        return bool(_BYTE.fullmatch(token_name(self._tokenizer, token)))

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)
