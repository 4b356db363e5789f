"""The user's files: settings, keys and themes in TOML, and what the dashboard remembers of its last time.

A fault in one of them never keeps the dashboard from starting: what does not hold is left at its default, and said.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from textual.color import Color, ColorParseError
from textual.theme import Theme

from hetspec_core.service.places import write_atomic

NOTIFY = ("off", "bell", "desktop", "both")
_STATE_VERSION = 1
_THEME_COLOURS = (
    "primary", "secondary", "warning", "error", "success", "accent", "foreground", "background", "surface", "panel",
    "boost",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What `dashboard.toml` may say.

    Attributes:
        theme: name of a theme; empty = the one chosen last, or one that suits the terminal.
        notify: what happens when a run ends: off, bell, desktop (an escape sequence that many terminals show), both.
        notify_after_s: runs that took less are not told of.
        first_page: the page to start with; empty = the one that was open last.
        animations: whether things slide and fade; switch it off on a slow connection.
        screenshots: folder for pictures of the screen; empty = in the data folder.
    """

    theme: str = field(default="", metadata={"allowed": None})
    notify: str = field(default="off", metadata={"allowed": NOTIFY})
    notify_after_s: float = 10.0
    first_page: str = ""
    animations: bool = True
    screenshots: str = ""


@dataclass
class UserFiles:
    """All that was read, and what was wrong with it, a line each."""

    settings: Settings = field(default_factory=Settings)
    keys: dict[str, str] = field(default_factory=dict)
    themes: list[Theme] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_user_files(settings: Path, keys: Path, themes: Path) -> UserFiles:
    """Read what there is; a file that is not there says nothing."""
    found = UserFiles()
    found.settings = read_settings(settings, found.problems)
    found.keys = read_keys(keys, found.problems)
    paths = sorted(themes.glob("*.toml")) if themes.is_dir() else []
    found.themes = [theme for path in paths if (theme := read_theme(path, found.problems)) is not None]
    return found


def read_settings(path: Path, problems: list[str]) -> Settings:
    """The settings; faults are added to `problems`, and their keys stay at their defaults."""
    values: dict[str, Any] = {}
    known = {one.name: one for one in fields(Settings)}
    for key, value in _read(path, problems).items():
        if key not in known:
            problems.append(f"{path}: there is no setting {key!r}{_meant(key, known)}")
            continue
        wanted, allowed = type(known[key].default), known[key].metadata.get("allowed")
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            kind = {str: "a text", float: "a number", bool: "true or false"}[wanted]
            problems.append(f"{path}: {key} is {kind}, not {value!r}")
        elif allowed and value not in allowed:
            problems.append(f"{path}: {key} is one of {', '.join(allowed)}, not {value!r}{_meant(value, allowed)}")
        elif wanted is float and not 0 <= value < 1e9:
            problems.append(f"{path}: {key} is a number of seconds from 0, not {value!r}")
        else:
            values[key] = value
    return Settings(**values)


def read_keys(path: Path, problems: list[str]) -> dict[str, str]:
    """Binding id -> keys, several with commas between; faults are added to `problems`."""
    found: dict[str, str] = {}
    for name, value in _flat(_read(path, problems)).items():
        keys = [value] if isinstance(value, str) else value
        if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key.strip() for key in keys):
            problems.append(f'{path}: {name} is a key such as "ctrl+x", or a list of keys, not {value!r}')
        else:
            found[name] = ",".join(key.strip() for key in keys)
    return found


def read_theme(path: Path, problems: list[str]) -> Theme | None:
    """The theme in a file, named after it; None when it does not hold."""
    before, values = len(problems), _read(path, problems)
    words: dict[str, Any] = {"name": values.pop("name", path.stem)}
    for key, value in values.items():
        if key in _THEME_COLOURS:
            try:
                Color.parse(value)
                words[key] = value
            except (ColorParseError, TypeError, AttributeError):
                problems.append(f'{path}: {key} is a colour such as "#7aa2f7", not {value!r}')
        elif (key in ("dark", "ansi") and isinstance(value, bool)) or (
            key == "variables" and isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        ):
            words[key] = value
        else:
            known = (*_THEME_COLOURS, "name", "dark", "ansi", "variables")
            problems.append(f"{path}: {key} = {value!r} does not belong into a theme{_meant(key, known)}")
    if len(problems) == before and "primary" not in words:
        problems.append(f"{path}: a theme needs at least the colour primary")
    if not isinstance(words["name"], str) or not words["name"]:
        problems.append(f"{path}: name is a text, not {words['name']!r}")
    return Theme(**words) if len(problems) == before else None


def read_state(path: Path, problems: list[str]) -> dict[str, Any]:
    """What was remembered; a file that cannot be used is said, and as good as absent."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path} cannot be read ({error}); the dashboard starts as if for the first time")
        return {}
    if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
        problems.append(f"{path} is of another version; the dashboard starts as if for the first time")
        return {}
    return state


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Remember this for the next time.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, json.dumps({"version": _STATE_VERSION, **state}, indent=1, default=str))


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{path}: {error}")  # a TOML error says line and column
        return {}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _meant(word: object, known: Any) -> str:
    near = difflib.get_close_matches(str(word), list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
