"""The user's files: settings, keys and themes in TOML, and the state that the dashboard saves for the next start.

A fault in one of them does not keep the dashboard from starting: an invalid value is reported, and its default is used.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from textual.color import Color, ColorParseError
from textual.theme import Theme

from hetspec_core.documents import DocumentError, flatten, key_lines, nearest_line, read_bounded, read_json, read_toml
from hetspec_core.files import write_atomic
from hetspec_core.paths import Roots, roots

NOTIFY = ("off", "bell", "desktop", "both")
LONGEST_S = 1e9
_STATE_VERSION = 1
_THEME_COLOURS = (
    "primary", "secondary", "warning", "error", "success", "accent", "foreground", "background", "surface", "panel",
    "boost",
)  # fmt: skip


def _setting(default: Any, about: str, allowed: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"about": about, "allowed": allowed})


@dataclass(frozen=True)
class Settings:
    """What `dashboard.toml` may say; what each of it means stands beside it, and in the schema."""

    theme: str = _setting("", "name of a theme; empty = the one chosen last, or one that suits the terminal")
    notify: str = _setting(
        "off", "what happens when a run ends; desktop is an escape sequence that many terminals show", NOTIFY
    )
    notify_after_s: float = _setting(10.0, "runs that took less are not told of, in seconds")
    first_page: str = _setting("", "the page to start with; empty = the one that was open last")
    animations: bool = _setting(True, "whether things slide and fade; switch it off on a slow connection")
    screenshots: str = _setting("", "folder for pictures of the screen; empty = in the data folder")


@dataclass(frozen=True)
class DashboardFiles:
    """The dashboard's files.

    Attributes:
        settings, keys: TOML of the user, who may have neither.
        themes: folder of the user's themes, one TOML file each.
        state: what the dashboard found last time; it may be deleted at any time.
        log: what went wrong, in words.
        screenshots: folder of the pictures that were taken.
    """

    settings: Path
    keys: Path
    themes: Path
    state: Path
    log: Path
    screenshots: Path


def dashboard_files(home: Path | None = None) -> DashboardFiles:
    """The files below a home, as HETSPEC_HOME; below the roots in force when absent."""
    top = roots() if home is None else Roots.below(home)
    own = top.data / "dashboard"
    return DashboardFiles(
        settings=top.config / "dashboard.toml",
        keys=top.config / "keys.toml",
        themes=top.config / "themes",
        state=own / "state.json",
        log=own / "hetspec.log",
        screenshots=own / "screenshots",
    )


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
            problems.append(f"{place_of(path, key)}: there is no setting {key!r}{_meant(key, known)}")
            continue
        wanted, allowed = type(known[key].default), known[key].metadata.get("allowed")
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            kind = {str: "a text", float: "a number", bool: "true or false"}[wanted]
            problems.append(f"{place_of(path, key)}: {key} is {kind}, not {value!r}")
        elif allowed and value not in allowed:
            said = f"{key} is one of {', '.join(allowed)}, not {value!r}{_meant(value, allowed)}"
            problems.append(f"{place_of(path, key)}: {said}")
        elif wanted is float and not 0 <= value < LONGEST_S:
            problems.append(f"{place_of(path, key)}: {key} is a number of seconds from 0, not {value!r}")
        else:
            values[key] = value
    return Settings(**values)


def settings_schema(first_pages: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON schema of `dashboard.toml`, for editors that check what one writes.

    Args:
        first_pages: names of the pages that there are; any text when it is not known.
    """
    kinds = {str: "string", float: "number", bool: "boolean"}
    properties: dict[str, dict[str, Any]] = {}
    for one in fields(Settings):
        about: dict[str, Any] = {"description": one.metadata["about"], "type": kinds[type(one.default)]}
        if allowed := one.metadata["allowed"] or (one.name == "first_page" and first_pages and ("", *first_pages)):
            about["enum"] = list(allowed)
        if type(one.default) is float:
            about |= {"minimum": 0, "exclusiveMaximum": LONGEST_S}
        properties[one.name] = {**about, "default": one.default}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dashboard.toml of HetSpec",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def read_keys(path: Path, problems: list[str]) -> dict[str, str]:
    """Binding id -> keys, several with commas between; faults are added to `problems`."""
    found: dict[str, str] = {}
    for name, value in flatten(_read(path, problems), keep_empty=False).items():
        keys = [value] if isinstance(value, str) else value
        if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key.strip() for key in keys):
            place = place_of(path, *name.split("."))
            problems.append(f'{place}: {name} is a key such as "ctrl+x", or a list of keys, not {value!r}')
        else:
            found[name] = ",".join(key.strip() for key in keys)
    return found


def read_theme(path: Path, problems: list[str]) -> Theme | None:
    """The theme in a file, named after it; None when it is invalid."""
    before, values = len(problems), _read(path, problems)
    words: dict[str, Any] = {"name": values.pop("name", path.stem)}
    for key, value in values.items():
        if key in _THEME_COLOURS:
            try:
                Color.parse(value)
                words[key] = value
            except (ColorParseError, TypeError, AttributeError):
                problems.append(f'{place_of(path, key)}: {key} is a colour such as "#7aa2f7", not {value!r}')
        elif (key in ("dark", "ansi") and isinstance(value, bool)) or (
            key == "variables" and isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        ):
            words[key] = value
        else:
            known = (*_THEME_COLOURS, "name", "dark", "ansi", "variables")
            problems.append(
                f"{place_of(path, key)}: {key} = {value!r} does not belong into a theme{_meant(key, known)}"
            )
    if len(problems) == before and "primary" not in words:
        problems.append(f"{path}: a theme needs at least the colour primary")
    if not isinstance(words["name"], str) or not words["name"]:
        problems.append(f"{path}: name is a text, not {words['name']!r}")
    return Theme(**words) if len(problems) == before else None


def read_state(path: Path, problems: list[str]) -> dict[str, Any]:
    """What was remembered; a file that cannot be used is said, and as good as absent."""
    try:
        state = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, DocumentError) as error:
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


def place_of(path: Path, *key: str) -> str:
    """`FILE:LINE` of a key; without the line where that cannot be found."""
    try:
        line = nearest_line(key_lines(read_bounded(path).decode()), key)
    except (OSError, DocumentError, UnicodeDecodeError):  # changed since it was read
        line = None
    return f"{path}:{line}" if line else str(path)


def _read(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_toml(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror or error}")
    except DocumentError as error:
        problems.append(f"{path} {error}")  # a TOML error says line and column
    return {}


def _meant(word: object, known: Any) -> str:
    near = difflib.get_close_matches(str(word), list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
