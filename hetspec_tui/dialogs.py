"""Small screens above any other: a question with yes and no, one for a line of text, a text to read and copy, and lists
to choose one or several entries from.

A page awaits their answer inside a worker: `await self.ask_user(Confirm(...))`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.choice_list import ChoiceList

Answer = TypeVar("Answer")


class Confirm(ModalScreen[bool]):
    """Asks before something that cannot be taken back. "No" has the focus, so that Enter alone changes nothing.

    Args:
        question: one sentence that ends in a question mark.
        details: what will be lost or not; plain text.
        yes: the word on the button that does it.
        no: the word on the other.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape", "answer(False)", "No", id="confirm.no"),
        Binding("left,right,up,down,h,l", "app.focus_next", show=False, id="confirm.move"),
    ]

    def __init__(self, question: str, details: str = "", *, yes: str = "Yes", no: str = "Cancel") -> None:
        super().__init__(classes="dialog")
        self._question, self._details, self._yes, self._no = question, details, yes, no

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._question, markup=False, classes="dialog-title")
            if self._details:
                yield Static(self._details, markup=False, classes="dialog-text")
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(f"{self._no} (n)"), id="no")
                yield Button(Content(f"{self._yes} (y)"), id="yes", variant="error")

    def on_mount(self) -> None:
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Prompt(ModalScreen[str | None]):
    """Asks for one line of text; gives None when it is left by Escape.

    Args:
        question: what is asked.
        value: the text at first.
        hint: what the text is for, below the line; plain text.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", id="prompt.cancel")]

    def __init__(self, question: str, value: str = "", hint: str = "") -> None:
        super().__init__(classes="dialog")
        self._question, self._value, self._hint = question, value, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._question, markup=False, classes="dialog-title")
            yield Input(self._value)
            if self._hint:
                yield Static(self._hint, markup=False, classes="dialog-hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)

    def action_leave(self) -> None:
        self.dismiss(None)


class Details(ModalScreen[None]):
    """Shows a text too long for a toast; `c` copies it, Escape closes.

    Args:
        title: one line.
        text: the whole; plain text.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy", id="details.copy"),
        Binding("escape,enter,q", "leave", "Close", id="details.close"),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__(classes="dialog -large")
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._title, markup=False, classes="dialog-title")
            with VerticalScroll():
                yield Static(self._text, markup=False)
            yield Static("c copies it, esc closes", markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(f"{self._title}\n{self._text}")
        self.notify("The text is on the clipboard.", timeout=2)

    def action_leave(self) -> None:
        self.dismiss(None)


@dataclass(frozen=True)
class Choice:
    """One line to choose.

    Attributes:
        key: the answer.
        text: its name in the list.
        about: a note, dim behind the name.
        problem: why it does not fit; it can be chosen all the same.
    """

    key: str
    text: str
    about: str = ""
    problem: str = ""


class _Line(Input):
    """A filter line that leaves some keys to the list below it."""

    def __init__(self, left_out: Collection[str]) -> None:
        super().__init__(placeholder="filter", compact=True)
        self._left_out = left_out

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return key not in self._left_out and super().check_consume_key(key, character)


class _List(ModalScreen[Answer], Generic[Answer]):
    """A filter line above a list; typing filters, arrows move, Enter takes.

    Args:
        title: its title.
        choices: in order.
        empty: text that is shown when there are no choices.
        help: shown below the list for a choice without a note. With it, names are a column and the whole note of the
            choice under the cursor, or its problem, stands below the list.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", id="picker.cancel"),
        Binding("enter", "take", "Take", id="picker.take", priority=True),
        Binding("up", "move('cursor_up')", show=False, id="picker.up", priority=True),
        Binding("down", "move('cursor_down')", show=False, id="picker.down", priority=True),
        Binding("pageup", "move('page_up')", show=False, id="picker.page_up", priority=True),
        Binding("pagedown", "move('page_down')", show=False, id="picker.page_down", priority=True),
    ]
    LEFT_OUT: ClassVar[Collection[str]] = ()
    HINT: ClassVar[str] = "type to filter, enter takes it, esc leaves"
    click_action: ClassVar[str] = "take"  # what a click on a choice does

    def __init__(
        self, title: str, choices: Sequence[Choice], *, empty: str = "nothing to choose from", help: str | None = None
    ) -> None:
        super().__init__(classes="dialog picker")
        self.title_text, self.choices, self.empty, self.help_text = title, list(choices), empty, help
        self.current: str | None = None
        self._column = max((len(choice.text) for choice in choices), default=0) if help is not None else 0

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self.title_text, markup=False, classes="dialog-title")
            yield _Line(self.LEFT_OUT)
            yield ChoiceList()
            if self.help_text is not None:
                yield Static(markup=False, id="picker-about")
            yield Static(self.HINT, markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self.query_one(Input).focus()
        self.fill(self.current)

    def line(self, choice: Choice) -> Content:
        note = (choice.problem, "$text-error") if choice.problem else (choice.about, "dim")
        sign = ("✖ " if choice.problem else "", "$text-error")
        return Content.assemble(sign, safe(choice.text).ljust(self._column), "  ", (safe(note[0]), note[1]))

    def fill(self, chosen: str | None = None) -> None:
        """Show the choices that match the filter, with the cursor on `chosen`."""
        words = self.query_one(Input).value.casefold().split()
        shown = [
            choice
            for choice in self.choices
            if all(word in f"{choice.key} {choice.text} {choice.about}".casefold() for word in words)
        ]
        options = self.query_one(OptionList)
        options.clear_options()
        if shown:
            options.add_options([Option(self.line(choice), id=choice.key) for choice in shown])
            keys = [choice.key for choice in shown]
            options.highlighted = keys.index(chosen) if chosen in keys else 0
        else:
            words_shown = "no match: shorten the filter" if self.choices else self.empty
            options.add_option(Option(Content.styled(words_shown, "dim"), disabled=True))

    @property
    def highlighted(self) -> str | None:
        """Key of the choice under the cursor."""
        options = self.query_one(OptionList)
        return options.get_option_at_index(options.highlighted).id if options.highlighted is not None else None

    def on_input_changed(self) -> None:
        self.fill()

    def on_option_list_option_highlighted(self) -> None:
        if self.help_text is not None:
            choice = next((choice for choice in self.choices if choice.key == self.highlighted), None)
            text = "" if choice is None else choice.about or self.help_text
            if choice is not None and choice.problem:
                text = f"does not fit: {choice.problem}"
            about = self.query_one("#picker-about", Static)
            about.set_class(choice is not None and bool(choice.problem), "-problem")
            about.update(safe(text))

    async def on_option_list_option_selected(self) -> None:
        await self.run_action(self.click_action)

    def action_move(self, how: str) -> None:
        getattr(self.query_one(OptionList), f"action_{how}")()

    def action_leave(self) -> None:
        self.dismiss(None)


class Choose(_List["str | None"]):
    """One of many; the answer is its key, or None.

    Args:
        title: its title.
        choices: in order.
        current: key of the choice under the cursor at first.
        empty: see above; so is `help`.
    """

    def __init__(
        self,
        title: str,
        choices: Sequence[Choice],
        current: str | None = None,
        *,
        empty: str = "nothing to choose from",
        help: str | None = None,
    ) -> None:
        super().__init__(title, choices, empty=empty, help=help)
        self.current = current

    def action_take(self) -> None:
        if self.highlighted is not None:
            self.dismiss(self.highlighted)


class ChooseMany(_List["list[str] | None"]):
    """Several of many, in an order; the answer is their keys, or None.

    Args:
        title: its title.
        choices: all choices; the chosen ones are shown first.
        chosen: keys of the choices that are chosen at first, in order.
        help: see above.
    """

    LEFT_OUT = ("space",)
    HINT = "space on/off, shift+↑↓ moves, type to filter, enter takes, esc leaves"
    click_action = "switch"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "switch", "On or off", id="picker.toggle", priority=True),
        Binding("shift+up", "shift(-1)", show=False, id="picker.earlier", priority=True),
        Binding("shift+down", "shift(1)", show=False, id="picker.later", priority=True),
    ]

    def __init__(
        self, title: str, choices: Sequence[Choice], chosen: Sequence[str], *, help: str | None = None
    ) -> None:
        by_key = {choice.key: choice for choice in choices}
        self.chosen = [key for key in chosen if key in by_key]
        rest = [choice for choice in choices if choice.key not in self.chosen]
        super().__init__(title, [*(by_key[key] for key in self.chosen), *rest], help=help)

    def line(self, choice: Choice) -> Content:
        return Content.assemble(("■ " if choice.key in self.chosen else "□ ", "$text-accent"), super().line(choice))

    def action_switch(self) -> None:
        key = self.highlighted
        if key is None:
            return
        if key in self.chosen:
            self.chosen.remove(key)
        else:
            self.chosen.append(key)
        self.fill(key)

    def action_shift(self, by: int) -> None:
        key = self.highlighted
        if key not in self.chosen:
            return
        index = self.chosen.index(key)
        self.chosen.insert(max(0, index + by), self.chosen.pop(index))
        by_key = {choice.key: choice for choice in self.choices}
        rest = [choice for choice in self.choices if choice.key not in self.chosen]
        self.choices = [*(by_key[chosen] for chosen in self.chosen), *rest]
        self.fill(key)

    def action_take(self) -> None:
        self.dismiss(list(self.chosen))
