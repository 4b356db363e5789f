"""The line of a filter on runs: which words it takes, what could come next, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.suggester import Suggester
from textual.widgets import Input, Static

from hetspec_tui.formatting import safe

if TYPE_CHECKING:
    from hetspec_core.errors import UsageError
    from hetspec_core.service.pages import Vocabulary

PLACEHOLDER = "state:running  tag:best  accept_length>2.5  any words"

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
        super().__init__(use_cache=False, case_sensitive=True)
        self.vocabulary: Vocabulary | None = None

    async def get_suggestion(self, value: str) -> str | None:
        return None if self.vocabulary is None else completed(value, self.vocabulary)


class FilterLine(Vertical):
    """A filter and a few words beside it; below it what could be typed next, or what is wrong."""

    DEFAULT_CSS = """
    FilterLine {
        height: auto;

        #filter-bar { height: 1; background: $surface; }
        #filter-sign { width: 3; padding: 0 1; color: $text-accent; text-style: bold; }
        #filter { width: 1fr; }
        #count { width: auto; max-width: 60%; padding: 0 1; color: $text-muted; }

        #hint {
            display: none;
            height: 1;
            padding: 0 1 0 3;
            text-overflow: ellipsis;
            text-wrap: nowrap;
            background: $panel;
        }

        &.-hint #hint { display: block; }

        &.-wrong {
            #hint { height: auto; max-height: 3; text-wrap: wrap; color: $text-error; }
            #filter, #filter-sign { color: $text-error; }
        }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._suggester = FilterSuggester()

    def compose(self) -> ComposeResult:
        with Horizontal(id="filter-bar"):
            yield Static("/", id="filter-sign")
            yield Input(id="filter", compact=True, placeholder=PLACEHOLDER, suggester=self._suggester)
            yield Static(id="count", markup=False)
        yield Static(id="hint", markup=False)

    @property
    def input(self) -> Input:
        return self.query_one("#filter", Input)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words that a filter may use now; None = not known yet."""
        return self._suggester.vocabulary

    def learn(self, vocabulary: Vocabulary) -> None:
        self._suggester.vocabulary = vocabulary
        self.say_hint()

    def put(self, text: str) -> None:
        """Show another filter; no `Input.Changed` is posted."""
        self.remove_class("-wrong")
        with self.input.prevent(Input.Changed):
            self.input.value = text

    def hints(self, text: str) -> Hints:
        return Hints("", ()) if self.vocabulary is None else hints(text, self.vocabulary)

    def say_count(self, words: str) -> None:
        self.query_one("#count", Static).update(words)

    def say_hint(self) -> None:
        """Show what could come next, while the filter is typed."""
        self.remove_class("-wrong")
        self.set_class(self.input.has_focus, "-hint")
        if self.input.has_focus:
            found = self.hints(self.input.value)
            words = Content.assemble((f"{found.about}: ", "dim"), "  ".join(map(safe, found.words)))
            self.query_one("#hint", Static).update(words)

    def say_wrong(self, error: UsageError, text: str) -> None:
        """Show what is wrong with a filter; a word that is only begun is not called wrong."""
        if self.input.has_focus and self.hints(text).is_begun:
            self.say_hint()
            return
        self.add_class("-wrong", "-hint")
        self.query_one("#hint", Static).update(safe(f"✖ {error.message}  {error.hint}"))

    def on_descendant_focus(self) -> None:
        self.say_hint()

    def on_descendant_blur(self) -> None:
        if not self.has_class("-wrong"):
            self.remove_class("-hint")


def _form(name: str) -> str:
    forms = _FORMS.get(name)
    return f"for example {name}{forms[0]}" if forms else f"{name}: a value; signs are : = != > >= < <="


def _sign(name: str, vocabulary: Vocabulary) -> str:
    if name in _FORMS:
        return _FORMS[name][0][0]
    return ":" if name in vocabulary.fields else ">" if name in vocabulary.metrics else "="
