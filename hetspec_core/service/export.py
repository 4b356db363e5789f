"""Runs and results as files for other programs: CSV, JSON, Markdown, and files of one JSON line per result."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic_core import to_json

from hetspec_core import files
from hetspec_core.errors import ResourceError, UsageError
from hetspec_core.files import explain, write_atomic
from hetspec_core.service.report import RunReport, RunSummary

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

Form = Literal["csv", "json", "markdown"]
FORMS: dict[str, Form] = {".csv": "csv", ".json": "json", ".md": "markdown", ".markdown": "markdown"}
"""Suffix of a file name -> format."""

Number = Callable[[float | None], str]


def form_of(path: Path) -> Form:
    """The format of a file, by the suffix of its name.

    Raises:
        UsageError: the suffix is not known.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"{path.name!r} does not say what to write", hint=f"let it end in one of {', '.join(sorted(FORMS))}"
        )
    return form


def runs_text(runs: Sequence[RunSummary], figures: Sequence[Mapping[str, float]], form: Form, number: Number) -> str:
    """Runs with all their figures.

    Args:
        runs: one line each.
        figures: of each run, name -> value.
        form: the format.
        number: writes a figure of a Markdown table.
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
    """Indented JSON; nan and infinities are null."""
    return to_json(value, inf_nan_mode="null", indent=2).decode() + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows under their columns; a value that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_text(head: Sequence[str], rows: Sequence[Sequence[Any]], *, right_from: int = 1) -> str:
    """A table in the Markdown of GitHub; columns from `right_from` on are aligned right."""
    lines = [list(head), ["---"] * right_from + ["---:"] * (len(head) - right_from), *rows]
    cells = [[_cell(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _flat(run: RunSummary) -> dict[str, Any]:
    error = f"{run.error['kind']}: {run.error['message']}" if run.error else ""
    return run.to_json() | {"parents": " ".join(run.parents), "tags": " ".join(run.tags), "error": error}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)


def result_line(report: RunReport) -> dict[str, Any]:
    """A finished run in one record: its identity, its end, and its results."""
    run = report.summary
    return {
        "run_id": run.run_id,
        "name": run.name,
        "stage": run.stage,
        "recipe": run.recipe,
        "spec_hash": run.spec_hash,
        "ended": run.ended,
        "results": report.results,
    }


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one whole JSON line; several processes may append at the same time.

    An unfinished last line of a killed process is ended first, so that it damages no other line.

    Raises:
        ResourceError: the file cannot be written.
    """
    line = to_json(record, inf_nan_mode="null", fallback=str)
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        access = os.O_RDWR if path.is_file() or not path.exists() else os.O_WRONLY
        handle = os.open(path, access | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # another process may be in the middle of its line
            files.append_line(handle, line)
            if stat.S_ISREG(os.fstat(handle).st_mode):  # a pipe or a terminal (--out /dev/stdout) cannot be synced
                os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        doing = f"the result was not appended to {path}"
        explained = explain(error, doing=doing)
        if not isinstance(explained, ResourceError):
            explained = ResourceError(f"{doing}: {error.strerror}", hint="name a file that can be written")
        raise explained from error


def save_export(workbench: Workbench, name: str, suffix: str, text: str) -> Path:
    """Write a text to a new file, and give its path.

    Args:
        workbench: gives the data folder.
        name: of what is exported; characters that a file name should not have are replaced.
        suffix: such as ".csv".
        text: the content.

    Raises:
        HetSpecError: it cannot be written.
    """
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "export"
    folder = workbench.roots.data / "exports"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = folder / f"{stem[:80]}-{stamp}{suffix}"
    count = 1
    while path.exists():
        count += 1
        path = folder / f"{stem[:80]}-{stamp}-{count}{suffix}"
    try:
        write_atomic(path, text)
    except OSError as error:
        explained = explain(error, doing=f"{path} was not written")
        raise explained or ResourceError(f"{path} was not written: {error.strerror or error}") from error
    return path
