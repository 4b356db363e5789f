"""Where traces lie and how one is meant by a word: a file, a name among the recorded ones, or `shipped:NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.errors import HetSpecError, NotFoundError
from hetspec_core.events.trace import SUFFIX, Trace, read_trace
from hetspec_core.paths import roots
from hetspec_core.service.chat.answer import Answer

SHIPPED = "shipped:"
_FOLDER = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class TraceSummary:
    """One trace in a list.

    Attributes:
        word: what finds it again.
        accept_length: None when each step was cut to one token, or there is no step.
        error: why it cannot be read; empty when it can.
    """

    word: str
    path: Path
    name: str = ""
    created: float = 0.0
    base: str = ""
    label: str = ""
    steps: int = 0
    tokens: int = 0
    accept_length: float | None = None
    every_position: bool = False
    complete: bool = False
    error: str = ""

    @classmethod
    def of(cls, word: str, path: Path) -> TraceSummary:
        """The summary of a file, whatever is in it."""
        try:
            trace = read_trace(path)
        except HetSpecError as error:
            return cls(word, path, error=error.message)
        answer, header = Answer.of(trace), trace.header
        return cls(
            word=word,
            path=path,
            name=header.name,
            created=header.created,
            base=header.base.name if header.base else "",
            label=header.settings.label,
            steps=len(answer.steps),
            tokens=len(answer.tokens),
            accept_length=answer.stats.accept_length,
            every_position=header.every_position,
            complete=answer.end is not None,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**vars(self), "path": str(self.path)}


def list_traces() -> list[TraceSummary]:
    """The shipped traces, then those recorded, newest first."""
    shipped = [TraceSummary.of(SHIPPED + path.stem, path) for path in sorted(_FOLDER.glob(f"*{SUFFIX}"))]
    folder = roots().traces
    own = [TraceSummary.of(path.stem, path) for path in folder.glob(f"*{SUFFIX}")] if folder.is_dir() else []
    return shipped + sorted(own, key=lambda one: (-one.created, one.word))


def find_trace(word: str) -> Path:
    """The file of the trace that is meant.

    Args:
        word: a file, `shipped:NAME`, or a name (or the beginning of exactly one) among the recorded ones.

    Raises:
        NotFoundError: there is none, or more than one.
    """
    hint = "`hetspec-core trace list` shows those there are"
    if word.startswith(SHIPPED):
        path = _FOLDER / f"{word.removeprefix(SHIPPED)}{SUFFIX}"
        if path.parent == _FOLDER and path.is_file():
            return path
        names = ", ".join(SHIPPED + path.stem for path in sorted(_FOLDER.glob(f"*{SUFFIX}")))
        raise NotFoundError(f"there is no trace {word}; shipped are: {names}", hint=hint)
    path = Path(word).expanduser()
    if path.is_file():
        return path
    folder = roots().traces
    names = sorted(path.stem for path in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    found = [word] if word in names else [name for name in names if word and name.startswith(word)]
    if len(found) != 1:
        several = f"{len(found)} begin like that" if found else "no file and no recorded one is called that"
        raise NotFoundError(f"there is no one trace {word!r}: {several}", hint=hint)
    return folder / f"{found[0]}{SUFFIX}"


def load_trace(word: str) -> Trace:
    """The trace that is meant, as `find_trace`.

    Raises:
        NotFoundError: there is none.
        CorruptFileError: it cannot be read.
    """
    return read_trace(find_trace(word))


def trace_folder() -> Path:
    """Where answers are recorded unless another folder is given."""
    return roots().traces
