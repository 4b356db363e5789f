"""Runs as files for other programs: CSV, JSON, Markdown. How figures are written for people the caller says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from hetspec_core.errors import UsageError
from hetspec_core.files import write_output
from hetspec_core.service.report import RunSummary

Form = Literal["csv", "json", "markdown"]
FORMS: dict[str, Form] = {".csv": "csv", ".json": "json", ".md": "markdown", ".markdown": "markdown"}
"""Ending of a file name -> what is written into it."""

Number = Callable[[float | None], str]


def form_of(path: Path) -> Form:
    """What to write into a file, by its name.

    Raises:
        UsageError: the name does not say.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"{path.name!r} does not say what to write", hint=f"let it end in one of {', '.join(sorted(FORMS))}"
        )
    return form


def runs_text(runs: Sequence[RunSummary], figures: Sequence[Mapping[str, float]], form: Form, number: Number) -> str:
    """Runs with everything they measured.

    Args:
        runs: one line each.
        figures: of each run, name -> value.
        form: how it is written.
        number: how a figure is written in a Markdown table.
    """
    if form == "json":
        return json_text([run.to_json() | {"figures": dict(one)} for run, one in zip(runs, figures, strict=True)])
    names = sorted({name for one in figures for name in one})
    if form == "csv":
        rows = [_flat(run) | dict(one) for run, one in zip(runs, figures, strict=True)]
        return csv_text(rows, [column.name for column in fields(RunSummary)] + names)
    lines: list[list[Any]] = []
    for run, one in zip(runs, figures, strict=True):
        lines.append([run.run_id, run.name, run.stage, run.state, run.base, *(number(one.get(name)) for name in names)])
    return markdown_text(["run", "name", "stage", "state", "base", *names], lines, right_from=5)


def json_text(value: Any) -> str:
    """JSON to read; nan and infinities, which JSON has not, as null."""
    from pydantic_core import to_json

    return to_json(value, inf_nan_mode="null", indent=2).decode() + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows under their columns; what a row does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_text(head: Sequence[str], rows: Sequence[Sequence[Any]], *, right_from: int = 1) -> str:
    """A table as GitHub reads it; columns from `right_from` on are numbers."""
    lines = [list(head), ["---"] * right_from + ["---:"] * (len(head) - right_from), *rows]
    cells = [[_cell(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def write_text(path: Path, text: str) -> None:
    """Write a file for the user, as `files.write_output`: links and devices are written through, never replaced.

    Raises:
        HetSpecError: it cannot be written; the sentence says why.
    """
    write_output(path, text)


def _flat(run: RunSummary) -> dict[str, Any]:
    error = f"{run.error['kind']}: {run.error['message']}" if run.error else ""
    return run.to_json() | {"parents": " ".join(run.parents), "tags": " ".join(run.tags), "error": error}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
