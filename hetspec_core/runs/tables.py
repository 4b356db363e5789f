"""What is written into the registry's tables, and what is taken out. It knows rows and SQL, not journals."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hetspec_core.documents import flatten
from hetspec_core.runs.rows import Change, MetricPoint, RunRow, storable_data

TABLES = ("runs", "series", "points", "results", "settings", "setting_keys", "texts")

_RUN_COLUMNS = tuple(column.name for column in fields(RunRow))
_PUT_RUN = (
    f"INSERT OR REPLACE INTO runs ({', '.join(_RUN_COLUMNS)}) VALUES ({', '.join(':' + c for c in _RUN_COLUMNS)})"
)
_PUT_TEXTS = """
INSERT INTO texts (run_id, name, note, tags, config) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (run_id) DO UPDATE SET name = excluded.name, note = excluded.note, tags = excluded.tags,
config = excluded.config
"""
_SET_LAST = """
UPDATE series SET (last_step, last_value, last_tokens, last_wall_s) =
(SELECT step, value, tokens, wall_s FROM points WHERE points.series_id = series.series_id ORDER BY step DESC LIMIT 1)
WHERE series_id = ?
"""


def put_row(connection: sqlite3.Connection, row: RunRow) -> None:
    """Write the row of a run."""
    connection.execute(_PUT_RUN, row.to_columns())


def put_values(connection: sqlite3.Connection, run_id: str, change: Change) -> None:
    """Write the new points and the new results of a run."""
    if change.points:
        _put_points(connection, run_id, change.points)
    connection.executemany(
        "INSERT OR REPLACE INTO results (run_id, kind, time, data) VALUES (?, ?, ?, ?)",
        [(run_id, result.kind, result.time, json.dumps(storable_data(result.data))) for result in change.results],
    )


def put_texts(connection: sqlite3.Connection, row: RunRow, config: str) -> None:
    """Make a run findable by its words; `config` is its spec as JSON."""
    connection.execute(_PUT_TEXTS, (row.run_id, row.name, row.note, "\n".join(row.tags), config))


def put_settings(connection: sqlite3.Connection, run_id: str, config: Mapping[str, Any]) -> None:
    """Make a new run findable by its settings; lists are kept as JSON, and truths as 0 and 1."""
    settings = {key: _plain(value) for key, value in flatten(config).items()}
    connection.executemany(
        "INSERT INTO setting_keys (name) VALUES (?) ON CONFLICT DO NOTHING", [(k,) for k in settings]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO settings (key_id, text_id, value) SELECT key_id, text_id, ? FROM setting_keys, texts "
        "WHERE setting_keys.name = ? AND texts.run_id = ?",
        [(value, key, run_id) for key, value in settings.items()],
    )


def _plain(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, list | Mapping) else value


def put_labels(connection: sqlite3.Connection, row: RunRow) -> None:
    """Make a run findable by its new note and tags."""
    connection.execute(
        "UPDATE texts SET note = ?, tags = ? WHERE run_id = ?", (row.note, "\n".join(row.tags), row.run_id)
    )


def remove_run(connection: sqlite3.Connection, run_id: str) -> None:
    """Take everything of a run out of all tables."""
    connection.execute(
        "DELETE FROM points WHERE series_id IN (SELECT series_id FROM series WHERE run_id = ?)", [run_id]
    )
    connection.execute(
        "DELETE FROM settings WHERE text_id IN (SELECT text_id FROM texts WHERE run_id = ?) "
        "AND key_id IN (SELECT key_id FROM setting_keys)",  # by the key of the table, key by key
        [run_id],
    )
    for table in ("runs", "series", "results", "texts"):
        connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))


def remove_all(connection: sqlite3.Connection) -> None:
    """Empty all tables."""
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")


def _put_points(connection: sqlite3.Connection, run_id: str, points: Sequence[MetricPoint]) -> None:
    names = {point.name for point in points}
    connection.executemany(
        "INSERT INTO series (run_id, name) VALUES (?, ?) ON CONFLICT DO NOTHING", [(run_id, name) for name in names]
    )
    found = connection.execute("SELECT name, series_id FROM series WHERE run_id = ?", (run_id,))
    numbers: dict[str, int] = dict(found.fetchall())
    connection.executemany(
        "INSERT OR REPLACE INTO points (series_id, step, value, tokens, wall_s) VALUES (?, ?, ?, ?, ?)",
        [(numbers[name], step, value, tokens, wall_s) for name, step, value, tokens, wall_s in points],
    )
    connection.executemany(_SET_LAST, [(numbers[name],) for name in names])
