"""Which self-written prompts are worth answering: complete, of a sensible length, not degenerate, not said before.

It knows text only.
"""

from __future__ import annotations

import re
import unicodedata

MIN_CHARACTERS = 12
MIN_WORDS = 3
MAX_CHARACTERS = 2000
_MARKUP = re.compile(r"<\|[^|>]{1,40}\|>|\[/?INST\]|<<?/?SYS>?>|<(start|end)_of_turn>|</?s>|�")
_LONG_RUN = re.compile(r"(\S)\1{11,}")
_LEAST_DISTINCT = 0.35  # distinct words of all words; natural prompts of this length lie above 0.5
_LEAST_LETTERS = 0.2


def normalise(text: str) -> str:
    """What two prompts have in common when they are the same to a reader: letters and digits, in lower case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


def fault(text: str, *, finished: bool) -> str:
    """Why a prompt is not kept; empty when it is.

    Args:
        text: the prompt, stripped.
        finished: whether its writer came to the end of the turn.
    """
    words = text.split()
    if not finished or len(text) > MAX_CHARACTERS:
        return "too long"
    if len(text) < MIN_CHARACTERS or len(words) < MIN_WORDS:
        return "too short"
    if _MARKUP.search(text):
        return "markup of the template in it"
    letters = sum(character.isalpha() for character in text)
    lower = [word.casefold() for word in words]
    repeats = len(words) >= 20 and len(set(lower)) / len(lower) < _LEAST_DISTINCT
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    stutters = len(lines) >= 4 and len(set(lines)) <= len(lines) // 2
    if repeats or stutters or _LONG_RUN.search(text) or letters / len(text) < _LEAST_LETTERS:
        return "degenerate"
    return ""


class PromptSieve:
    """Takes prompts one after another and keeps the good ones, each once.

    Attributes:
        kept: prompts that passed, in the order they came.
        dropped: reason -> how many.
    """

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.dropped: dict[str, int] = {}
        self._seen: set[str] = set()

    def add(self, text: str, *, finished: bool) -> bool:
        """Look at a prompt; returns whether it was kept."""
        text = text.strip()
        reason = fault(text, finished=finished)
        key = normalise(text)
        if not reason and key in self._seen:
            reason = "said before"
        if reason:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
            return False
        self._seen.add(key)
        self.kept.append(text)
        return True
