"""The tables of the registry: how they are made, written and emptied, and how a curve is downsampled inside SQLite.

Their content follows from the run folders. So there is one form of them, `VERSION`; a database of another form is not
changed but replaced. The columns of `runs` are the fields of `RunRow`.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from hetspec_core.documents import flatten
from hetspec_core.runs.rows import Change, MetricPoint, RunRow, storable

if TYPE_CHECKING:
    from sqlite_utils import Database

_RUN_COLUMNS = tuple(column.name for column in fields(RunRow))
_RUNS = ", ".join(f"{column.name} NOT NULL" if column.default is not None else column.name for column in fields(RunRow))
_CREATE = f"""
-- form 5: count up when the content of a table changes and its columns do not
CREATE TABLE runs ({_RUNS}, PRIMARY KEY (run_id)) WITHOUT ROWID;
CREATE INDEX runs_created ON runs (archived, created DESC, run_id DESC);
CREATE INDEX runs_scan ON runs (run_id, name, stage, events_offset, desk_offset, quiet_after);
CREATE TABLE results (
    run_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    time REAL NOT NULL,
    data TEXT NOT NULL,               -- JSON
    PRIMARY KEY (run_id, kind)
) WITHOUT ROWID;
CREATE TABLE series (
    series_id INTEGER PRIMARY KEY,    -- stands for run and name in `points`; any number will do
    run_id TEXT NOT NULL,
    name TEXT NOT NULL,
    last_step INTEGER,                -- the newest point, so that lists need not look for it
    last_value REAL,
    last_tokens INTEGER,
    last_wall_s REAL,
    UNIQUE (run_id, name)
);
CREATE INDEX series_name ON series (name, run_id, last_value);
CREATE TABLE points (
    series_id INTEGER NOT NULL,
    step INTEGER NOT NULL,
    value REAL,
    tokens INTEGER,
    wall_s REAL,
    PRIMARY KEY (series_id, step)
) WITHOUT ROWID;
CREATE VIEW metrics AS SELECT run_id, name, step, value, tokens, wall_s FROM points JOIN series USING (series_id);
CREATE TABLE texts (
    text_id INTEGER PRIMARY KEY,      -- the row number that the search index needs
    run_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    note TEXT NOT NULL,
    tags TEXT NOT NULL,               -- one a line
    config TEXT NOT NULL              -- the spec as JSON; an empty object when it cannot be read
);
CREATE TABLE setting_keys (key_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE settings (
    key_id INTEGER NOT NULL,
    text_id INTEGER NOT NULL,         -- of the run, in `texts`
    value,                            -- of whatever type it has
    PRIMARY KEY (key_id, text_id)
) WITHOUT ROWID;
"""
VERSION = zlib.crc32(_CREATE.encode()) & 0x7FFFFFFF
"""The form of the tables, as `PRAGMA user_version`: it follows from the script, so that no change is forgotten."""

_TABLES = ("runs", "series", "points", "results", "settings", "setting_keys", "texts")

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


class OtherVersionError(Exception):
    """The tables have another form than `VERSION`, or were not all made."""

    def __init__(self, version: int) -> None:
        super().__init__(f"tables of version {version}")
        self.version = version


def make_tables(db: Database) -> None:
    """Make the tables in an empty database; those of `VERSION` are left as they are.

    Raises:
        OtherVersionError: the database has other tables.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version or db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise OtherVersionError(version)
    db.conn.executescript(_CREATE)
    db.table("texts").enable_fts(["run_id", "name", "note", "tags", "config"], create_triggers=True)
    db.execute(f"PRAGMA user_version = {VERSION}")  # the last: tables that are not complete have no version


# --- writing ----------------------------------------------------------------------------------------------------------


def put_row(connection: sqlite3.Connection, row: RunRow) -> None:
    """Write the row of a run."""
    connection.execute(_PUT_RUN, row.to_columns())


def put_values(connection: sqlite3.Connection, run_id: str, change: Change) -> None:
    """Write the new points and the new results of a run."""
    if change.points:
        _put_points(connection, run_id, change.points)
    connection.executemany(
        "INSERT OR REPLACE INTO results (run_id, kind, time, data) VALUES (?, ?, ?, ?)",
        [(run_id, result.kind, result.time, json.dumps(storable(result.data))) for result in change.results],
    )


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


def put_texts(connection: sqlite3.Connection, row: RunRow, config: Mapping[str, Any]) -> None:
    """Write what full-text search and filters by a setting read of a run.

    Args:
        connection: the database.
        row: of the run.
        config: its spec as JSON values. Lists become JSON text, and truth values 0 and 1.
    """
    text = json.dumps(config, ensure_ascii=False)
    connection.execute(_PUT_TEXTS, (row.run_id, row.name, row.note, "\n".join(row.tags), text))
    settings = flatten(config)
    connection.executemany(
        "INSERT INTO setting_keys (name) VALUES (?) ON CONFLICT DO NOTHING", [(key,) for key in settings]
    )
    connection.executemany(
        "INSERT OR REPLACE INTO settings (key_id, text_id, value) SELECT key_id, text_id, ? FROM setting_keys, texts "
        "WHERE setting_keys.name = ? AND texts.run_id = ?",
        [(_setting(value), key, row.run_id) for key, value in settings.items()],
    )


def _setting(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) if isinstance(value, list | Mapping) else value


def put_labels(connection: sqlite3.Connection, row: RunRow) -> None:
    """Write the note and the tags of a run for full-text search."""
    connection.execute(
        "UPDATE texts SET note = ?, tags = ? WHERE run_id = ?", (row.note, "\n".join(row.tags), row.run_id)
    )


def remove_run(connection: sqlite3.Connection, run_id: str) -> None:
    """Delete a run from all tables."""
    connection.execute(
        "DELETE FROM points WHERE series_id IN (SELECT series_id FROM series WHERE run_id = ?)", [run_id]
    )
    connection.execute(
        "DELETE FROM settings WHERE text_id IN (SELECT text_id FROM texts WHERE run_id = ?) "
        "AND key_id IN (SELECT key_id FROM setting_keys)",  # the primary key begins with the key: this uses its index
        [run_id],
    )
    for table in ("runs", "series", "results", "texts"):
        connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))


def remove_all(connection: sqlite3.Connection) -> None:
    """Empty all tables."""
    for table in _TABLES:
        connection.execute(f"DELETE FROM {table}")


# --- downsampling -----------------------------------------------------------------------------------------------------

Axis = Literal["step", "tokens", "wall_s"]
AXES: tuple[Axis, ...] = get_args(Axis)

_COLUMNS = "step, value, tokens, wall_s"
_FROM = f"SELECT {_COLUMNS} FROM points WHERE series_id = ? AND step >= ? ORDER BY step LIMIT 1"
_BETWEEN = "WHERE series_id = ? AND step >= ? AND step < ?"
_LAST = f"SELECT {_COLUMNS} FROM points WHERE series_id = ? ORDER BY step DESC LIMIT 1"

Point = tuple[int, float | None, int | None, float | None]
"""step, value, tokens, wall_s."""


def count_points(connection: sqlite3.Connection, series: int) -> int:
    """How many points a series has."""
    return connection.execute("SELECT COUNT(*) FROM points WHERE series_id = ?", (series,)).fetchone()[0]


def downsample(connection: sqlite3.Connection, series: int, most: int, axis: Axis = "step") -> list[Point]:
    """About `most` points of a series: its first and last point, and the lowest and highest value of equal stretches of
    the axis, so that every peak is kept.

    The table is ordered by step, and tokens and seconds grow with the step. So the border of a stretch is found by
    bisection, and each stretch is one range of rows. Where they do not grow the stretches are uneven, and every peak is
    still kept.
    """
    first = connection.execute(_FROM, (series, -(2**62))).fetchone()
    if first is None:
        return []
    last = connection.execute(_LAST, (series,)).fetchone()
    points: dict[int, Point] = {first[0]: first, last[0]: last}
    borders = [*_borders(connection, series, max(1, (most - 2) // 2), axis, first, last), last[0] + 1]
    begin = first[0]
    for end in borders:
        if end > begin:
            for extreme in ("MIN", "MAX"):  # SQLite takes the other columns from the row of the extreme
                sql = f"SELECT step, {extreme}(value), tokens, wall_s FROM points {_BETWEEN}"
                point = connection.execute(sql, (series, begin, end)).fetchone()
                if point[1] is not None:
                    points[point[0]] = point
            begin = end
    return [points[step] for step in sorted(points)]


def _borders(
    connection: sqlite3.Connection, series: int, stretches: int, axis: Axis, first: Point, last: Point
) -> Iterator[int]:
    """The step at which each stretch but the first begins, in order."""
    column = 0 if axis == "step" else AXES.index(axis) + 1
    low, high = first[column], last[column]
    if low is None or high is None:  # not every point has it: use steps
        column, low, high = 0, first[0], last[0]
    for number in range(1, stretches):
        border = low + (high - low) * number / stretches
        yield -int(-border // 1) if column == 0 else _first_at(connection, series, column, border, first[0], last[0])


def _first_at(connection: sqlite3.Connection, series: int, column: int, border: float, low: int, high: int) -> int:
    """The smallest step between two steps whose value on the axis is at least `border`."""
    while low < high:
        middle = (low + high) // 2
        point = connection.execute(_FROM, (series, middle)).fetchone()
        if point[column] is not None and point[column] >= border:
            high = middle
        else:
            low = max(point[0], middle) + 1
    return low
