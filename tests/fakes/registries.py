"""Run folders written by hand, the registry over them, and its whole content for a comparison."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from hetspec_core.events import Event, Journal, Metric, RunStarted, Submitted
from hetspec_core.paths import RunPaths
from hetspec_core.runs import Registry
from hetspec_core.spec.run import to_toml
from tests.fakes.specs import small_spec


def make_run(home: Path, run_id: str, name: str = "some") -> RunPaths:
    paths = RunPaths(home / "runs" / run_id)
    paths.folder.mkdir(parents=True)
    paths.spec.write_text(to_toml(small_spec(name)))
    say(paths.desk, Submitted(time=100.0))
    return paths


def say(path: Path, *events: Event) -> None:
    with Journal(path, "worker-0") as journal:
        for event in events:
            journal.write(event)


def deny_writes(folder: Path) -> None:
    """Take the right to write into a folder from everyone, by its owner, which may be root under another name."""
    is_root = os.geteuid() == 65534
    if is_root:
        os.seteuid(0)
    try:
        folder.chmod(0o555)
    finally:
        if is_root:
            os.seteuid(65534)


def open_registry(home: Path) -> Registry:
    return Registry(home / "registry.db", home / "runs")


TABLES = {  # every column but the numbers that stand for a run's name and are drawn anew
    "runs": "*",
    "metrics": "*",
    "results": "*",
    "settings JOIN setting_keys USING (key_id) JOIN texts USING (text_id)": "run_id, setting_keys.name, value",
    "series": "run_id, name, last_step, last_value, last_tokens, last_wall_s",
    "texts": "run_id, name, note, tags, config",
}


def dump(home: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(home / "registry.db")
    try:
        return {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
            for table, columns in TABLES.items()
        }
    finally:
        connection.close()


def metric(step: int, **values: float) -> Metric:
    return Metric(time=200.0 + step, step=step, values=dict(values), tokens=step * 10, wall_s=step / 2)


STARTED = RunStarted(time=110.0, stage="train", pid=1, host="nowhere.example", birth="b")
