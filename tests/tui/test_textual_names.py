"""The dashboard uses the public names of Textual, so that a minor release of it breaks nothing here."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from textual import actions
from textual.binding import Binding
from textual.drivers.headless_driver import HeadlessDriver

import hetspec_tui
from hetspec_core import documents
from hetspec_tui import pages
from hetspec_tui.app import HetSpecApp
from hetspec_tui.desk import Desk
from hetspec_tui.key_order import QUIT_AT_ONCE, keys_of
from hetspec_tui.settings import place_of
from tests.tui.driving import drive

ALLOWED = {"_handle_exception"}
"""Textual has no public way to decide what is shown of an error: the values of local variables may be secrets."""

PRIVATE = re.compile(r"_(?!_)\w+")


def own_classes() -> list[type]:
    modules = [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(hetspec_tui.__path__, "hetspec_tui.")
    ]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
    ]


@cache
def private_names(of: type) -> frozenset[str]:
    """The private methods and attributes that a class of Textual defines."""
    assigned = re.findall(r"\bself\.(_\w+)", inspect.getsource(of))
    return frozenset(name for name in {*vars(of), *inspect.get_annotations(of), *assigned} if PRIVATE.fullmatch(name))


def names_in(of: type) -> Iterator[tuple[str, bool]]:
    """The private names in a class of ours, and whether each belongs to the object itself."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(of)))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and PRIVATE.fullmatch(node.name):
            yield node.name, True
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            yield node.attr, isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def test_no_class_uses_a_private_name_of_textual_but_the_one_that_is_allowed() -> None:
    classes = own_classes()
    ours = {name for of in classes for name, on_self in names_in(of) if on_self}
    used: set[tuple[str, str]] = set()
    for of in classes:
        family = {base for heir in classes if of in heir.__mro__ for base in heir.__mro__}  # a mixin's heirs included
        theirs = frozenset[str]().union(
            *(private_names(base) for base in family if base.__module__.partition(".")[0] == "textual")
        )
        for name, on_self in names_in(of):
            foreign = name in theirs if on_self else name not in ours and of.__module__ != "hetspec_tui.serve"
            if foreign:
                used.add((of.__name__, name))
    assert {name for _, name in used} == ALLOWED, used


def test_no_module_of_textual_that_is_private_is_imported() -> None:
    files = Path(hetspec_tui.__path__[0]).rglob("*.py")
    assert not [file for file in files if re.search(r"^\s*(from|import) textual\S*\._", file.read_text(), re.M)]


@pytest.mark.parametrize(
    ("keymap", "keys"),
    [
        ({}, {"ctrl+q"}),
        ({QUIT_AT_ONCE: "f10, x"}, {"f10", "x"}),
        ({QUIT_AT_ONCE: "?"}, {"question_mark"}),
        ({"app.help": "ctrl+q"}, set()),  # another action has taken its key
    ],
)
def test_the_keys_that_quit_at_once_are_those_of_the_keymap(keymap: dict[str, str], keys: set[str]) -> None:
    assert keys_of(QUIT_AT_ONCE, HetSpecApp.BINDINGS, keymap) == keys


def test_keys_of_a_binding_without_that_id_are_none() -> None:
    assert keys_of("nothing", [Binding("a", "act", id="app.act")], {}) == frozenset()


@pytest.mark.parametrize("name", [page.name for page in pages.available()])
def test_the_first_page_is_the_only_one_that_is_opened(home: Path, name: str) -> None:
    (home / "config").mkdir()
    (home / "config" / "dashboard.toml").write_text(f'first_page = "{name}"\n')

    async def act(app: HetSpecApp, pilot: object) -> None:
        assert app.current_mode == name
        assert [page.page_name for page in app.open_pages()] == [name]
        assert place_of(app.files.settings, "first_page") and not app.problems

    drive(act)


def test_the_driver_that_textual_builds_is_the_terminal_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textual.constants.DRIVER", "textual.drivers.headless_driver:HeadlessDriver")

    async def build() -> None:
        app = HetSpecApp(Desk())
        assert app.terminal is None
        driver = app.driver_class(app)
        assert isinstance(driver, HeadlessDriver) and app.terminal is driver

    asyncio.run(build())


def test_actions_and_formulas_can_be_read_at_the_same_moment() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failed: list[Exception] = []

    def read(which: int) -> None:
        for number in range(300):
            try:
                if which % 2:
                    actions.parse(f"page(('a', [{number}, {which}]))")
                else:
                    documents.parse_expression(f"(1, (2, [{number}]))")
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=read, args=(which,)) for which in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []
