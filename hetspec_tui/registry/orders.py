"""What people order for several runs at once, and how it went with each. It is called in the desk's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hetspec_core.errors import HetSpecError, UsageError

if TYPE_CHECKING:
    from hetspec_core.service import Workbench

KILL_WAIT_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """How an order went.

    Attributes:
        done: the runs that it was done to.
        refused: run id -> why not.
        notes: what there is to say besides.
    """

    done: tuple[str, ...]
    refused: dict[str, str]
    notes: tuple[str, ...] = ()

    def say(self, done: str) -> str:
        """In a few lines: how many are `done`, and which are not, with the reasons."""
        lines = []
        if self.done:
            lines.append(f"{self.done[0] if len(self.done) == 1 else f'{len(self.done)} runs'} {done}")
        lines += self.notes
        lines += [reason for reason in dict.fromkeys(self.refused.values())][:5]
        if len(self.refused) > 5:
            lines.append(f"and {len(self.refused) - 5} more were refused")
        return "\n".join(lines)


def to_each(run_ids: Sequence[str], order: Callable[[Workbench, str], str | None]) -> Callable[[Workbench], Outcome]:
    """An order for each of some runs; one that is refused does not keep the others from theirs.

    Args:
        run_ids: which.
        order: does it to one; may give a word to say about it.
    """

    def carry_out(workbench: Workbench) -> Outcome:
        done: list[str] = []
        refused: dict[str, str] = {}
        notes: list[str] = []
        for run_id in run_ids:
            try:
                note = order(workbench, run_id)
            except HetSpecError as error:
                refused[run_id] = f"{error.message}{'; ' + error.hint if error.hint else ''}"
                continue
            done.append(run_id)
            if note:
                notes.append(note)
        return Outcome(tuple(done), refused, tuple(notes[:5]))

    return carry_out


def kill(workbench: Workbench, run_id: str) -> str | None:
    """End the processes of a run now, and look whether they are gone."""
    workbench.cancel(run_id, force=True)
    state = workbench.wait(run_id, timeout_s=KILL_WAIT_S)
    return f"{run_id} is still {state}" if state in ("starting", "running") else None


def cancel(workbench: Workbench, run_id: str) -> str | None:
    """Ask a run to stop at its next safe point."""
    workbench.cancel(run_id)
    return None


def resume(workbench: Workbench, run_id: str) -> str | None:
    """Let a run go on from what is on disk."""
    workbench.resume(run_id)
    return None


def retry(workbench: Workbench, run_id: str) -> str | None:
    """Begin a run anew, as a new run."""
    from hetspec_core.service import Library

    new = Library(workbench).retry(run_id)
    workbench.start(new)
    return f"as {new}"


def discard(workbench: Workbench, run_id: str) -> str | None:
    """Move a run into the trash."""
    from hetspec_core.service import Library

    Library(workbench).discard(run_id)
    return None


def tags_of(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tags to put on and to take off: `a b`, `+a -b`.

    Raises:
        UsageError: a word is no tag, or is put on and taken off at once.
    """
    added: list[str] = []
    removed: list[str] = []
    for word in text.split():
        name = word[1:] if word[0] in "+-" else word
        if not name or "," in name or not name.isprintable():
            raise UsageError(f"{word!r} is no tag", hint="tags are words without commas: good, +good, -draft")
        (removed if word[0] == "-" else added).append(name)
    if both := sorted(set(added) & set(removed)):
        raise UsageError(f"tag {both[0]!r} cannot be put on and taken off at once")
    return tuple(dict.fromkeys(added)), tuple(dict.fromkeys(removed))
