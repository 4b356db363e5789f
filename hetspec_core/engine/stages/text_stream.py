"""Text from tokens as they come: a piece is given out only when its characters can no longer change.

Joined, the pieces are what the tokenizer makes of all tokens at once. Decoders look at more than one token, so this
takes care of three things: a decoder may strip the first space of what it is given, bytes of one character may come in
several tokens, and SentencePiece decodes a run of byte tokens together, so that a bad byte changes the ones before it.
"""

from __future__ import annotations

import re
from typing import Any

from hetspec_core.engine.backends.backend import Backend, token_name

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # the name of a byte token in SentencePiece's vocabularies
_WINDOW = 64  # tokens that are decoded anew for every token, at most about so many
_KEPT = 8  # tokens that a new window has behind it
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class BackendTokenizer:
    """A backend as the tokenizer that a text stream needs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens, special ones left out."""
        return self._backend.text(tokens)

    def convert_ids_to_tokens(self, token: int) -> str:
        """The vocabulary's own name of a token."""
        return self._backend.token_name(token)


class TextStream:
    """Decodes a growing list of tokens.

    Args:
        tokenizer: a Hugging Face tokenizer, or what decodes like one. Special tokens are left out of the text.

    Attributes:
        text: what was given out so far; after `finish`, the decoding of all tokens at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._start = 0  # first token of the window; decoding begins there, so that the cost per token is bounded
        self._said = 0  # characters of the window's text that are given out
        self._in_bytes = False  # whether the text ends in byte tokens, which a later byte can still change
        self.text = ""

    def add(self, token: int) -> str:
        """Take a token; returns the text that became certain, often nothing in the middle of a character."""
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
        """The rest, whatever it is."""
        whole = self._decode(self._tokens)
        piece = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text = whole
        return piece

    def _move_window(self) -> None:
        """Begin the window a few tokens back, where its text is the end of what was given out.

        A window that begins with visible text has lost whatever a decoder strips at the beginning before anything new
        comes, and it begins outside a run of byte tokens.
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
