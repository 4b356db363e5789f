"""A form with one line per field, for hundreds of fields: a list, and one line in which a field is edited.

The text is checked at every key press. An invalid value cannot be accepted, and the reason stands below it. The owner
of the form gives the check and acts on `Changed`, `Reset` and `Picked`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.events import Resize
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.choice_list import ChoiceList

Check = Callable[[str, str], str]
"""(key, text) -> why the text is invalid; empty when it is valid."""

_HEAD = "head:"


@dataclass(frozen=True)
class FormRow:
    """One field of a form.

    Attributes:
        key: its name in messages; the search looks at it too.
        title: its name in the form.
        section: the heading above it.
        kind: how it is edited: bool (toggled), pick (the owner opens a list), fixed (the owner gives the reason), or
            anything else (a line of text).
        text: its value as it would be typed.
        source: where the value comes from; `short` in a few letters.
        needs: the values that it takes.
        help: its purpose.
        changed: whether the user has set it here.
        fault: why the value is invalid; empty when it is valid.
    """

    key: str
    title: str
    section: str
    kind: str = "text"
    text: str = ""
    source: str = ""
    short: str = ""
    needs: str = ""
    help: str = ""
    changed: bool = False
    fault: str = ""


class FieldList(ChoiceList):
    """The fields: Enter edits one."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "Edit", id="form.edit")]


class FieldForm(Vertical):
    """Fields with search, editing and reset.

    Args:
        check: called at every key press.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "edit", show=False, id="form.toggle"),
        Binding("slash", "search", "Search", key_display="/", id="form.search"),
        Binding("backspace,delete", "reset", "Reset", key_display="⌫", id="form.reset"),
        Binding("x", "first_fault", "First fault", show=False, id="form.fault"),
        Binding("down", "to_list", show=False, id="form.search-list"),
        Binding("escape", "leave", "Leave", id="form.leave"),
    ]
    DEFAULT_CSS = """
    FieldForm {
        height: 1fr;

        #form-search {
            display: none;
            height: 1;
            border: none;
            padding: 0 1;
            background: $boost;
        }

        #form-list {
            height: 1fr;
            border: none;
            padding: 0;
            background: transparent;
            scrollbar-size-vertical: 1;
        }

        #form-editor {
            height: 4;
            padding: 0 1;
            border-top: solid $panel;
        }

        #form-input {
            display: none;
            height: 1;
            border: none;
            padding: 0;
            background: $boost;
        }

        #form-about, #form-value, #form-message {
            height: 1;
        }

        #form-message { color: $text-muted; }

        &.-searching #form-search { display: block; }

        &.-editing {
            #form-input { display: block; }
            #form-value { display: none; }
        }

        &.-fault #form-message { color: $text-error; }

        &.-tight #form-editor {
            height: 2;
            border: none;
            #form-about { display: none; }
        }

        &.-roomy #form-editor {
            height: 6;
        }

        &.-roomy #form-message {
            height: 3;
        }
    }
    """

    @dataclass
    class Changed(Message):
        """A value was accepted."""

        key: str
        text: str

    @dataclass
    class Reset(Message):
        """The user wants the value that the field would have without this form."""

        key: str

    @dataclass
    class Picked(Message):
        """A field of kind `pick` or `fixed` was entered: the owner opens its list, or gives the reason."""

        key: str

    def __init__(self, check: Check, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._check = check
        self._rows: dict[str, FormRow] = {}
        self._words = ""
        self._editing = ""

    def compose(self) -> ComposeResult:
        yield Input(placeholder="search every setting; esc shows all", id="form-search", compact=True)
        yield FieldList(id="form-list", markup=False)
        with Vertical(id="form-editor"):
            yield Static(id="form-about", markup=False)
            yield Static(id="form-value", markup=False)
            yield Input(id="form-input", compact=True)
            yield Static(id="form-message", markup=False)

    @property
    def list(self) -> OptionList:
        return self.query_one("#form-list", OptionList)

    @property
    def editing(self) -> bool:
        """Whether a field is being typed in."""
        return bool(self._editing)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "leave":
            return self.editing or self.has_class("-searching")
        if action == "to_list":
            return self.query_one("#form-search").has_focus
        if action in ("edit", "search", "reset", "first_fault"):
            return self.list.has_focus
        return super().check_action(action, parameters)

    def action_edit(self) -> None:
        if self.highlighted is not None:
            self.edit(self.highlighted.key)

    def action_search(self) -> None:
        self.add_class("-searching")
        self.screen.set_focus(self.query_one("#form-search"))  # now: the next letters must reach it

    def action_to_list(self) -> None:
        self.screen.set_focus(self.list)

    def action_leave(self) -> None:
        """Cancel the editing, or show every field again."""
        if self.editing:
            self.leave_editor()
        else:
            self.query_one("#form-search", Input).value = ""
            self.remove_class("-searching")
            self.screen.set_focus(self.list)

    def action_reset(self) -> None:
        row = self.highlighted
        if row is not None and row.changed:
            self.post_message(self.Reset(row.key))

    def action_first_fault(self) -> None:
        row = self.first_fault()
        if row is not None:
            self.go_to(row.key)

    # --- content ------------------------------------------------------------------------------------------------------

    def show(self, rows: Sequence[FormRow]) -> None:
        """Show these fields; the highlighted one and the position in the list stay if possible."""
        before = self._rows
        self._rows = {row.key: row for row in rows}
        if [row.key for row in rows] == list(before) and self.list.option_count:
            for key, row in self._rows.items():
                if row != before[key] and self._is_listed(key):
                    self.list.replace_option_prompt(key, self._line(row))
        else:
            self._fill()
        self._show_about()

    @property
    def highlighted(self) -> FormRow | None:
        """The field that the cursor is on."""
        option = self.list.highlighted_option
        return self._rows.get(option.id or "") if option is not None else None

    def go_to(self, key: str) -> None:
        """Put the cursor on a field, even if the search hides it."""
        if key in self._rows and not self._is_listed(key):
            self.query_one("#form-search", Input).value = ""
            self._words = ""
            self._fill()
        if self._is_listed(key):
            self.list.highlighted = self.list.get_option_index(key)
        self.screen.set_focus(self.list)

    def first_fault(self) -> FormRow | None:
        return next((row for row in self._rows.values() if row.fault), None)

    def _is_listed(self, key: str) -> bool:
        return any(option.id == key for option in self.list.options)

    def _fill(self) -> None:
        kept = self.highlighted
        words = self._words.casefold().split()
        options: list[Option] = []
        section = None
        for row in self._rows.values():
            text = f"{row.key} {row.title} {row.help} {row.text}".casefold()
            if not all(word in text for word in words):
                continue
            if row.section != section:
                section = row.section
                options.append(Option(self._heading(section), id=f"{_HEAD}{len(options)}", disabled=True))
            options.append(Option(self._line(row), id=row.key))
        if not options:
            options = [Option(f"nothing has {self._words!r}; esc shows all", id=_HEAD, disabled=True)]
        shown = self.list
        shown.clear_options()
        shown.add_options(options)
        if kept is not None and self._is_listed(kept.key):
            shown.highlighted = shown.get_option_index(kept.key)
        else:
            shown.action_first()

    def _heading(self, section: str) -> Content:
        return Content.assemble((f" {section}", "bold $primary"))

    def _line(self, row: FormRow) -> Content:
        width = max(30, self.list.size.width - 2)
        title_width = min(38, max(18, width * 9 // 20))
        room = width - title_width - 4
        source = safe(row.fault or row.short or row.source)
        text = safe(row.text) or "-"
        value_width = max(min(len(text) + 1, room), min(30, room * 3 // 5))
        sign, style = ("✖", "$text-error") if row.fault else ("●", "$text-accent") if row.changed else (" ", "")
        value = _cut(text, value_width - 1)
        source = _cut(source, room - value_width) if room - value_width >= 6 else ""
        return Content.assemble(
            (f" {sign} ", style),
            (_cut(row.title, title_width).ljust(title_width), "$text-error" if row.fault else ""),
            " ",
            (value.ljust(value_width), "bold" if row.changed else "$text-accent" if row.kind == "pick" else ""),
            (source, "$text-error" if row.fault else "$foreground-muted"),
        )

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.height >= 28, "-roomy")
        self.set_class(event.size.height < 9, "-tight")
        self.call_after_refresh(self._fill)

    @on(OptionList.OptionHighlighted, "#form-list")
    def _moved(self) -> None:
        if not self._editing:
            self._show_about()

    def _show_about(self) -> None:
        row = self._rows.get(self._editing) or self.highlighted
        if row is None:
            for name in ("about", "value", "message"):
                self.query_one(f"#form-{name}", Static).update("")
            return
        needs = f"  {row.needs}" if row.needs else ""
        self.query_one("#form-about", Static).update(
            Content.assemble((row.key, "bold"), (safe(needs), "$foreground-muted"))
        )
        self.query_one("#form-value", Static).update(
            Content.assemble(safe(row.text) or "-", (f"   {safe(row.source)}", "$foreground-muted"))
        )
        if not self._editing:
            self._say(row.fault, row.help)

    def _say(self, fault: str, otherwise: str) -> None:
        self.set_class(bool(fault), "-fault")
        self.query_one("#form-message", Static).update(f"✖ {safe(fault)}" if fault else safe(otherwise))

    # --- editing ------------------------------------------------------------------------------------------------------

    @on(OptionList.OptionSelected, "#form-list")
    def _entered(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        row = self._rows.get(event.option.id or "")
        if row is not None:
            self.edit(row.key)

    def edit(self, key: str) -> None:
        """Toggle a field, open its list, or begin to type in it."""
        row = self._rows[key]
        if row.kind == "bool":
            self.post_message(self.Changed(key, "false" if row.text == "true" else "true"))
        elif row.kind in ("pick", "fixed"):
            self.post_message(self.Picked(key))
        else:
            self._editing = key
            self.add_class("-editing")
            line = self.query_one("#form-input", Input)
            with line.prevent(Input.Changed):
                line.value = row.text
            line.cursor_position = len(row.text)
            self.screen.set_focus(line)  # now: the next letters must reach it
            self._show_about()
            self._judge(row.text)

    @on(Input.Changed, "#form-input")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self._editing:
            self._judge(event.value)

    def _judge(self, text: str) -> str:
        fault = self._check(self._editing, text)
        self._say(fault, f"enter takes it, esc leaves it as it was. {self._rows[self._editing].help}")
        return fault

    @on(Input.Submitted, "#form-input")
    def _accepted(self, event: Input.Submitted) -> None:
        event.stop()
        if not self._editing:
            return
        if self._judge(event.value):
            self.app.bell()
            return
        key = self._editing
        self.leave_editor()
        if event.value != self._rows[key].text:
            self._rows[key] = replace(self._rows[key], text=event.value, changed=True, fault="")
            if self._is_listed(key):
                self.list.replace_option_prompt(key, self._line(self._rows[key]))
            self.post_message(self.Changed(key, event.value))

    def leave_editor(self) -> None:
        """Close the editor without a change."""
        self._editing = ""
        self.remove_class("-editing")
        self.screen.set_focus(self.list)
        self._show_about()

    @on(Input.Changed, "#form-search")
    def _searched(self, event: Input.Changed) -> None:
        event.stop()
        self._words = event.value
        self._fill()

    @on(Input.Submitted, "#form-search")
    def _found(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.set_focus(self.list)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
