"""The first screen: what HetSpec is, and what can be done from the shell today. It reads no runs and no files."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.events import Resize
from textual.geometry import Size
from textual.screen import Screen
from textual.widgets import Footer, Header, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.guide import ABOUT, COMMANDS, TO_COME, Command

SMALLEST = Size(60, 16)


class WelcomeScreen(Screen[None]):
    """A list of commands with what each of them does beside it."""

    CSS_PATH = "welcome.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "Copy command"),
    ]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (20, "-tall")]  # noqa: RUF012

    def compose(self) -> ComposeResult:
        yield Header()
        with Vertical(id="page"):
            yield Static(ABOUT, id="about", markup=False)
            with Horizontal(id="commands"):
                yield OptionList(*(Option(command.name, id=command.name) for command in COMMANDS), id="names")
                with VerticalScroll(id="detail", can_focus=False):
                    yield Static(id="summary")
                    yield Static(id="example")
            yield Static(TO_COME, id="to-come", markup=False)
        yield Static(id="too-small", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        names = self.query_one("#names", OptionList)
        names.border_title = "hetspec-core ..."
        self.query_one("#detail").border_title = "what it does"
        names.focus()
        names.highlighted = 0

    def on_resize(self, event: Resize) -> None:
        size = event.size
        too_small = size.width < SMALLEST.width or size.height < SMALLEST.height
        self.set_class(too_small, "-too-small")
        if not too_small and self.focused is None:
            self.query_one("#names").focus()  # what is not displayed loses the focus
        self.query_one("#too-small", Static).update(
            f"terminal too small: need {SMALLEST.width}x{SMALLEST.height}, is {size.width}x{size.height}"
        )

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        command = COMMANDS[event.option_index]
        self.query_one("#summary", Static).update(Content(command.summary))
        self.query_one("#example", Static).update(Content(f"$ {command.example}"))

    def on_option_list_option_selected(self) -> None:
        self.action_copy()

    def action_copy(self) -> None:
        """Put the example of the highlighted command on the clipboard of the terminal."""
        command = self.highlighted
        self.app.copy_to_clipboard(command.example)
        self.notify(command.example, title="Copied", timeout=3, markup=False)

    @property
    def highlighted(self) -> Command:
        """The command whose description is shown."""
        return COMMANDS[self.query_one("#names", OptionList).highlighted or 0]
