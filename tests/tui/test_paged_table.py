"""The table of any number of rows, by the strips it draws and by its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from hetspec_tui.formatting import safe
from hetspec_tui.widgets.cells import GAP, GUTTER, Cell, Column, Row, fit, share_out
from hetspec_tui.widgets.paged_table import PagedTable

COLUMNS = (Column("name", "Name", 12, grow=1, most=30), Column("state", "State", 9), Column("n", "N", 6, "right"))


class TableApp(App[None]):
    """A table whose rows are there as soon as they are asked for, unless `slow`."""

    def __init__(self, keys: Sequence[str], slow: bool = False) -> None:
        super().__init__()
        self.all_keys, self.slow = keys, slow
        self.asked = 0
        self.said: list[object] = []

    def compose(self) -> ComposeResult:
        yield PagedTable(COLUMNS, empty="nothing here\npress n")

    def on_mount(self) -> None:
        table = self.query_one(PagedTable)
        table.focus()
        table.set_keys(self.all_keys)

    def on_paged_table_rows_wanted(self, event: PagedTable.RowsWanted) -> None:
        if not self.slow:
            self.answer(event.table)

    def answer(self, table: PagedTable) -> None:
        wanted = table.missing()
        self.asked += len(wanted)
        table.put_rows(wanted, [row(key) for key in wanted])

    def on_paged_table_selected(self, event: PagedTable.Selected) -> None:
        self.said.append(event.key)

    def on_paged_table_heading_clicked(self, event: PagedTable.HeadingClicked) -> None:
        self.said.append(event.column)


def row(key: str, number: str = "7") -> Row:
    return Row(key, (Cell(f"run {key}"), Cell("✖ failed", "error"), Cell(number)))


def drive(
    keys: Sequence[str],
    act: Callable[[TableApp, PagedTable, Pilot[None]], Awaitable[None]],
    size: tuple[int, int] = (50, 12),
    slow: bool = False,
) -> None:
    async def session() -> None:
        app = TableApp(keys, slow)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await act(app, app.query_one(PagedTable), pilot)

    asyncio.run(session())


def lines(table: PagedTable) -> list[str]:
    return [table.render_line(y).text.rstrip() for y in range(table.view.height)]


def numbered(count: int) -> tuple[str, ...]:
    return tuple(f"{number:06}" for number in range(count))


def test_heading_rows_cursor_and_marks_are_drawn() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        table.set_columns(COLUMNS, ("n", True))
        app.answer(table)
        await pilot.press("space")
        drawn = lines(table)
        assert drawn[0].split() == ["Name", "State", "N▼"]
        assert drawn[1].startswith(" ● run 000000")
        assert drawn[2].startswith("▌  run 000001")
        assert drawn[1].split()[-1] == "7"
        assert all(table.render_line(y).cell_length == table.view.width for y in range(table.view.height))

    drive(numbered(3), act)


def test_a_state_has_its_colour_except_under_the_cursor() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        def colour_of(y: int) -> object:
            return next(part.style.color for part in table.render_line(y) if part.style and "failed" in part.text)

        red = table.get_component_rich_style("paged-table--error").color
        assert colour_of(2) == red
        assert colour_of(1) == table.get_component_rich_style("paged-table--cursor").color
        app.set_focus(None)
        await pilot.pause()
        assert colour_of(1) == red

    drive(numbered(3), act)


def test_marks_have_the_signs_of_their_curves() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        table.set_marks(["000001"])
        table.set_mark_signs({"000001": ("◆", "#ff0000"), "000002": ("▲", "#00ff00")})
        assert table.render_line(2).text.startswith(" ◆ ")
        assert "▲" not in table.render_line(3).text

    drive(numbered(3), act)


@given(text=st.text(max_size=30), width=st.integers(0, 20), align=st.sampled_from(["left", "right"]))
def test_any_text_fills_its_cells_exactly(text: str, width: int, align: str) -> None:
    fitted = fit(text, width, align)  # type: ignore[arg-type]
    assert cell_len(fitted) == width
    assert safe(fitted) == fitted


@pytest.mark.parametrize(
    ("text", "width", "fitted"),
    [
        ("蒸留蒸留", 5, "蒸留…"),
        ("蒸留蒸留", 7, "蒸留蒸…"),
        ("蒸", 1, "…"),
        ("a\tb\x1b[31m", 12, "a\\tb\\x1b[31m"),
        ("x" * 100_000, 4, "xxx…"),
        ("🚀 ok", 5, "🚀 ok"),
        ("[bold]x[/]", 10, "[bold]x[/]"),
    ],
)
def test_wide_odd_and_long_text_is_cut_at_cells(text: str, width: int, fitted: str) -> None:
    assert cell_len(fit(text, width)) == width
    assert fit(text, width).rstrip() == fitted.rstrip()


@given(
    columns=st.lists(
        st.builds(Column, st.just("k"), st.just("t"), st.integers(1, 20), grow=st.integers(0, 3)), max_size=8
    ),
    room=st.integers(0, 200),
)
def test_columns_in_view_share_the_room_and_never_more(columns: list[Column], room: int) -> None:
    widths = share_out(columns, room)
    assert all(width >= column.width for width, column in zip(widths, columns, strict=True))
    ends = [sum(column.width + GAP for column in columns[: n + 1]) - GAP for n in range(len(columns))]
    seen = sum(1 for end in ends if end <= room)
    assert sum(widths[:seen]) + GAP * max(0, seen - 1) <= room


def test_a_hundred_thousand_rows_ask_only_for_those_near_the_view() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        assert table.virtual_size.height == 100_001
        for key in ("end", "home", *["pagedown"] * 30, "end"):
            await pilot.press(key)
        await pilot.pause()
        assert table.cursor_key == "099999"
        assert "run 099999" in lines(table)[-1]
        assert app.asked < 34 * 3 * 12

    drive(numbered(100_000), act)


def test_rows_that_are_not_there_yet_are_drawn_as_such_and_deleted_ones_too() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        assert lines(table)[1] == "▌  …"
        table.put_rows(["000000", "000001"], [row("000001")])
        assert lines(table)[1] == "▌  deleted"
        assert "run 000001" in lines(table)[2]
        assert table.missing() == ["000002"]

    drive(numbered(3), act, slow=True)


def test_the_cursor_stays_on_its_row_when_rows_come_and_go() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        for _ in range(40):
            await pilot.press("down")
        line = table.cursor - table.scroll_offset.y
        table.set_keys(("new-1", "new-2", *numbered(100)))
        await pilot.pause()
        assert table.cursor_key == "000040"
        assert table.cursor == 42
        assert table.cursor - table.scroll_offset.y == line
        table.set_keys([key for key in numbered(100) if key != "000040"])
        assert table.cursor_key == "000043"  # the one that is now at its place

    drive(numbered(100), act)


def test_new_rows_at_the_top_are_seen_while_the_top_is_seen() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        table.set_keys(("new", *numbered(100)))
        await pilot.pause()
        assert "new" in lines(table)[1]
        assert lines(table)[2].startswith("▌  run 000000")

    drive(numbered(100), act)


def test_marks_single_range_and_all() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        await pilot.press("down", "space", "down", "down", "v")
        assert table.marks == ("000001", "000002", "000003", "000004")
        assert table.chosen == table.marks
        await pilot.press("up", "space")
        assert table.marks == ("000001", "000002", "000004")
        table.set_keys(numbered(3))
        assert "000004" in table.marks  # it is only filtered out
        await pilot.press("ctrl+a")
        assert set(table.marks) == {"000000", "000001", "000002", "000004"}
        await pilot.press("ctrl+a")
        assert table.marks == ()
        assert table.chosen == (table.cursor_key,)

    drive(numbered(9), act)


def test_mouse_selects_marks_opens_sorts_and_scrolls() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        await pilot.click(table, offset=(10, 3))
        assert table.cursor == 2
        assert app.said == []
        await pilot.click(table, offset=(10, 3), times=2)
        assert app.said == ["000002"]
        await pilot.click(table, offset=(1, 5))
        assert table.marks == ("000004",)
        await pilot.click(table, offset=(10, 7), shift=True)
        assert table.marks == ("000004", "000005", "000006")
        await pilot.click(table, offset=(GUTTER, 0))
        assert app.said == ["000002", "name"]
        table.scroll_down(animate=False)
        await pilot.pause()
        await pilot.click(table, offset=(10, 1))
        assert table.cursor == table.scroll_offset.y > 0

    drive(numbered(60), act)


def test_columns_beyond_the_edge_come_by_scrolling_and_the_gutter_stays() -> None:
    wide = tuple(Column(f"c{n}", f"Column {n}", 15) for n in range(8))

    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        table.set_columns(wide)
        table.put_rows(["000000"], [Row("000000", tuple(Cell(f"cell {n}") for n in range(8)))])
        assert "Column 7" not in lines(table)[0]
        for _ in range(12):
            await pilot.press("right")
        assert "Column 7" in lines(table)[0]
        assert lines(table)[1].startswith("▌ ")
        assert "cell 7" in lines(table)[1]

    drive(numbered(1), act)


def test_without_rows_it_says_what_to_do() -> None:
    async def act(app: TableApp, table: PagedTable, pilot: Pilot[None]) -> None:
        drawn = [line.strip() for line in lines(table)]
        assert "nothing here" in drawn
        assert drawn[drawn.index("nothing here") + 1] == "press n"
        await pilot.press("enter", "space", "down", "v", "end")
        assert table.cursor_key is None
        assert app.said == []

    drive((), act)


@given(st.lists(st.integers(0, 30), max_size=12, unique=True), st.lists(st.integers(0, 30), max_size=12, unique=True))
def test_any_change_of_rows_leaves_a_cursor_inside(before: list[int], after: list[int]) -> None:
    table = PagedTable(COLUMNS)
    table.post_message = lambda message: True  # type: ignore[method-assign]
    for keys in (before, after):
        table.set_keys(tuple(map(str, keys)))
        assert 0 <= table.cursor < max(1, len(keys))
        assert (table.cursor_key is None) == (not keys)
