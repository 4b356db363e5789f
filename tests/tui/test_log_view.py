"""The log view: what is on the screen of any lines, following, filtering, wrapping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input, Static

from benchmarks.log_view import FileSource
from hetspec_tui.widgets.log_lines import LineFilter, LogLines
from hetspec_tui.widgets.log_view import LineSource, ListSource, LogView


class LogApp(App[None]):
    def compose(self) -> ComposeResult:
        yield LogView()


Act = Callable[[LogView, Pilot[None]], Awaitable[None]]


def drive(source: LineSource, act: Act, size: tuple[int, int] = (60, 12)) -> None:
    async def session() -> None:
        app = LogApp()
        async with app.run_test(size=size) as pilot:
            view = app.query_one(LogView)
            view.set_source(source)
            view.lines.focus()
            await settle(view, pilot)
            await act(view, pilot)

    asyncio.run(session())


async def settle(view: LogView, pilot: Pilot[None]) -> None:
    """Let it look at its source, and bring the lines that it lacks."""
    for _ in range(2):
        await pilot.pause()
        view._tick()
        await view.workers.wait_for_complete()
    await pilot.pause()


def shown(view: LogView) -> list[str]:
    lines = view.lines
    return [lines.render_line(y).text.rstrip() for y in range(lines.scrollable_content_region.height)]


def status(view: LogView) -> str:
    return str(view.query_one(".log-status", Static).render())


def many(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


def test_it_follows_pauses_when_one_scrolls_up_and_end_resumes() -> None:
    source = ListSource(many(100))

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        assert shown(view)[-1] == "line 99"
        source.extend(["line 100"])
        await settle(view, pilot)
        assert shown(view)[-1] == "line 100"
        await pilot.press("up")
        before = shown(view)
        source.extend([f"line {number}" for number in range(101, 224)])
        await settle(view, pilot)
        assert shown(view) == before
        assert "+123 new lines" in status(view)
        await pilot.press("end")
        await settle(view, pilot)
        assert shown(view)[-1] == "line 223"
        assert "new lines" not in status(view)

    drive(source, act)


def test_the_wheel_pauses_too_and_scrolling_down_to_the_end_follows_again() -> None:
    source = ListSource(many(100))

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        view.lines.scroll_to(y=20, animate=False, immediate=True)
        assert not view.lines.following
        await settle(view, pilot)
        assert shown(view)[0] == "line 20"
        await pilot.press("pagedown")
        await settle(view, pilot)
        assert shown(view)[0] == f"line {20 + view.lines._height - 1}"
        for _ in range(12):
            await pilot.press("pagedown")
        assert view.lines.following
        await pilot.press("home")
        await settle(view, pilot)
        assert shown(view)[0] == "line 0"

    drive(source, act)


def test_a_filter_shows_its_matches_as_it_is_typed_and_escape_restores() -> None:
    source = ListSource(many(300))

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"99")
        await settle(view, pilot)
        assert [row.strip() for row in shown(view) if row] == ["100 line 99", "200 line 199", "300 line 299"]
        assert "3/300" in status(view)
        source.extend(["line 999"])
        await settle(view, pilot)
        assert "4/301" in status(view)
        await pilot.press("enter")
        assert view.lines.has_focus
        await pilot.press("slash", "9", "escape")
        await settle(view, pilot)
        assert view.filter is not None and view.filter.text == "99"
        await pilot.press("escape")
        await settle(view, pilot)
        assert view.filter is None
        assert shown(view)[-1] == "line 999"

    drive(source, act)


def test_what_is_typed_right_behind_the_key_goes_into_the_filter() -> None:
    async def act(view: LogView, pilot: Pilot[None]) -> None:
        view.action_filter()
        entry = view.query_one(Input)
        assert view.app.focused is entry  # without waiting for anything
        await pilot.pause()
        assert entry.size.height == 1
        await pilot.press("a", "enter")
        assert view.app.focused is view.lines and not entry.display

    drive(ListSource(many(3)), act)


def test_an_inverse_filter_shows_the_others() -> None:
    source = ListSource(["keep 1", "drop", "keep 2", "DROP"])

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"!drop")
        await settle(view, pilot)
        assert [row.split(" ", 1)[1] for row in shown(view) if row] == ["keep 1", "keep 2"]

    drive(source, act)


@pytest.mark.parametrize("wrong", ["(", "[a", "*", "a{3,1}"])
def test_a_wrong_pattern_is_red_and_keeps_the_last_result(wrong: str) -> None:
    source = ListSource(["a", "b"])

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        view.action_filter()
        entry = view.query_one(Input)
        entry.value = "a"
        await settle(view, pilot)
        entry.value = wrong
        await settle(view, pilot)
        assert entry.has_class("-wrong")
        assert "not a pattern" in status(view)
        assert [row for row in shown(view) if row] == ["1 a"]
        entry.value = "b"
        await settle(view, pilot)
        assert not entry.has_class("-wrong")
        assert [row for row in shown(view) if row] == ["2 b"]

    drive(source, act)


def test_no_text_is_no_filter() -> None:
    assert LineFilter.parse("") is LineFilter.parse("!") is None


def test_matches_are_visited_among_all_lines() -> None:
    source = ListSource(many(300))

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"50$", "enter", "m")
        await settle(view, pilot)
        visited = []
        for key in ("n", "n", "N", "n", "n"):
            await pilot.press(key)
            await settle(view, pilot)
            visited.append(view.lines.here)
            assert f"line {view.lines.here}" in shown(view)
        assert visited == [50, 150, 50, 150, 250]
        await pilot.press("n")
        assert view.lines.here == 50

    drive(source, act)


def test_wrapping_shows_every_letter_and_the_end_of_the_last_line() -> None:
    lines = [f"{number:03d}" + "x" * 130 + f"end{number:03d}" for number in range(14)]

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        assert "end013" not in "".join(shown(view))
        await pilot.press("w")
        await settle(view, pilot)
        assert shown(view)[-1].endswith("end013")
        seen = set()
        await pilot.press("home")
        for _ in range(30):
            await settle(view, pilot)
            seen |= {word[:6] for row in shown(view) for word in row.split("x") if word.startswith("end")}
            if view.lines.following:
                break
            await pilot.press("down")
        assert seen == {f"end{number:03d}" for number in range(14)}
        for _ in range(3):
            await pilot.press("pageup", "pagedown")

    drive(ListSource(lines), act, (50, 12))


def test_colours_are_kept_and_markup_is_not_markup() -> None:
    source = ListSource(["\x1b[31mred\x1b[0m plain", "[bold]no[/bold] [/] [@click=quit]x[/]"])

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        first = [segment for segment in view.lines.render_line(0) if segment.text == "red"]
        assert first and first[0].style is not None and first[0].style.color is not None
        assert first[0].style.color.number == 1
        assert shown(view)[1] == "[bold]no[/bold] [/] [@click=quit]x[/]"
        assert not any(segment.style and segment.style.meta for segment in view.lines.render_line(1))

    drive(source, act)


def test_what_is_seen_can_be_copied() -> None:
    source = ListSource(["\x1b[31mred\x1b[0m", "漢字"])

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        await pilot.press("c")
        assert view.app.clipboard == "red\n漢字"

    drive(source, act)


def test_an_open_line_is_seen_as_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.log"
    path.write_text("start\n 10%")

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        assert shown(view)[:2] == ["start", " 10%"]
        with path.open("a") as file:
            file.write("\r 20%")
        await settle(view, pilot)
        assert shown(view)[:2] == ["start", " 20%"]
        with path.open("a") as file:
            file.write("\r100%\ndone\n")
        await settle(view, pilot)
        assert shown(view)[:3] == ["start", "100%", "done"]
        path.write_text("anew\n")
        await settle(view, pilot)
        assert [row for row in shown(view) if row] == ["anew"]
        path.unlink()
        await settle(view, pilot)
        assert [row for row in shown(view) if row] == []
        assert "no lines yet" in status(view)

    drive(FileSource(path), act)


def test_a_long_log_shows_its_end_at_once_and_any_other_place_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "big.log"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(400_000)))

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        assert shown(view)[-1] == "line 399999"
        view.lines.go_to(123_456)
        await settle(view, pilot)
        assert f"line {123_456}" in shown(view)
        assert len(view.lines._lines) < 2000
        await pilot.press("slash", *"77777")
        await settle(view, pilot)
        assert "4/400,000" in status(view)

    drive(FileSource(path), act)


@pytest.mark.parametrize("wrap", [False, True])
def test_a_storm_of_sizes_and_keys_leaves_a_working_view(wrap: bool) -> None:
    source = ListSource([f"{number} " + "漢字 wide " * (number % 9) for number in range(200)])

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        if wrap:
            await pilot.press("w")
        for size in [(1, 1), (2, 3), (30, 2), (200, 60), (80, 24)]:
            await pilot.resize_terminal(*size)
            await pilot.press("pageup", "home", "end")
            await settle(view, pilot)
            shown(view)
        assert view.lines.following
        assert [row for row in shown(view) if row][-1].startswith(("199", "wide", "漢字"))

    drive(source, act)


def test_lines_are_asked_for_once() -> None:
    asked: list[Sequence[int]] = []

    class Counting(ListSource):
        async def lines(self, numbers: Sequence[int]) -> list[str]:
            asked.append(list(numbers))
            return await super().lines(numbers)

    async def act(view: LogView, pilot: Pilot[None]) -> None:
        asked.clear()
        await pilot.press("up", "up", "up", "down")
        await settle(view, pilot)
        assert len(asked) <= 1
        assert isinstance(view.query_one(LogLines), LogLines)

    drive(Counting(many(1000)), act)
