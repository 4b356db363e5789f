"""The user's files: settings, keys, themes and the remembered state; faults are said and harm nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from hetspec_tui.app import HetSpecApp
from hetspec_tui.command import bound_classes, check_keymap
from hetspec_tui.desk import desktop_notice
from hetspec_tui.settings import Settings, dashboard_files, read_keys, read_settings, read_state, read_theme
from tests.tui.driving import drive, screen_text, toasts, until


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("them = 'nord'", "did you mean 'theme'?"),
        ("notify = 'loud'", "notify is one of off, bell, desktop, both, not 'loud'"),
        ("animations = 'no'", "animations is true or false, not 'no'"),
        ("notify_after_s = -1", "notify_after_s is a number of seconds from 0"),
        ("theme = 3", "theme is a text, not 3"),
        ("# mine\nanimations = true\n\ntheme = 3", "dashboard.toml:4: theme is a text, not 3"),
        ("theme = \n", "line 1"),
        ("\x00", "dashboard.toml"),
    ],
)
def test_a_fault_in_the_settings_names_file_and_key_and_leaves_the_default(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "dashboard.toml"
    path.write_text(text)
    problems: list[str] = []
    assert read_settings(path, problems) == Settings()  # animations are on anyway
    assert len(problems) == 1
    assert said in problems[0] and str(path) in problems[0]


def test_settings_that_hold_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "dashboard.toml"
    path.write_text('theme = "nord"\nnotify = "both"\nnotify_after_s = 5\nanimations = false\n')
    problems: list[str] = []
    assert read_settings(path, problems) == Settings("nord", "both", 5.0, animations=False)
    assert problems == []


def config_command(*words: str) -> subprocess.CompletedProcess[str]:
    """`hetspec config`, which needs no terminal."""
    program = [sys.executable, "-m", "hetspec_tui.app", "config", *words]
    return subprocess.run(program, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)


def test_a_reader_that_has_seen_enough_of_the_schema_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-m", "hetspec_tui.app", "config", "--schema"]
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_of_the_settings_is_printed_and_allows_what_is_taken_and_nothing_else(tmp_path: Path) -> None:
    done = config_command("--schema")
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert {name: one["default"] for name, one in properties.items()} == asdict(Settings())
    assert all(one["description"] for one in properties.values())
    assert properties["first_page"]["enum"] == ["", "dashboard", "runs", "presets", "launch", "chat"]
    path = tmp_path / "dashboard.toml"
    for name, one in properties.items():
        samples = {"string": ["", "x"], "number": [0, 2.5, -1, 1e9], "boolean": [True, False]}
        for value in [*one.get("enum", []), *(value for kind in samples.values() for value in kind)]:
            if name == "first_page" and value == "x":  # whether there is such a page is seen when it is opened
                continue
            path.write_text(f"{name} = {json.dumps(value)}\n")
            problems: list[str] = []
            read_settings(path, problems)
            assert allows(one, value) == (not problems), (name, value, problems)


def allows(about: dict[str, Any], value: object) -> bool:
    """What a validator says of a value, as far as our schema goes."""
    kind = {"string": str, "number": (int, float), "boolean": bool}[about["type"]]
    if not isinstance(value, kind) or (about["type"] == "number" and isinstance(value, bool)):
        return False
    if "enum" in about:
        return value in about["enum"]
    return not isinstance(value, float | int) or isinstance(value, bool) or 0 <= value < about["exclusiveMaximum"]


def test_the_config_command_says_where_the_files_are_and_what_is_wrong_in_which_line(home: Path) -> None:
    config = home / "config"
    sound = config_command()
    assert sound.returncode == 0
    assert f"{config / 'dashboard.toml'}  not there" in sound.stdout and str(config / "keys.toml") in sound.stdout
    (config / "themes").mkdir(parents=True)
    (config / "dashboard.toml").write_text("notify = 'both'\nfirst_page = 'run'\nthem = 'nord'\ntheme = 'mine'\n")
    (config / "keys.toml").write_text("[runs]\nsort = 'x'\n[app]\nhepl = 'h'\n")
    (config / "themes" / "mine.toml").write_text("primary = 'blue'\nsecondary = 'bluish'\n")
    wrong = config_command()
    assert wrong.returncode == 3
    for said in (
        "dashboard.toml:3: there is no setting 'them'; did you mean 'theme'?",
        "dashboard.toml:2: first_page is one of dashboard, runs,",
        "dashboard.toml:4: there is no theme 'mine'",
        "keys.toml:4: no binding is called 'app.hepl'; did you mean 'app.help'?",
        "keys.toml:2: x is the key of runs.cancel and of runs.sort in RunsScreen",
        "mine.toml:2: secondary is a colour",
    ):
        assert said in wrong.stderr, said
    assert "6 faults" in wrong.stderr


def test_keys_may_be_written_as_tables_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('[dashboard]\ncancel = ["ctrl+x", "delete"]\n[app]\nhelp = "h"\nquit = 3\n')
    problems: list[str] = []
    assert read_keys(path, problems) == {"dashboard.cancel": "ctrl+x,delete", "app.help": "h"}
    assert len(problems) == 1 and "app.quit" in problems[0]


def test_a_keymap_is_told_unknown_ids_and_clashes() -> None:
    import hetspec_tui.screens.dashboard  # noqa: F401 - whose keys are checked

    problems = check_keymap({"app.hepl": "h", "dashboard.cancel": "r"}, bound_classes())
    assert ("app.hepl", "no binding is called 'app.hepl'; did you mean 'app.help'?") in problems
    said = "r is the key of dashboard.cancel and of dashboard.resume in DashboardScreen"
    assert ("dashboard.cancel", said) in problems
    assert check_keymap({"dashboard.cancel": "delete"}, bound_classes()) == []


def test_no_two_actions_of_one_place_share_a_key_and_every_key_has_an_id() -> None:
    from hetspec_tui import pages
    from hetspec_tui.command import own_bindings

    for target in (*(entry.target for entry in pages.available()), pages.RUN, pages.COMPARISON):
        pages.load(target)
    for node in bound_classes():
        bindings = own_bindings(node)
        assert all(binding.id for binding in bindings), f"{node.__name__} has a binding without an id"
        keys = [binding.key for binding in bindings]
        assert len(keys) == len(set(keys)), f"{node.__name__} binds a key twice"


def test_a_remapped_key_works_and_the_old_one_does_not(home: Path) -> None:
    (home / "config").mkdir()
    (home / "config" / "keys.toml").write_text('app.quit = "ctrl+x"\napp.nothing = "z"\n')

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "app.nothing" in toasts(app), "a word about the unknown id")
        await pilot.press("q")
        await pilot.pause()
        assert app.is_running
        await pilot.press("ctrl+x")

    assert drive(act).return_code == 0


def test_a_theme_of_the_user_is_used_and_a_bad_one_is_said(home: Path) -> None:
    themes = home / "config" / "themes"
    themes.mkdir(parents=True)
    (themes / "mine.toml").write_text('primary = "#112233"\ndark = true\n')
    (themes / "bad.toml").write_text('primary = "reddish"\n')
    (home / "config" / "dashboard.toml").write_text('theme = "mine"\n')

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        assert app.theme == "mine"
        await until(pilot, lambda: "reddish" in toasts(app) + screen_text(app))

    drive(act)
    problems: list[str] = []
    (themes / "none.toml").write_text("dark = true\n")
    assert read_theme(themes / "none.toml", problems) is None
    assert "needs at least the colour primary" in problems[0]


def test_page_and_theme_are_found_again_at_the_next_start() -> None:
    async def first(app: HetSpecApp, pilot: Pilot[None]) -> None:
        app.theme = "nord"
        await pilot.press("2")
        await pilot.pause()
        await pilot.press("ctrl+q")

    async def second(app: HetSpecApp, pilot: Pilot[None]) -> None:
        assert (app.current_mode, app.theme) == ("runs", "nord")

    drive(first)
    drive(second)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 99}', "\x00\xff", "[" * 100_000])
def test_a_corrupt_state_is_ignored_and_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)
    problems: list[str] = []
    assert read_state(path, problems) == {}
    assert len(problems) == 1 and str(path) in problems[0]


@pytest.mark.parametrize("pages", [{"dashboard": {"run": ["?"]}, "runs": {"sort": 7}, "launch": {"values": 3}}, [], 5])
def test_a_state_of_another_shape_never_keeps_a_page_from_opening(home: Path, pages: object) -> None:
    state = home / "dashboard" / "state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"version": 1, "page": 3, "theme": [1], "pages": pages}))

    async def act(app: HetSpecApp, pilot: Pilot[None]) -> None:
        for entry in app.pages:
            await pilot.press(entry.key)
            await pilot.pause()
        assert app.is_running

    drive(act)


def test_a_desktop_notice_carries_no_control_characters_of_others_and_passes_tmux() -> None:
    plain = desktop_notice("HetSpec", "run \x1b[31m;evil\x07 ended", {"TERM": "xterm"})
    assert plain.startswith("\x1b]9;") and plain.endswith("\x1b\\")
    assert plain.count("\x1b") == 2 and "\x07" not in plain
    assert desktop_notice("a", "b", {"TERM": "foot"}).startswith("\x1b]777;notify;a;b")
    assert desktop_notice("a", "b", {"TERM": "screen", "TMUX": "x"}).startswith("\x1bPtmux;\x1b\x1b]9;")


def test_the_files_of_the_dashboard_lie_below_the_home(tmp_path: Path) -> None:
    files = dashboard_files(tmp_path)
    assert files.settings == tmp_path / "config" / "dashboard.toml"
    assert files.state.is_relative_to(tmp_path)
