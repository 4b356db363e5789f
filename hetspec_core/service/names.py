"""Words for runs: what a run may be called and labelled, and which run, hidden states or draft a user means by a word.

Names, tags and notes stand in lists, tables and journals, so each has a limit. A longer one of an earlier version is
shown as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.events import Marked, RunState
from hetspec_core.paths import RunPaths
from hetspec_core.runs import RunName, RunRow

LONGEST_NAME = 200
LONGEST_TAG = 64
LONGEST_NOTE = 10_000
_SHOWN = 40

InputKind = Literal["hidden_states", "draft"]
_MARK: dict[InputKind, str] = {"hidden_states": "manifest.json", "draft": "config.json"}
_EAGLE_SUFFIX = ".ckpt"  # EAGLE's offline training data, one file per conversation
_STAGE: dict[InputKind, str] = {"hidden_states": "dataset", "draft": "train"}
_MAKER: dict[InputKind, str] = {"hidden_states": "`hetspec-core dataset generate`", "draft": "`hetspec-core train`"}


def check_name(name: str) -> None:
    """Refuse a name that lists cannot show.

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


def find_run(word: str, rows: Sequence[RunName], *, stage: str | None = None) -> str:
    """The id of the run that a word means.

    Args:
        word: a run id, the beginning of exactly one, or the name of exactly one run.
        rows: ids and names of all runs.
        stage: only names of runs of this stage count.

    Raises:
        NotFoundError: the word means no run, or several.
    """
    ids = [row.run_id for row in rows]
    if word in ids:
        return word
    named = [row.run_id for row in rows if word and row.name == word and stage in (None, row.stage)]
    begun = [run_id for run_id in ids if word and run_id.startswith(word)]
    for found in (named, begun):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise NotFoundError(f"{word!r} means {len(found)} runs: {shown}", hint="give more of the id")
    raise NotFoundError(f"there is no run {word!r}", hint="`hetspec-core runs list` shows those there are")


def product_folder(folder: Path, kind: InputKind) -> Path | None:
    """The hidden states (of HetSpec, or files of EAGLE) or the draft in `folder`: itself, or a part of a run folder."""
    product = getattr(RunPaths(folder), kind)
    for candidate in (folder, product):
        if (candidate / _MARK[kind]).is_file():
            return candidate.absolute()
    if kind == "hidden_states" and next(folder.rglob(f"*{_EAGLE_SUFFIX}"), None) is not None:
        return folder.absolute()
    return None


def explain_missing(word: str, kind: InputKind, run: tuple[RunRow, RunState] | None) -> NotFoundError:
    """The error for an existing folder (`run` None) or run that has no such product."""
    what = kind.replace("_", " ")
    if run is None:
        return NotFoundError(
            f"{word} holds no {what}: there is no {_MARK[kind]} in it, nor in {word}/{kind}",
            hint=f"{_MAKER[kind]} makes one",
        )
    row, state = run
    if row.stage != _STAGE[kind]:
        return NotFoundError(
            f"run {row.run_id} is of stage {row.stage} and has no {what}", hint=f"{_MAKER[kind]} makes one"
        )
    return NotFoundError(
        f"run {row.run_id} has no {what} yet; it is {state}",
        hint=f"see `hetspec-core runs show {row.run_id}`; `hetspec-core runs resume {row.run_id}` goes on with it",
    )


def find_product(
    word: str,
    kind: InputKind,
    *,
    names: Callable[[], Sequence[RunName]],
    paths: Callable[[str], RunPaths],
    look: Callable[[str], tuple[RunRow, RunState]],
) -> Path:
    """The folder of hidden states or of a draft that a directory or a run holds.

    Args:
        word: a directory, or a run as in `find_run`.
        kind: of the product.
        names: of all runs; asked only where the word is no directory.
        paths, look: of a run.

    Raises:
        NotFoundError: there is no such run or directory, or it holds none.
    """
    folder = Path(word).expanduser().absolute()
    if folder.is_dir():
        # Names and commands to paste show this path, so links keep the name that the user gave.
        product = product_folder(folder.resolve() if ".." in folder.parts else folder, kind)
        if product is None:
            raise explain_missing(word, kind, None)
        return product
    if os.sep in word:
        raise NotFoundError(f"there is no directory {word}")
    try:
        run_id = find_run(word, names(), stage=_STAGE[kind])
    except NotFoundError as error:
        raise NotFoundError(f"{error.message}, and no such directory", hint=error.hint) from None
    product = product_folder(paths(run_id).folder, kind)
    if product is None:
        raise explain_missing(word, kind, look(run_id))
    return product
