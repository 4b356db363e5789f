"""One key map: on every page that shows runs a letter of a command on runs means that command."""

from __future__ import annotations

import pytest
from textual.binding import Binding
from textual.dom import DOMNode

from hetspec_tui import pages
from hetspec_tui.command import own_bindings
from hetspec_tui.run_commands import COMMANDS, RunCommands
from hetspec_tui.screens.run.panes import CurvesPane
from hetspec_tui.widgets.cards import CardList
from hetspec_tui.widgets.chart import Chart
from hetspec_tui.widgets.log_lines import LogLines
from hetspec_tui.widgets.log_view import LogView
from hetspec_tui.widgets.paged_table import PagedTable

PLACES: tuple[tuple[str, tuple[type[DOMNode], ...]], ...] = (
    ("hetspec_tui.screens.dashboard:DashboardScreen", (CardList,)),
    ("hetspec_tui.screens.runs:RunsScreen", (PagedTable, Chart)),
    (pages.COMPARISON, (PagedTable,)),
    (pages.RUN, (CurvesPane, LogLines, LogView)),
)
"""Pages with runs, and the widgets with keys of their own in them. The chart alone has = (zoom in) beside a table."""
WORK = ("cancel", "kill", "resume", "retry", "tag", "note", "star", "archive", "delete", "restore")


def keys_of_commands(names: tuple[str, ...]) -> dict[str, str]:
    bindings = [(name, Binding(COMMANDS[name].keys, "", "")) for name in names]
    return {made.key: name for name, binding in bindings for made in Binding.make_bindings([binding])}


def test_no_two_commands_have_a_key_in_common() -> None:
    assert len(keys_of_commands(tuple(COMMANDS))) == sum(len(command.keys.split(",")) for command in COMMANDS.values())


@pytest.mark.parametrize(("page", "widgets"), PLACES)
def test_a_letter_means_the_same_command_on_every_page_with_runs(page: str, widgets: tuple[type[DOMNode], ...]) -> None:
    wanted = keys_of_commands(WORK)
    for place in (pages.load(page), *widgets):
        for binding in own_bindings(place):
            if binding.key in wanted:
                assert binding.action == f"run_command({wanted[binding.key]!r})", (place.__name__, binding.key)


@pytest.mark.parametrize(("page", "widgets"), PLACES)
def test_every_page_with_runs_names_its_commands_alike(page: str, widgets: object) -> None:
    own = [binding for binding in own_bindings(pages.load(page)) if binding.action.startswith("run_command(")]
    assert own
    for binding in own:
        name = binding.action.partition("'")[2].rpartition("'")[0]
        assert binding.key in COMMANDS[name].keys.split(",") and binding.description == COMMANDS[name].title
        assert callable(getattr(RunCommands, name))


def test_digits_of_the_header_are_not_those_of_panes() -> None:
    for entry in pages.PAGES:
        own = {binding.key for binding in own_bindings(pages.load(entry.target))}
        assert not own & {other.key for other in pages.PAGES}
    assert pages.load(pages.RUN).OWN_DIGITS
