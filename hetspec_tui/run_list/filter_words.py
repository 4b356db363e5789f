"""The filter line: which words it has, what could come next, and what is still to be typed. No widgets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.suggester import Suggester

if TYPE_CHECKING:
    from hetspec_core.service.pages import Vocabulary

SHOWN = 40
_FIRST = ("state", "stage", "tag", "name", "base", "draft", "algorithm", "accept_length", "speedup", "age", "starred")
_BEGUN = re.compile(r"(?P<name>[A-Za-z_][\w./-]*)(?P<sign>!=|>=|<=|:|=|>|<)(?P<value>[^\s]*)$")
_FORMS = {
    "age": ("<2d", ">1w"),
    "took": (">30m", "<2h"),
    "created": (">2026-11-23",),
    "started": (">2026-11-23",),
    "ended": (">2026-11-23",),
    "progress": (">50%",),
    "accept_length": (">2.5",),
    "speedup": (">1.5",),
}


@dataclass(frozen=True)
class Hints:
    """What can be typed next.

    Attributes:
        about: what the words are.
        words: those that begin as the last one does.
        is_begun: whether the last word is not complete yet, so that it would be unfair to call it wrong.
        is_name: whether the last word may become a name with a sign behind it.
    """

    about: str
    words: tuple[str, ...]
    is_begun: bool = False
    is_name: bool = False


def hints(text: str, vocabulary: Vocabulary) -> Hints:
    """What could come next in a filter."""
    last = text.rsplit(" ", 1)[-1] if not text.endswith(" ") else ""
    begun = _BEGUN.fullmatch(last)
    if begun is not None:
        name, sign, value = begun["name"], begun["sign"], begun["value"]
        choices = vocabulary.choices.get(name, ())
        done, _, part = value.rpartition(",")
        stem = f"{name}{sign}{done}," if done else f"{name}{sign}"
        words = tuple(
            f"{stem}{choice}" for choice in choices if choice.startswith(part) and choice not in done.split(",")
        )
        about = f"{name} is one of" if choices else _form(name)
        is_begun = not value or value.endswith(",") or (bool(words) and value not in choices and part not in choices)
        return Hints(about, words, is_begun)
    found = (
        [name for name in vocabulary.names if name.startswith(last)]
        if last
        else list(dict.fromkeys([*_FIRST, *vocabulary.fields]))
    )
    words = tuple(f"{name}{_sign(name, vocabulary)}" for name in found if name != "text" or last)
    return Hints("fields, metrics and settings" if last else "filter by", words[:SHOWN], is_name=bool(last and words))


def completed(text: str, vocabulary: Vocabulary) -> str | None:
    """The line with its last word completed; None when nothing begins like that."""
    if not text or text.endswith(" "):
        return None
    last = text.rsplit(" ", 1)[-1]
    for word in hints(text, vocabulary).words:
        if word.startswith(last) and word != last:
            return text[: len(text) - len(last)] + word
    return None


class FilterSuggester(Suggester):
    """Offers the rest of the last word, which the right arrow takes."""

    def __init__(self) -> None:
        from hetspec_core.service.pages import Vocabulary

        super().__init__(use_cache=False, case_sensitive=True)
        self.vocabulary: Vocabulary = Vocabulary()

    async def get_suggestion(self, value: str) -> str | None:
        return completed(value, self.vocabulary)


def _form(name: str) -> str:
    forms = _FORMS.get(name)
    return f"for example {name}{forms[0]}" if forms else f"{name}: a value; signs are : = != > >= < <="


def _sign(name: str, vocabulary: Vocabulary) -> str:
    if name in _FORMS:
        return _FORMS[name][0][0]
    return ":" if name in vocabulary.fields else ">" if name in vocabulary.metrics else "="
