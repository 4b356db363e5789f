"""A list to pick from, above any screen: searched as you type, with a note and, where something does not fit, why.

It knows words only. Await its answer: `await self.app.push_screen_wait(Picker(...))` gives a tuple, None = left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.choice_list import ChoiceList


@dataclass(frozen=True)
class Item:
    """One thing to pick: its value, what is said of it, and why it does not fit (it can be picked all the same)."""

    value: str
    note: str = ""
    problem: str = ""


class Picker(ModalScreen[tuple[str, ...] | None]):
    """Lets one of some things be picked, or several.

    Args:
        title: what is picked.
        items: all there are.
        chosen: what is chosen now.
        several: whether more than one can be picked (space marks, enter takes).
        hint: said below the list.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", id="picker.cancel"),
        Binding("down", "move(1)", show=False, id="picker.down"),
        Binding("up", "move(-1)", show=False, id="picker.up"),
    ]
    DEFAULT_CSS = """
    Picker {
        align: center middle;
        background: $background 60%;

        #picker-box {
            width: 90%;
            max-width: 110;
            height: auto;
            max-height: 90%;
            padding: 0 1;
            border: round $primary;
            background: $surface;
        }

        #picker-search {
            height: 1;
            border: none;
            padding: 0 1;
            background: $boost;
        }

        #picker-list {
            height: auto;
            max-height: 24;
            border: none;
            background: transparent;
        }

        #picker-about {
            height: auto;
            max-height: 4;
            color: $text-muted;
            padding: 0 1;

            &.-problem { color: $text-error; }
        }
    }
    """

    def __init__(
        self,
        title: str,
        items: Sequence[Item],
        chosen: Sequence[str] = (),
        *,
        several: bool = False,
        hint: str = "",
    ) -> None:
        super().__init__()
        self._title, self._items, self._several, self._hint = title, list(items), several, hint
        self._chosen = list(chosen)

    def compose(self) -> ComposeResult:
        with Vertical(id="picker-box"):
            yield Input(placeholder="search", id="picker-search", compact=True)
            yield ChoiceList(id="picker-list", markup=False)
            yield Static(id="picker-about", markup=False)

    def on_mount(self) -> None:
        self.query_one("#picker-box").border_title = Content(safe(self._title))
        keys = "space marks, enter takes them" if self._several else "enter takes it"
        self.query_one("#picker-box").border_subtitle = f"{keys}, esc leaves"
        shown = self.query_one("#picker-list", OptionList)
        shown.can_focus = False
        self.query_one("#picker-search").focus()
        self._fill("")
        self.call_after_refresh(self._fill_again)  # the width of the list is known only now

    def _fill_again(self) -> None:
        self._fill(self.query_one("#picker-search", Input).value)  # something may have been typed meanwhile

    def _fill(self, words: str) -> None:
        shown = self.query_one("#picker-list", OptionList)
        before = shown.highlighted_option
        wanted = (before.id if before is not None else None) or (self._chosen[0] if self._chosen else None)
        parts = words.casefold().split()
        found = [item for item in self._items if all(p in f"{item.value} {item.note}".casefold() for p in parts)]
        shown.clear_options()
        shown.add_options([Option(self._line(item), id=item.value) for item in found])
        values = [item.value for item in found]
        if values:
            shown.highlighted = values.index(wanted) if wanted in values else 0
        self._about()

    def _line(self, item: Item) -> Content:
        mark = "●" if item.value in self._chosen else " "
        width = max((len(other.value) for other in self._items), default=0)
        room = max(0, self.query_one("#picker-list").size.width - width - 9)
        said = safe(item.problem or item.note)
        said = said if len(said) <= room else f"{said[: max(0, room - 1)]}…"
        return Content.assemble(
            (f" {mark} ", "$text-accent"),
            ("✖ " if item.problem else "  ", "$text-error"),
            (safe(item.value).ljust(width), "bold" if item.value in self._chosen else ""),
            (f"  {said}", "$text-error" if item.problem else "$foreground-muted"),
        )

    @property
    def _highlighted(self) -> Item | None:
        option = self.query_one("#picker-list", OptionList).highlighted_option
        return next((item for item in self._items if option is not None and item.value == option.id), None)

    def _about(self) -> None:
        item = self._highlighted
        about = self.query_one("#picker-about", Static)
        about.set_class(bool(item and item.problem), "-problem")
        if item is None:
            about.update("nothing to pick" if not self._items else "nothing has these words")
        else:
            about.update(safe(f"does not fit: {item.problem}" if item.problem else item.note or self._hint))

    @on(Input.Changed, "#picker-search")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        value = event.value
        if self._several and value.endswith(" "):  # a space marks; it is no part of what is searched
            with self.query_one("#picker-search", Input).prevent(Input.Changed):
                self.query_one("#picker-search", Input).value = value.rstrip(" ")
            self._mark()
            return
        self._fill(value)

    def _mark(self) -> None:
        item = self._highlighted
        if item is None:
            return
        if item.value in self._chosen:
            self._chosen.remove(item.value)
        else:
            self._chosen.append(item.value)
        self.query_one("#picker-list", OptionList).replace_option_prompt(item.value, self._line(item))

    def action_move(self, step: int) -> None:
        """Move the cursor."""
        shown = self.query_one("#picker-list", OptionList)
        if step > 0:
            shown.action_cursor_down()
        else:
            shown.action_cursor_up()

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._about()

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._several:
            self._mark()
        else:
            self.dismiss((str(event.option.id),))

    @on(Input.Submitted, "#picker-search")
    def _taken(self, event: Input.Submitted) -> None:
        event.stop()
        item = self._highlighted
        if self._several:
            order = [each.value for each in self._items]
            self.dismiss(tuple(sorted(self._chosen, key=lambda value: order.index(value) if value in order else -1)))
        elif item is not None:
            self.dismiss((item.value,))

    def action_leave(self) -> None:
        """Pick nothing."""
        self.dismiss(None)
