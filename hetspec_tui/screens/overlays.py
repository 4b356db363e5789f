"""The screens that a key opens above any page: the list of keys, letters to jump by, and the themes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Key, Resize
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.widgets.choice_list import ChoiceList

_KINDS = {
    "PagedTable": "Table",
    "CardList": "Cards",
    "CurvesPane": "Curves",
    "Chart": "Chart",
    "LogView": "Log",
    "LogLines": "Log lines",
    "DraftTreeView": "Draft tree",
    "Transcript": "Conversation",
    "Composer": "Question",
    "FieldForm": "Form",
    "Input": "Text line",
    "Tabs": "Panes",
    "ScrollView": "Text",
    "ScrollableContainer": "Text",
}
"""Class of a widget that has keys and no title -> its word in the list of keys."""

LETTERS = "asdfghjklqwertyuiopzxcvbnm1234567890"


@dataclass(frozen=True)
class HelpLine:
    """One binding: where it belongs, its keys as they are shown, what it does, its id for the keymap file."""

    place: str
    keys: str
    text: str
    name: str
    enabled: bool = True


def help_lines(app: App[Any]) -> tuple[list[ActiveBinding], list[HelpLine]]:
    """Every key that does something on the screen on top, and its line, those of one place together."""
    below = app.screen
    rank = {below: 1, app: 2}
    found: dict[tuple[Any, str], list[ActiveBinding]] = {}
    for active in below.active_bindings.values():
        if active.binding.description and not active.binding.system and not active.binding.key.startswith("super+"):
            found.setdefault((active.node, active.binding.action), []).append(active)
    # Of one place our bindings come first; those that Textual gives to a widget (scrolling) have no id.
    order = [
        ways[0] for ways in sorted(found.values(), key=lambda ways: (rank.get(ways[0].node, 0), not ways[0].binding.id))
    ]
    lines = [
        HelpLine(
            place="Everywhere" if active.node is app else "Here" if active.node is below else _place(active.node),
            keys=" ".join(
                dict.fromkeys(app.get_key_display(way.binding) for way in found[active.node, active.binding.action])
            ),
            text=active.binding.tooltip or active.binding.description,
            name=active.binding.id or "",
            enabled=active.enabled,
        )
        for active in order
    ]
    return order, lines


def _place(node: Any) -> str:
    """What a place is called in the list of keys: its title, else the kind of widget in words."""
    names = (name for kind in type(node).__mro__ if (name := _KINDS.get(kind.__name__)))
    return (getattr(node, "BINDING_GROUP_TITLE", None) or node.border_title or next(names, "List")).strip()


class HelpScreen(ModalScreen[int | None]):
    """A list that narrows as one types; gives the number of the line that was chosen.

    Args:
        lines: the bindings, those of one place together.
        title: of what they are.
    """

    CSS_PATH = "overlays.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close", id="help.close"),
        Binding("down", "move(1)", "Next", id="help.down"),
        Binding("up", "move(-1)", "Previous", id="help.up"),
        Binding("pagedown", "move(10)", "Ten on", id="help.page_down"),
        Binding("pageup", "move(-10)", "Ten back", id="help.page_up"),
    ]

    def __init__(self, lines: Sequence[HelpLine], title: str) -> None:
        super().__init__(classes="dialog -large")
        self._lines = list(lines)
        self._title = title

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog-box"):
            yield Static(self._title, markup=False, classes="dialog-title")
            yield Input(placeholder="type to filter", id="help-filter", compact=True)
            yield ChoiceList(id="help-list")
            yield Static("Enter does it   Esc closes   ids are for keys.toml", markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one("#help-list").can_focus = False
        self._show("")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show(event.value)

    def on_input_submitted(self) -> None:
        chosen = self.query_one(OptionList).highlighted_option
        if chosen is not None and chosen.id is not None:
            self.dismiss(int(chosen.id))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option.id is not None:
            self.dismiss(int(event.option.id))

    def _show(self, text: str) -> None:
        words = text.lower().split()
        texts = [line.text for line in self._lines]
        found = self.query_one(OptionList)
        found.clear_options()
        place = ""
        width = min(48, max(map(len, texts))) if self.app.size.width >= 100 and texts else 27
        for number, line in enumerate(self._lines):
            if not all(word in f"{line.place} {line.keys} {line.text} {line.name}".lower() for word in words):
                continue
            if line.place != place:
                place = line.place
                found.add_option(Option(Content.styled(place, "bold $primary"), disabled=True))
            prompt = Content.assemble(
                (f"  {line.keys:>12}  ", "bold $accent"),
                (line.text.ljust(width), "" if line.enabled else "strike $foreground-disabled"),
                ("" if line.enabled else " (not now)", "$foreground-muted"),
                (f"  {line.name}", "$foreground-muted"),
            )
            found.add_option(Option(prompt, id=str(number), disabled=not line.enabled))
        if not found.option_count:
            found.add_option(Option("No key does that. Esc closes.", disabled=True))
        found.action_first()

    def action_move(self, by: int) -> None:
        found = self.query_one(OptionList)
        for _ in range(abs(by)):
            if by > 0:
                found.action_cursor_down()
            else:
                found.action_cursor_up()

    def action_leave(self) -> None:
        self.dismiss(None)


class JumpScreen(ModalScreen[Widget | None]):
    """Letters over the screen below; gives the widget whose letter was pressed."""

    CSS_PATH = "overlays.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+o", "leave", "Leave", id="jump.leave")]

    def __init__(self, targets: list[Widget]) -> None:
        super().__init__()
        self._targets = dict(zip(LETTERS, targets, strict=False))

    def compose(self) -> ComposeResult:
        for letter, target in self._targets.items():
            label = Label(f" {letter} ", classes="jump-letter", markup=False)
            label.styles.offset = (target.region.x, target.region.y)
            yield label
        yield Static("press a letter to go there, Esc to stay", id="jump-hint", markup=False)

    def on_resize(self, event: Resize) -> None:
        for label, target in zip(self.query(".jump-letter"), self._targets.values(), strict=False):
            label.styles.offset = (target.region.x, target.region.y)

    def on_key(self, event: Key) -> None:
        if event.character in self._targets:
            event.stop()
            self.dismiss(self._targets[event.character])

    def action_leave(self) -> None:
        self.dismiss(None)


class ThemeScreen(ModalScreen[str | None]):
    """A list of the themes; gives the name of the one that was chosen, None when all is to stay as it was."""

    CSS_PATH = "overlays.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave", id="themes.leave")]

    def __init__(self) -> None:
        super().__init__(classes="dialog")

    def compose(self) -> ComposeResult:
        self._before = self.app.theme
        names = sorted(self.app.available_themes)
        with Vertical(classes="dialog-box"):
            yield Static("Theme", markup=False, classes="dialog-title")
            yield ChoiceList(*(Option(name, id=name) for name in names), markup=False)
            yield Static("arrows show it, Enter keeps it, Esc goes back", markup=False, classes="dialog-hint")

    def on_mount(self) -> None:
        choices = self.query_one(OptionList)
        choices.highlighted = choices.get_option_index(self._before)
        choices.focus()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option.id and event.option.id != self.app.theme:
            self.app.theme = event.option.id

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def action_leave(self) -> None:
        self.app.theme = self._before
        self.dismiss(None)
