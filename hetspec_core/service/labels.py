"""What a run may be called and labelled: lengths and characters of names, tags and notes. It knows texts, no runs.

Lists, tables and journals repeat these texts, so each is refused beyond a limit. One that an earlier version has taken
is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from hetspec_core.errors import UsageError
from hetspec_core.events import Marked

LONGEST_NAME = 200
LONGEST_TAG = 64
LONGEST_NOTE = 10_000
_SHOWN = 40


def check_name(name: str) -> None:
    """Refuse a name of a run that no list can show.

    Raises:
        UsageError: it has more than 200 characters, a line break or another control character, or is not UTF-8.
    """
    _check_text("the name of the run", name, LONGEST_NAME, hint="give a shorter one with --name")
    if found := next((letter for letter in name if not letter.isprintable() and letter != "\u00a0"), None):
        what = "a line break" if found in "\n\r\x0b\x0c\x85\u2028\u2029" else f"the character U+{ord(found):04X}"
        raise UsageError(
            f"the name of the run has {what}; a name is printable text on one line", hint="give another one with --name"
        )


def check_labels(event: Marked) -> None:
    """Refuse tags and notes that are too long.

    Raises:
        UsageError: a tag has more than 64 characters, the note more than 10,000, or one is not UTF-8.
    """
    for tag in event.add_tags:
        _check_text("a tag", tag, LONGEST_TAG, hint="use a note for longer texts: hetspec-core runs note RUN TEXT")
    if event.note is not None:
        _check_text("the note", event.note, LONGEST_NOTE, hint="keep a longer text in a file of the run folder")


def _check_text(what: str, text: str, longest: int, *, hint: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{what} is not UTF-8 text: character {error.start + 1} cannot be written",
            hint="check the terminal's locale",
        ) from None
    if len(text) > longest:
        raise UsageError(
            f"{what} has {len(text):,} characters ({text[:_SHOWN].splitlines()[0]!r}...); {longest:,} are allowed",
            hint=hint,
        )


def tags_of(words: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tags to add and tags to remove: `a` and `+a` add, `-a` removes.

    Raises:
        UsageError: a word is no tag, or is added and removed at once.
    """
    added: list[str] = []
    removed: list[str] = []
    for word in words:
        name = word[1:].strip() if word[:1] in ("+", "-") else word.strip()
        if not name or "," in name or not name.isprintable():
            raise UsageError(f"{word!r} is no tag", hint="tags are words without commas: good, +good, -draft")
        (removed if word[0] == "-" else added).append(name)
    if both := sorted(set(added) & set(removed)):
        raise UsageError(f"tag {both[0]!r} cannot be put on and taken off at once")
    return tuple(dict.fromkeys(added)), tuple(dict.fromkeys(removed))
