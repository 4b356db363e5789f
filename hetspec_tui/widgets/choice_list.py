"""Lists to choose from: Textual's option list without one of its faults, and a searchable list of names by kind."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.formatting import safe


class ChoiceList(OptionList):
    """An option list that survives page keys at a height of 0, where Textual 8 raises KeyError."""

    def action_page_up(self) -> None:
        with contextlib.suppress(KeyError):
            super().action_page_up()

    def action_page_down(self) -> None:
        with contextlib.suppress(KeyError):
            super().action_page_down()


@dataclass(frozen=True)
class NameEntry:
    """One name, with a sign of one cell before it and the theme variable of the sign."""

    name: str
    sign: str = " "
    style: str = "$text-accent"


class NameList(Vertical):
    """The kinds in one line, a search, and the names of the current kind."""

    DEFAULT_CSS = """
    NameList {
        #kinds { height: 1; }

        #search {
            display: none;
            height: 1;
            border: none;
            padding: 0 1;
            background: $boost;
        }

        &.-searching #search { display: block; }

        #names {
            height: 1fr;
            border: none;
            padding: 0;
            background: transparent;
            scrollbar-size-vertical: 1;
            text-wrap: nowrap;
            text-overflow: ellipsis;
        }
    }
    """

    @dataclass
    class Moved(Message):
        """The cursor is on a name now."""

        name: str

    @dataclass
    class Chosen(Message):
        """Enter was pressed on a name."""

        name: str

    @dataclass
    class Searched(Message):
        """The words of the search have changed."""

        words: str

    def compose(self) -> ComposeResult:
        yield Static(id="kinds", markup=False)
        yield SearchNames(placeholder="search", id="search", compact=True)
        yield ChoiceList(id="names", markup=False)

    @property
    def words(self) -> str:
        return self.query_one("#search", Input).value

    @property
    def name_under_cursor(self) -> str:
        """The highlighted name; empty when there is none."""
        option = self.query_one("#names", OptionList).highlighted_option
        return (option.id or "") if option is not None else ""

    def show_kinds(self, kinds: Sequence[str], current: str) -> None:
        """Show all kinds, with the listed one marked."""
        parts = [
            (f" {kind} ", "bold $text-primary reverse") if kind == current else (f" {kind}", "$foreground-muted")
            for kind in kinds
        ]
        self.query_one("#kinds", Static).update(Content.assemble(*parts))

    def show(self, entries: Sequence[NameEntry], wanted: str, empty: str) -> None:
        """List names, with the cursor on `wanted` if it is one of them; `empty` is shown when there are none."""
        shown = self.query_one("#names", OptionList)
        names = [entry.name for entry in entries]
        if [option.id for option in shown.options] == names and names:
            self.redraw(entries)
        else:
            shown.clear_options()
            shown.add_options([Option(_line(entry), id=entry.name) for entry in entries])
        if names:
            index = names.index(wanted) if wanted in names else 0
            if shown.highlighted == index:
                self.post_message(self.Moved(names[index]))
            shown.highlighted = index
        else:
            shown.add_option(Option(empty, disabled=True))

    def redraw(self, entries: Sequence[NameEntry]) -> None:
        """Draw the signs of the listed names again."""
        listed = {option.id for option in self.query_one("#names", OptionList).options}
        for entry in entries:
            if entry.name in listed:
                self.query_one("#names", OptionList).replace_option_prompt(entry.name, _line(entry))

    def focus_names(self) -> None:
        self.screen.set_focus(self.query_one("#names"))

    def search(self) -> None:
        self.add_class("-searching")
        self.screen.set_focus(self.query_one("#search"))  # now: the next letters must reach it

    def end_search(self) -> None:
        """Show all names again."""
        self.query_one("#search", Input).value = ""
        self.remove_class("-searching")
        self.focus_names()

    @on(OptionList.OptionHighlighted, "#names")
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option.id:
            self.post_message(self.Moved(event.option.id))

    @on(OptionList.OptionSelected, "#names")
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option.id:
            self.post_message(self.Chosen(event.option.id))

    @on(Input.Changed, "#search")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Searched(event.value))

    @on(Input.Submitted, "#search")
    def _found(self, event: Input.Submitted) -> None:
        event.stop()
        self.focus_names()


class SearchNames(Input):
    """The input line of the search."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Show all", id="names.search-end"),
        Binding("down", "to_names", show=False, id="names.search-list"),
    ]

    @property
    def _list(self) -> NameList:
        return next(widget for widget in self.ancestors if isinstance(widget, NameList))

    def action_leave(self) -> None:
        self._list.end_search()

    def action_to_names(self) -> None:
        self._list.focus_names()


def _line(entry: NameEntry) -> Content:
    return Content.assemble((f"{entry.sign} ", entry.style), safe(entry.name))
