"""Text from tokens as they come: a piece is said only when its characters can no longer change."""

from __future__ import annotations

from typing import Any


class TextStream:
    """Decodes a growing list of tokens.

    Args:
        tokenizer: a Hugging Face tokenizer. Special tokens are left out of the text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._said_tokens = 0  # tokens before this one are said; decoding restarts there, so cost stays flat
        self._said = 0  # characters of the present window that are said
        self.text = ""

    def add(self, token: int) -> str:
        """Take a token; returns the text that became certain, often nothing in the middle of a character."""
        self._tokens.append(token)
        window = self._decode()
        if window.endswith("\N{REPLACEMENT CHARACTER}"):  # an unfinished multi-byte character
            return ""
        piece = window[self._said :]
        self._said = len(window)
        self.text += piece
        if window.endswith("\n"):  # a place where no tokenizer looks back
            self._said_tokens, self._said = len(self._tokens), 0
        return piece

    def finish(self) -> str:
        """The rest, whatever it is."""
        piece = self._decode()[self._said :]
        self._said += len(piece)
        self.text += piece
        return piece

    def _decode(self) -> str:
        return self._tokenizer.decode(self._tokens[self._said_tokens :], skip_special_tokens=True)
