"""The family of a run as the lines of a tree: its ancestors above it, its descendants below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetspec_tui.formatting import STATE_SIGNS
from hetspec_tui.picker import Choice

if TYPE_CHECKING:
    from hetspec_core.service.library import Relative


def family(up: Relative, down: Relative) -> list[Choice]:
    """The lines from the farthest ancestor to the farthest descendant; the run itself has the sign ◆.

    Keys are run ids; the second occurrence of one is `ID#2`, and that of a run that was deleted begins with a !.
    """
    lines: list[tuple[str, str, Relative]] = []
    _ancestors(up.relatives, 0, lines)
    lines.append(("", "◆ ", up))
    _descendants(down.relatives, "", lines)
    counts: dict[str, int] = {}
    choices: list[Choice] = []
    for indent, sign, one in lines:
        counts[one.run_id] = counts.get(one.run_id, 0) + 1
        nth = counts[one.run_id]
        key = one.run_id if nth == 1 else f"{one.run_id}#{nth}"
        key = key if one.summary else f"!{key}"
        name = (one.summary.name if one.summary else "") or one.run_id
        choices.append(Choice(key, f"{indent}{sign}{name}", _about(one)))
    return choices


def _ancestors(relatives: tuple[Relative, ...], depth: int, lines: list[tuple[str, str, Relative]]) -> None:
    for one in relatives:
        _ancestors(one.relatives, depth + 1, lines)
        lines.append(("  " * depth, "▲ ", one))


def _descendants(relatives: tuple[Relative, ...], indent: str, lines: list[tuple[str, str, Relative]]) -> None:
    for number, one in enumerate(relatives):
        last = number == len(relatives) - 1
        lines.append((indent, "└─ " if last else "├─ ", one))
        _descendants(one.relatives, indent + ("   " if last else "│  "), lines)


def _about(one: Relative) -> str:
    run = one.summary
    if run is None:
        return "not here any more"
    about = f"{run.stage} {STATE_SIGNS.get(run.state, '')} {run.state}"
    return f"{about}  {run.run_id}" if run.name else about
