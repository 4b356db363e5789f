"""The query language for runs, and its translation to SQL.

A query is a list of words, all of which must hold. `FIELD:VALUE` (also `=`, `!=`, `>`, `>=`, `<`, `<=`) asks for a
column, a metric or a setting. Any other word is searched for in names, notes, tags and settings; a word after `!` must
be absent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from hetspec_core.errors import UsageError
from hetspec_core.events.state import AT_WORK, STATES, RunState
from hetspec_core.spec.decode import did_you_mean

_TEXT = {name: name for name in ("name", "recipe", "base", "draft", "algorithm", "note", "task")} | {
    "id": "run_id",
    "error": "error_message",
    "hash": "spec_hash",
}
_NUMBERS = {name: name for name in ("accept_length", "speedup", "step", "tokens", "attempt", "done", "total")} | {
    "progress": "(part - 1 + MIN(done * 1.0 / total, 1.0)) / parts"
}
_DURATIONS = {"age": "{now} - created", "took": "COALESCE(ended, {now}) - started"}
_DATES = {name: name for name in ("created", "started", "ended")}
_FLAGS = {name: name for name in ("starred", "archived")}
_STAGES = ("dataset", "train", "bench", "generate", "serve", "tune")
FIELDS = (*_TEXT, *_NUMBERS, *_DURATIONS, *_DATES, *_FLAGS, "state", "stage", "tag", "text")
"""Names that a query may ask for, besides metrics and settings."""

_WORD = re.compile(r"([A-Za-z_][\w./-]*)(!=|>=|<=|:|=|>|<)(.*)", re.DOTALL)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass
class Where:
    """A condition in SQL and its values; `accepts` decides on the state that a run has now."""

    sql: list[str] = field(default_factory=list)
    values: list[object] = field(default_factory=list)
    states: list[Callable[[RunState], bool]] = field(default_factory=list)
    waiting: tuple[str, ...] = ()

    def add(self, sql: str, *values: object) -> None:
        """One more condition that must hold."""
        self.sql.append(sql)
        self.values.extend(values)

    def accepts(self, state: RunState) -> bool:
        """Whether a run that is in this state now is asked for."""
        return all(accepts(state) for accepts in self.states)


class Names:
    """Names that a query may use besides `FIELDS`: the metrics and settings of a registry.

    Args:
        metrics: gives the names of all metrics.
        settings: gives the dotted keys of the settings of all runs.
    """

    def __init__(self, metrics: Callable[[], Collection[str]], settings: Callable[[], Collection[str]]) -> None:
        self.metrics = metrics
        self.settings = settings

    def value(self, name: str) -> tuple[str, list[object]]:
        """SQL for the value under a name: the newest value of a metric, or a setting.

        Raises:
            UsageError: nothing has that name.
        """
        metrics = self.metrics()
        if name in metrics:
            return "(SELECT last_value FROM series WHERE series.run_id = runs.run_id AND series.name = ?)", [name]
        settings = self.settings()
        if name in settings:
            return (
                "(SELECT value FROM settings WHERE key_id = (SELECT key_id FROM setting_keys WHERE name = ?) "
                "AND text_id = (SELECT text_id FROM texts WHERE texts.run_id = runs.run_id))",
                [name],
            )
        raise UsageError(
            f"no field, metric or setting is called {name!r}{did_you_mean(name, [*FIELDS, *metrics, *settings])}",
            hint=f"fields are {', '.join(FIELDS)}; to look for these words as they are, write text:WORDS",
        )


def parse_query(words: Sequence[str], names: Names, *, archived: bool = False, waiting: Collection[str] = ()) -> Where:
    """Translate a query.

    Args:
        words: what must hold.
        names: of metrics and settings.
        archived: whether archived runs count too; a word about `archived` decides that itself.
        waiting: ids of runs that are queued, whatever their journals say.

    Raises:
        UsageError: a word cannot be understood.
    """
    where = Where(waiting=tuple(waiting))
    asked: set[str] = set()
    texts: list[str] = []
    for word in words:
        found = _WORD.fullmatch(word.strip())
        if found is None:
            texts.append(word)
            continue
        name, sign, value = found[1], found[2], found[3].strip()
        value = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        asked.add(name)
        if not value:
            raise UsageError(f"{word!r} has no value", hint=f"for example {name}{sign}1")
        if name == "text":
            texts.append(value)
        else:
            _add(where, name, sign, value, names)
    matching = "(SELECT run_id FROM texts WHERE text_id IN (SELECT rowid FROM texts_fts WHERE texts_fts MATCH ?))"
    texts = [text for text in texts if re.search(r"\w", text)]
    if phrases := [_phrase(text) for text in texts if not text.startswith("!")]:
        where.add(f"run_id IN {matching}", " AND ".join(phrases))
    for text in texts:
        if text.startswith("!"):
            where.add(f"run_id NOT IN {matching}", _phrase(text[1:]))
    if not archived and "archived" not in asked:
        where.add("archived = 0")
    return where


def parse_order(key: str, names: Names) -> tuple[str, list[object]]:
    """SQL for the order that `KEY`, `KEY:asc` or `KEY:desc` asks for. By default texts ascend, and all else descends.

    Raises:
        UsageError: nothing has that name.
    """
    name, _, direction = key.partition(":")
    if name == "created" and direction in ("", "desc"):  # the usual order, for which there is an index
        return "created DESC, run_id DESC", []
    if direction not in ("", "asc", "desc"):
        raise UsageError(f"--sort {key}: the order is asc or desc{did_you_mean(direction, ('asc', 'desc'))}")
    values: list[object] = []
    if name in ("state", "stage"):
        sql = name
    elif name in _TEXT:
        sql = f"lower({_TEXT[name]})"
    elif (column := _column(name)) is not None:
        sql = column
    else:
        sql, values = names.value(name)
    upwards = direction == "asc" or (not direction and (name in _TEXT or name in ("state", "stage")))
    return f"{sql} {'ASC' if upwards else 'DESC'} NULLS LAST, created DESC, run_id DESC", values


def _column(name: str) -> str | None:
    sql = (_NUMBERS | _DURATIONS | _DATES | _FLAGS).get(name)
    return None if sql is None else sql.replace("{now}", repr(time.time()))


def _add(where: Where, name: str, sign: str, value: str, names: Names) -> None:
    if name in ("state", "stage", "tag"):
        _add_choice(where, name, sign, value)
    elif name in _TEXT:
        _add_text(where, _TEXT[name], sign, value)
    elif name in _FLAGS:
        where.add(f"{_FLAGS[name]} {_equal(name, sign)} ?", int(_truth(name, value)))
    elif (column := _column(name)) is not None:
        where.add(f"({column}) {_compare(sign)} ?", _amount(name, value))
    else:
        sql, values = names.value(name)
        number = _number(value)
        if number is not None:
            where.add(f"{sql} {_compare(sign)} ?", *values, number)
        elif value in ("true", "false"):
            where.add(f"{sql} {_equal(name, sign)} ?", *values, int(value == "true"))
        elif sign == ":":
            where.add(f"instr(lower({sql}), lower(?)) > 0", *values, value)
        else:
            where.add(f"{sql} {_equal(name, sign)} ?", *values, value)


def _add_choice(where: Where, name: str, sign: str, value: str) -> None:
    wanted = [part.strip() for part in value.split(",")]
    negative = _equal(name, sign) == "IS NOT"
    if name == "tag":
        for tags in [[tag] for tag in wanted] if negative else [wanted]:
            marks = ", ".join("?" * len(tags))
            has = f"EXISTS (SELECT 1 FROM json_each(runs.tags) WHERE json_each.value IN ({marks}))"
            where.add(f"NOT {has}" if negative else has, *tags)
        return
    allowed: Sequence[str] = STATES if name == "state" else _STAGES
    for one in wanted:
        if one not in allowed:
            raise UsageError(
                f"there is no {name} {one!r}{did_you_mean(one, allowed)}", hint=f"{name}s are {', '.join(allowed)}"
            )
    chosen = [one for one in allowed if (one in wanted) != negative]
    if name == "state":
        accepted = frozenset(chosen)
        where.states.append(lambda state: state in accepted)
        if set(chosen) & {"lost", "cancelled"}:  # what a run at work, as its journal says, may really be
            chosen = [*chosen, *sorted(AT_WORK)]
        if "queued" in chosen and where.waiting:
            marks = ", ".join("?" * len(where.waiting))
            where.add(f"(state IN ({', '.join('?' * len(chosen))}) OR run_id IN ({marks}))", *chosen, *where.waiting)
            return
    where.add(f"{name} IN ({', '.join('?' * len(chosen))})", *chosen)


def _add_text(where: Where, column: str, sign: str, value: str) -> None:
    wanted = [part.strip() for part in value.split(",")] if sign != "=" else [value]
    if sign == ":":
        where.add("(" + " OR ".join([f"instr(lower({column}), lower(?)) > 0"] * len(wanted)) + ")", *wanted)
    elif _equal(column, sign) == "IS":
        where.add(f"{column} = ?", value)
    else:
        where.add(f"{column} NOT IN ({', '.join('?' * len(wanted))})", *wanted)


def _compare(sign: str) -> str:
    return {":": "=", "=": "=", "!=": "IS NOT"}.get(sign, sign)


def _equal(name: str, sign: str) -> str:
    if sign in (":", "="):
        return "IS"
    if sign == "!=":
        return "IS NOT"
    raise UsageError(f"{name} has no order, so {sign} says nothing", hint=f"use {name}:VALUE or {name}!=VALUE")


def _truth(name: str, value: str) -> bool:
    known = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if value.lower() not in known:
        raise UsageError(f"{name} is yes or no, not {value!r}")
    return known[value.lower()]


def _number(value: str) -> float | None:
    try:
        return float(value[:-1]) / 100 if value.endswith("%") else float(value)
    except ValueError:
        return None


def _amount(name: str, value: str) -> float:
    """A number; of a duration with its unit, of a moment as a date."""
    if name in _DATES:
        try:
            return time.mktime(time.strptime(value, "%Y-%m-%d" if len(value) == 10 else "%Y-%m-%dT%H:%M"))
        except (ValueError, OverflowError):
            raise UsageError(
                f"{name} is a day or a minute, like 2026-11-23 or 2026-11-23T21:30, not {value!r}",
                hint="by age it is age<2d",
            ) from None
    unit = _UNITS.get(value[-1]) if name in _DURATIONS else None
    number = _number(value[:-1] if unit else value)
    if number is None:
        example = "3h (units are s, m, h, d, w)" if name in _DURATIONS else "2.5"
        raise UsageError(f"{name} is a number like {example}, not {value!r}")
    return number * (unit or 1)


def _phrase(text: str) -> str:
    """An FTS5 phrase: the words in this order; the last one may be a prefix."""
    quoted = text.replace('"', '""').replace("\0", " ")  # SQLite ends a query at a zero byte
    return f'"{quoted}" *'
