"""Several runs side by side as rows of a table: results with the best of each, settings that differ, what changed.

No widgets; it asks nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hetspec_tui.formatting import ago, count, duration, number
from hetspec_tui.run_list.runs_table import state_cell, took_s
from hetspec_tui.widgets.cells import Cell, Row

if TYPE_CHECKING:
    from hetspec_core.service import RunComparison, RunSummary

_MORE = ("per_s", "accept", "speedup", "top1", "top5", "acc", "tokens_per_step")
_LESS = ("loss", "perplexity", "ppl", "_ms", "_s", "seconds", "bytes", "latency", "memory", "error")
_HEADLINES = ("accept_length", "speedup", "decode_tokens_per_s", "loss", "top1", "tokens_per_s")
_UNSAID = ("name", "parents")


def direction(name: str) -> int:
    """1 when more of a figure is better, -1 when less is, 0 when its name does not tell."""
    last = name.replace("/", ".").rsplit(".", 1)[-1].lower()
    if any(part in last for part in _MORE):
        return 1
    return -1 if any(last.endswith(part) or part in last.split("_") for part in _LESS) else 0


def best(name: str, values: Sequence[float | None]) -> set[int]:
    """Places of the best values; none when it cannot be said, or when all are the same."""
    way = direction(name)
    known = {place: value for place, value in enumerate(values) if value is not None and math.isfinite(value)}
    if not way or len(known) < 2 or len(set(known.values())) == 1:
        return set()
    top = max(way * value for value in known.values())
    return {place for place, value in known.items() if way * value == top}


def rows_of(found: RunComparison, now: float, *, changed_only: bool = False) -> list[Row]:
    """The rows of a comparison.

    Args:
        found: the runs.
        now: unix seconds.
        changed_only: leave out what is the same in all.
    """
    two = len(found.runs) == 2
    rows = [_heading("results", "What they came to", len(found.runs), two)]
    for name in sorted(found.results, key=_rank):
        values = found.results[name]
        if not changed_only or any(value != values[0] for value in values):
            rows.append(_result(name, values, two))
    if len(rows) == 1:
        rows.append(_words("no-results", "no figures yet" if not changed_only else "no figure differs"))
    rows.append(_heading("settings", "Settings that differ", len(found.runs), two))
    differing = {key: values for key, values in found.settings.items() if key not in _UNSAID}
    rows += [_setting(key, values, two) for key, values in differing.items()]
    if not differing:
        rows.append(_words("no-settings", "none: they were asked to do the same"))
    if not changed_only:
        rows.append(_heading("runs", "The runs", len(found.runs), two))
        rows += _facts(found.runs, now)
    return rows


def change(before: Any, after: Any) -> Cell:
    """What became of a value."""
    if before == after:
        return Cell("=", "muted")
    if before is None:
        return Cell("new", "accent")
    if after is None:
        return Cell("gone", "accent")
    if _is_number(before) and _is_number(after):
        by = after - before
        share = f" ({by / abs(before):+.1%})" if before and math.isfinite(by / abs(before)) else ""
        return Cell(f"{'+' if by >= 0 else '-'}{number(abs(by), 3)}{share}")
    return Cell("changed", "accent")


def value_text(value: Any) -> str:
    """A setting or a figure in a cell."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return number(value) if _is_number(value) else json.dumps(value, default=str)


def table_of(found: RunComparison) -> tuple[list[str], list[list[Any]]]:
    """Heading and lines for a file: results, then settings that differ."""
    head = ["", *(run.run_id for run in found.runs)]
    lines: list[list[Any]] = [
        ["name", *(run.name for run in found.runs)],
        ["state", *(run.state for run in found.runs)],
    ]
    lines += [[name, *found.results[name]] for name in sorted(found.results, key=_rank)]
    lines += [[key, *values] for key, values in found.settings.items() if key not in _UNSAID]
    return head, lines


def _rank(name: str) -> tuple[int, str]:
    last = name.replace("/", ".").rsplit(".", 1)[-1]
    return (_HEADLINES.index(last) if last in _HEADLINES else len(_HEADLINES), name)


def _result(name: str, values: Sequence[float | None], two: bool) -> Row:
    tops = best(name, values)
    arrow = {1: " ↑", -1: " ↓"}.get(direction(name), "")
    cells = [Cell(f"{name}{arrow}")]
    cells += [
        Cell(f"★ {number(value)}" if place in tops else number(value), "success" if place in tops else "")
        for place, value in enumerate(values)
    ]
    if two:
        turned = change(values[0], values[1])
        good = bool(tops) and turned.tone == ""
        cells.append(Cell(turned.text, ("success" if tops == {1} else "warning") if good else turned.tone))
    return Row(f"result:{name}", tuple(cells))


def _setting(key: str, values: Sequence[Any], two: bool) -> Row:
    cells = [Cell(key), *(Cell(value_text(value), "muted" if value is None else "") for value in values)]
    return Row(f"setting:{key}", tuple([*cells, change(values[0], values[1])] if two else cells))


def _facts(runs: Sequence[RunSummary], now: float) -> list[Row]:
    def row(name: str, cells: Sequence[Cell]) -> Row:
        return Row(f"run:{name}", (Cell(name), *cells))

    return [
        row("run", [Cell(run.run_id, "muted") for run in runs]),
        row("state", [state_cell(run.state) for run in runs]),
        row("stage", [Cell(run.stage) for run in runs]),
        row("base", [Cell(run.base) for run in runs]),
        row("draft", [Cell(run.draft or "-") for run in runs]),
        row("algorithm", [Cell(run.algorithm) for run in runs]),
        row("step", [Cell("-" if run.step is None else f"{run.step:,}") for run in runs]),
        row("tokens", [Cell("-" if run.tokens is None else count(run.tokens)) for run in runs]),
        row("took", [Cell(duration(took_s(run))) for run in runs]),
        row("age", [Cell(ago(max(0.0, now - run.created))) for run in runs]),
        row("tags", [Cell(" ".join(run.tags), "accent") for run in runs]),
        row("note", [Cell(run.note) for run in runs]),
    ]


def _heading(key: str, title: str, runs: int, two: bool) -> Row:
    change_title = [Cell("change", "muted")] if two and key != "runs" else []
    return Row(f"head:{key}", (Cell(f"── {title}", "primary"), *(Cell() for _ in range(runs)), *change_title), "muted")


def _words(key: str, words: str) -> Row:
    return Row(key, (Cell(words, "muted"),))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
