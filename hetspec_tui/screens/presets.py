"""The Presets page: what there is of each kind, what it resolves to and why, and changing one's own."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import ContentSwitcher, Static

from hetspec_core.service import presets
from hetspec_core.service.presets import PresetLine, PresetView
from hetspec_tui.dialogs import Choose, Confirm, Prompt
from hetspec_tui.formatting import safe
from hetspec_tui.page import Page
from hetspec_tui.pages import OpenPage
from hetspec_tui.preset_rows import difference_of, facts_of, fields_of, items_for, rows_of
from hetspec_tui.widgets.choice_list import NameEntry, NameList
from hetspec_tui.widgets.form import FieldForm

KINDS = tuple(presets.KINDS)
FIRST_KIND = "recipe"
DEBOUNCE_S = 0.12


class PresetsScreen(Page):
    """Names on the left; on the right the highlighted preset as a form, or what differs between two."""

    CRUMB = "Presets"
    CSS_PATH = "presets.tcss"
    CHANGES = frozenset({"copy", "editor", "save", "delete"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right_square_bracket", "kind(1)", "Kind", key_display="[ ]", id="presets.kind"),
        Binding("left_square_bracket", "kind(-1)", "Kind before", show=False, id="presets.kind-before"),
        Binding("slash", "search", "Search", key_display="/", id="presets.search"),
        Binding("l", "launch", "Launch", id="presets.launch"),
        Binding("c", "copy", "Copy", id="presets.copy"),
        Binding("e", "editor", "$EDITOR", id="presets.editor"),
        Binding("d", "compare", "Diff", id="presets.diff"),
        Binding("ctrl+s", "save", "Save", id="presets.save"),
        Binding("o", "stated", "Only stated", show=False, id="presets.stated"),
        Binding("u", "discard", "Undo changes", show=False, id="presets.undo"),
        Binding("y", "copy_path", "Copy path", show=False, id="presets.path"),
        Binding("escape", "close_diff", "Close", show=False, id="presets.close-diff"),
        Binding("ctrl+d", "delete", "Delete", show=False, id="presets.delete"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.kind = FIRST_KIND
        self.lines: tuple[PresetLine, ...] = ()
        self.view: PresetView | None = None
        self.changes: dict[str, Any] = {}
        self.faults: tuple[str, ...] = ()
        self.stated_only = False
        self._wanted = ""
        self._mark = ""
        self._timer: Timer | None = None

    def compose_page(self) -> ComposeResult:
        with Horizontal(id="presets"):
            yield NameList(id="shelf")
            with ContentSwitcher(id="right", initial="preset"):
                with Vertical(id="preset"):
                    yield Static(id="head", markup=False)
                    yield Static(id="facts", markup=False)
                    yield FieldForm(self._check, id="values")
                with VerticalScroll(id="diff"):
                    yield Static(id="difference", markup=False)

    def on_mount(self) -> None:
        self.names.border_title = "presets"
        self.names.focus_names()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self._list()

    def receive(self, about: dict[str, Any]) -> None:
        if about.get("kind") in KINDS:
            self.kind = about["kind"]
        self._wanted = str(about.get("name") or "")
        self.names.end_search()
        self._list()

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.view.line.name if self.view else "", "stated_only": self.stated_only}

    def restore(self, state: dict[str, Any]) -> None:
        self.stated_only = bool(state.get("stated_only"))
        self.receive(state)

    # --- the list -----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> NameList:
        return self.query_one(NameList)

    @work(exclusive=True, group="list")
    async def _list(self) -> None:
        kind, words = self.kind, self.names.words
        found = await self.ask(lambda _: presets.list_presets(kind, words))
        if found is None or kind != self.kind:
            return
        self.lines = found
        self.names.show_kinds(KINDS, kind)
        wanted = self._wanted or (self.view.line.name if self.view is not None else "")
        empty = "none has these words; esc shows all" if words else "there are none"
        self.names.show([self._entry(line) for line in found], wanted, empty)
        if not found:
            self.view = None
            self._draw()
        self._wanted = ""

    def _entry(self, line: PresetLine) -> NameEntry:
        if line.problem:
            return NameEntry(line.name, "✖", "$text-error")
        return NameEntry(line.name, "◆" if line.reference == self._mark else " " if line.shipped else "●")

    @on(NameList.Moved)
    def _moved(self, message: NameList.Moved) -> None:
        if self.view is None or self.view.line.reference != f"{self.kind}/{message.name}":
            self.changes, self.faults = {}, ()
        self._look()

    @on(NameList.Chosen)
    def _chosen(self) -> None:
        self.query_one(FieldForm).list.focus()

    @on(NameList.Searched)
    def _searched(self) -> None:
        self._list()

    @property
    def line(self) -> PresetLine | None:
        name = self.names.name_under_cursor
        return next((line for line in self.lines if line.name == name), None)

    @work(exclusive=True, group="look")
    async def _look(self) -> None:
        line = self.line
        if line is None:
            return
        seen = await self.ask(lambda _: presets.view(line.reference))
        if seen is None or line != self.line:
            return
        self.view = seen
        self.query_one("#right", ContentSwitcher).current = "preset"
        self._draw()
        self.query_one("#facts", Static).update(Content.styled("...", "$foreground-muted"))
        found = await self.ask(lambda workbench: presets.plans(line.reference, workbench.roots))
        if found is not None and line == self.line:
            self.query_one("#facts", Static).update(facts_of(*found))

    def _draw(self) -> None:
        view = self.view
        head = self.query_one("#head", Static)
        form = self.query_one(FieldForm)
        if view is None:
            head.update("")
            self.query_one("#facts", Static).update("")
            form.show([])
            return
        line = view.line
        extends = f"  extends {', '.join(view.lineage)}" if view.lineage else ""
        changed = f"  {len(self.changes)} changed, ctrl+s saves" if self.changes else ""
        problems = [*self.faults] if self.changes else [*view.problems]
        head.update(
            Content.assemble(
                (line.name, "bold"),
                (f"  {line.owner}{extends}", "$foreground-muted"),
                (changed, "$text-accent"),
                *((f"\n✖ {safe(text)}", "$text-error") for text in problems[:3]),
                *([(f"\n✖ and {len(problems) - 3} more", "$text-error")] if len(problems) > 3 else []),
            )
        )
        form.show(rows_of(view, self.changes, problems, stated_only=self.stated_only))

    # --- looking around -----------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "close_diff":
            return self.query_one("#right", ContentSwitcher).current == "diff"
        return super().check_action(action, parameters)

    def action_close_diff(self) -> None:
        self.query_one("#right", ContentSwitcher).current = "preset"
        self.names.focus_names()

    def action_kind(self, step: int) -> None:
        self.kind = KINDS[(KINDS.index(self.kind) + step) % len(KINDS)]
        self.changes, self._wanted = {}, ""
        self._list()

    def action_search(self) -> None:
        self.names.search()

    def action_stated(self) -> None:
        self.stated_only = not self.stated_only
        self._draw()

    def action_copy_path(self) -> None:
        if self.line is not None:
            self.app.copy_to_clipboard(str(self.line.path))
            self.notify(str(self.line.path), title="Copied", timeout=3, markup=False)

    def action_launch(self) -> None:
        if self.line is not None:
            self.post_message(OpenPage("launch", {self.line.kind: self.line.name}))

    @work(exclusive=True, group="diff")
    async def action_compare(self) -> None:
        """Mark a preset, and on another one show what differs."""
        line = self.line
        if line is None:
            return
        marked = self._mark
        if not marked or marked == line.reference or not marked.startswith(f"{line.kind}/"):
            self._mark = "" if marked == line.reference else line.reference
            self.names.redraw([self._entry(each) for each in self.lines])
            if self._mark:
                self.notify("Now go to another one and press d again.", title=f"{line.name} is marked", markup=False)
            return
        found = await self.ask(lambda _: presets.differences(marked, line.reference))
        if found is None:
            return
        first = marked.partition("/")[2]
        switcher = self.query_one("#right", ContentSwitcher)
        width = switcher.size.width - 4
        self.query_one("#difference", Static).update(difference_of(first, line.name, found, width))
        self.query_one("#diff").border_title = Content(f"{first} and {line.name}: {len(found)} keys differ")
        switcher.current = "diff"
        self._mark = ""
        self.names.redraw([self._entry(each) for each in self.lines])
        self.refresh_bindings()

    # --- changing -----------------------------------------------------------------------------------------------------

    def _check(self, key: str, text: str) -> str:
        field = fields_of(self.view).get(key) if self.view is not None else None
        return field.read(text)[1] if field is not None else ""

    @on(FieldForm.Changed)
    def _changed(self, message: FieldForm.Changed) -> None:
        if self.view is None:
            return
        field = fields_of(self.view).get(message.key)
        value = field.read(message.text)[0] if field is not None else message.text
        if value is None and field is not None and field.optional:
            value = "none"  # what is beneath would show, if it were only left out
        self._change(message.key, value)

    @on(FieldForm.Reset)
    def _reset(self, message: FieldForm.Reset) -> None:
        if message.key in self.changes:
            del self.changes[message.key]
            self._changes_made()
        else:
            self._change(message.key, None)

    def _change(self, key: str, value: Any) -> None:
        self.changes[key] = value
        self._changes_made()

    def _changes_made(self) -> None:
        self._draw()
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(DEBOUNCE_S, self._judge)

    @work(exclusive=True, group="judge")
    async def _judge(self) -> None:
        """Check the preset with its changes."""
        view, changes = self.view, dict(self.changes)
        if view is None:
            return
        text = await self.ask(lambda _: presets.with_values(view.line.kind, view.text, changes))
        if text is None:
            return
        faults = await self.ask(lambda _: presets.check_text(view.line.kind, view.line.name, text))
        if faults is not None and changes == self.changes:
            self.faults = faults
            self._draw()

    @on(FieldForm.Picked)
    def _picked(self, message: FieldForm.Picked) -> None:
        self._pick(message.key)

    @work(exclusive=True, group="pick")
    async def _pick(self, key: str) -> None:
        view = self.view
        if view is None:
            return
        items = await self.ask(lambda _: items_for(view, key))
        if not items:
            self.notify(f"{key} is no single line: e opens the file in your editor.", markup=False)
            return
        row = next((row for row in rows_of(view, self.changes, ()) if row.key == key), None)
        answer = await self.app.push_screen_wait(Choose(key, items, row.text if row is not None else None, help=""))
        if answer:
            self._change(key, answer)

    def action_discard(self) -> None:
        self.changes, self.faults = {}, ()
        self._draw()

    @work(exclusive=True, group="write")
    async def action_save(self) -> None:
        """Write the changes into the user's preset; those of a shipped one into a copy."""
        view, changes = self.view, dict(self.changes)
        if view is None or not changes:
            self.notify("Nothing is changed.", timeout=2)
            return
        kind, name, before = view.line.kind, view.line.name, view.text
        replacing: str | None = before
        if view.line.shipped:
            answer = await self._ask_name(view.line, "Save the changes as a preset of yours, called")
            if not answer:
                return
            name, replacing = answer, None
            if any(line.name == name and not line.shipped for line in presets.list_presets(kind)):
                self.notify(f"You have a {kind} preset {name} already.", severity="error", markup=False)
                return
        elif "#" in before and not await self.app.push_screen_wait(
            Confirm(f"Write {name} anew?", "The form keeps no comments of the file; e edits it with them.", yes="Write")
        ):
            return
        text = await self.ask(lambda _: presets.with_values(kind, before, changes))
        if text is None or await self.change(lambda _: presets.save(kind, name, text, replacing=replacing)) is None:
            return
        self.changes, self.faults, self._wanted = {}, (), name
        self.notify(f"{kind}/{name}", title="Saved", timeout=3, markup=False)
        self._list()

    async def _ask_name(self, line: PresetLine, question: str) -> str | None:
        proposed = await self.ask(lambda _: presets.new_name(line.kind, line.name))
        hint = f"{line.name} itself puts yours over the shipped one." if line.shipped else ""
        return await self.app.push_screen_wait(Prompt(question, proposed or "", hint))

    @work(exclusive=True, group="write")
    async def action_copy(self) -> None:
        line = self.line
        if line is not None and (name := await self._ask_name(line, f"Copy {line.name} into your presets as")):
            await self._copied(line, name)

    async def _copied(self, line: PresetLine, name: str) -> PresetLine | None:
        made = await self.change(lambda _: presets.copy(line.reference, name))
        if made is not None:
            self._wanted = made.name
            self.notify(str(made.path), title="Copied", timeout=4, markup=False)
            self._list()
        return made

    @work(exclusive=True, group="write")
    async def action_editor(self) -> None:
        """Edit the file in $EDITOR; of a shipped preset a copy."""
        line: PresetLine | None = self.line
        if line is not None and line.shipped:
            name = await self._ask_name(line, f"{line.name} came with HetSpec. Edit a copy called")
            line = await self._copied(line, name) if name else None
        if line is None:
            return
        self.edit_file(line.path)
        kind, name = line.kind, line.name
        self._wanted = name
        self._list()
        seen = await self.ask(lambda _: presets.view(f"{kind}/{name}"))
        if seen is not None and seen.problems:
            self.notify("\n".join(seen.problems[:4]), title=f"{name} is invalid", severity="error", markup=False)

    @work(exclusive=True, group="write")
    async def action_delete(self) -> None:
        line = self.line
        if line is None:
            return
        details = f"{line.path} is deleted." + (" The shipped one shows again." if line.overrides else "")
        if line.shipped:
            self.notify("This preset is part of HetSpec and cannot be deleted.", severity="warning")
        elif await self.app.push_screen_wait(Confirm(f"Delete your preset {line.name}?", details, yes="Delete")):
            await self.change(lambda _: presets.delete(line.kind, line.name))
            self._list()
