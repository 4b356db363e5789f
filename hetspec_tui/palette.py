"""What the command palette (ctrl+p) offers: only what can be done now. It asks the desk for runs and presets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual import on
from textual.command import CommandPalette, DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.fuzzy import Matcher
from textual.markup import escape
from textual.widgets import Input

from hetspec_core.errors import HetSpecError
from hetspec_tui import pages
from hetspec_tui.formatting import STATE_SIGNS, safe
from hetspec_tui.pages import OpenPage, OpenRun

if TYPE_CHECKING:
    from hetspec_core.service.presets import PresetLine
    from hetspec_core.service.report import RunSummary
    from hetspec_core.service.workbench import Workbench
    from hetspec_tui.desk import HasDesk

MOST_FOUND = 12
_SUBMIT = "submit"
"""Group of the worker that waits for a search."""


class _Listed(Provider):
    """A provider of a few commands that are known at once."""

    def commands(self) -> list[tuple[str, str, Callable[[], Any]]]:
        """Name, help and what it does, of each."""
        return []

    async def discover(self) -> Hits:
        for name, about, act in self.commands():
            yield DiscoveryHit(name, act, help=escape(about))

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, about, act in self.commands():
            if (score := matcher.match(name)) > 0:
                yield Hit(score, _highlighted(matcher, name), act, help=escape(about))


class PageCommands(_Listed):
    """Go to another page."""

    def commands(self) -> list[tuple[str, str, Callable[[], Any]]]:
        return [
            (f"Go to {entry.title}", f"{entry.about} ({entry.key})", partial(self._open, entry.name))
            for entry in pages.available()
            if entry.name != self.app.current_mode
        ]

    def _open(self, name: str) -> None:
        self.app.post_message(OpenPage(name))


_LEFT_OUT = ("page(", "palette", "move(", "turn(", "cursor_", "page_up", "page_down", "first", "last")
"""Prefixes of actions that the palette omits: it offers pages by other entries, and navigation keys need no entry."""


class ActionCommands(_Listed):
    """Every action that has a key here, with the key."""

    def commands(self) -> list[tuple[str, str, Callable[[], Any]]]:
        found: dict[str, tuple[str, str, Callable[[], Any]]] = {}
        for active in self.screen.active_bindings.values():
            binding = active.binding
            shown = active.enabled and binding.description and binding.id
            if not shown or binding.action.startswith(_LEFT_OUT):
                continue
            act = partial(self.app.run_action, binding.action, active.node)
            key = self.app.get_key_display(binding)
            found.setdefault(binding.action, (binding.description, f"key {key}", act))
        return list(found.values())


class FindRuns(Provider):
    """Open a run by its name, id, tag or note."""

    async def search(self, query: str) -> Hits:
        text = query.strip()
        if len(text) < 2:
            return
        try:
            runs = await cast("HasDesk", self.app).desk.ask(partial(_find_runs, text=text))
        except HetSpecError:
            return
        matcher = self.matcher(query)
        for run in runs:
            name = safe(f"{run.name or run.run_id}  {run.run_id if run.name else ''}".strip())
            about = f"{STATE_SIGNS[run.state]} {run.state} {run.stage} run"
            yield Hit(
                max(matcher.match(name), 0.1), _highlighted(matcher, name), partial(self._open, run.run_id), help=about
            )

    def _open(self, run_id: str) -> None:
        self.app.post_message(OpenRun(run_id))


class PresetCommands(Provider):
    """Show a preset, or launch a recipe."""

    async def search(self, query: str) -> Hits:
        if len(query.strip()) < 2:
            return
        here = {entry.name for entry in pages.available()}
        lines = await cast("HasDesk", self.app).desk.ask(lambda _: _presets())
        matcher = self.matcher(query)
        for line in lines:
            name = f"{line.kind}/{line.name}"
            if (score := matcher.match(name)) > 0 and "presets" in here:
                about = {"kind": line.kind, "name": line.name}
                act = partial(self.app.post_message, OpenPage("presets", about))
                yield Hit(score, _highlighted(matcher, name), act, help=escape(safe(line.summary)))
            name = f"Launch {line.name}"
            if line.kind == "recipe" and "launch" in here and (score := matcher.match(name)) > 0:
                act = partial(self.app.post_message, OpenPage("launch", {"recipe": line.name}))
                yield Hit(score, _highlighted(matcher, name), act, help=escape(safe(line.summary)))


class ThemeCommands(_Listed):
    """Change the theme."""

    def commands(self) -> list[tuple[str, str, Callable[[], Any]]]:
        return [
            (f"Theme {name}", "colours of the dashboard", partial(self._use, name))
            for name in sorted(self.app.available_themes)
            if name != self.app.theme
        ]

    async def discover(self) -> Hits:
        return
        yield  # the themes are many, and have a list of their own

    def _use(self, name: str) -> None:
        self.app.theme = name


class Palette(CommandPalette):
    """Textual's palette, in which Enter takes a command that was found for all of the words before it.

    The search takes a moment, and until it has ended the list shows what was found for fewer words.
    """

    @on(Input.Submitted)
    def _take_when_found(self, event: Input.Submitted) -> None:
        if self._is_searching():
            event.stop()
            event.prevent_default()
            self.run_worker(self._submit_when_found(event.input), group=_SUBMIT, exclusive=True)

    async def _submit_when_found(self, line: Input) -> None:
        while self._is_searching():
            await asyncio.sleep(0.01)
        if self.is_current:
            await line.action_submit()

    def _is_searching(self) -> bool:
        own = [worker for worker in self.workers if worker.node is self and worker.group != _SUBMIT]
        return any(not worker.is_finished for worker in own)


PROVIDERS = (PageCommands, ActionCommands, FindRuns, PresetCommands, ThemeCommands)


def _highlighted(matcher: Matcher, text: str) -> Content:
    """The text with the letters that match; unlike Textual's own way, it takes nothing in the text for markup."""
    _, offsets = matcher.fuzzy_search.match(matcher.query, text)
    shown = Content(text)
    for offset in offsets:
        shown = shown.stylize(matcher.match_style, offset, offset + 1)
    return shown


def _find_runs(workbench: Workbench, text: str) -> list[RunSummary]:
    return workbench.summaries([f"text:{text}"], limit=MOST_FOUND)


def _presets() -> tuple[PresetLine, ...]:
    from hetspec_core.service.presets import list_presets

    return list_presets()
