"""The line one writes in: what it shows when its page is gone already."""

from __future__ import annotations

import asyncio

import pytest
from textual.app import App, ComposeResult
from textual.geometry import Region

from hetspec_tui.widgets.composer import Composer


class _Page(App[None]):
    def compose(self) -> ComposeResult:
        yield Composer(placeholder="ask")


@pytest.mark.parametrize("theme", ["textual-dark", "ansi-dark", "ansi-light"])
def test_a_line_that_was_taken_off_its_page_can_still_be_asked_to_draw_itself(theme: str) -> None:
    async def act() -> None:
        app = _Page()
        async with app.run_test() as pilot:
            app.theme = theme
            await pilot.pause()
            composer = app.query_one(Composer)
            composer.put("half a question")
            assert "half a question" in composer.render_lines(Region(0, 0, 30, 3))[1].text
            await composer.remove()
            strips = composer.render_lines(Region(0, 0, 30, 2))
            assert [strip.cell_length for strip in strips] == [30, 30]

    asyncio.run(act())
