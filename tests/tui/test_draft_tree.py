"""The draft tree: every node once, the accepted path unmistakable, no line wider than its room, whatever the tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.style import Style
from textual.app import App, ComposeResult

from hetspec_core.events import TreeStep
from hetspec_tui.widgets.draft_tree import DraftTree, strip_of
from hetspec_tui.widgets.tree_rows import SIGNS, VIEWS, View, best_rejected, rows_of

TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", "\n", "\x1b[31m", "[bold]", "漢字かな", "👩‍👩‍👧", "e\u0301", "\u202e", "\t\t", "a" * 200]
)


@st.composite
def steps(draw: st.DrawFn) -> TreeStep:
    size = draw(st.integers(1, 40))
    parents = [0, *(draw(st.integers(0, node - 1)) for node in range(1, size))]
    path: list[int] = []
    above = 0
    while below := [node for node in range(1, size) if parents[node] == above]:
        if not draw(st.booleans()):
            break
        above = draw(st.sampled_from(below))
        path.append(above)
    shares = st.floats(0, 1)
    return TreeStep(
        index=0,
        tokens=list(range(size)),
        texts=[draw(TEXTS) for _ in range(size)],
        parents=parents,
        draft_probs=[1.0, *(draw(shares) for _ in range(size - 1))],
        base_probs=[1.0, *(draw(shares) for _ in range(size - 1))],
        base_ranks=[0, *(draw(st.integers(0, 50_000)) for _ in range(size - 1))],
        path=path,
        bonus=7,
        bonus_text=draw(TEXTS),
        bonus_prob=draw(shares),
        committed=[*path, 7],
    )


STYLES = {name: Style() for name in ("accepted", "bonus", "best", "rejected", "root", "facts")}


@given(step=steps(), view=st.sampled_from(VIEWS), width=st.integers(1, 120))
@settings(max_examples=150, deadline=None)
def test_rows_show_what_the_step_says_in_no_more_room_than_there_is(step: TreeStep, view: View, width: int) -> None:
    rows = rows_of(step, view)
    shown = [row.node for row in rows if row.node >= 0]
    assert len(shown) == len(set(shown))
    if view != "compact":
        assert sorted(shown) == list(range(len(step.tokens)))
    assert [row.node for row in rows if row.kind == "accepted"] == step.path
    assert [row.kind for row in rows].count("bonus") == 1
    for row in rows:
        strip = strip_of(row, width, Style(), STYLES)
        assert strip.cell_length == width == cell_len(strip.text)
        assert "\n" not in strip.text and "\x1b" not in strip.text


def small(**changes: Any) -> TreeStep:
    known: dict[str, Any] = {
        "index": 0,
        "tokens": [1, 2, 3, 4, 5],
        "texts": ["The", " cat", " dog", " sat", " ran"],
        "parents": [0, 0, 0, 1, 1],
        "draft_probs": [1, 0.6, 0.3, 0.5, 0.2],
        "base_probs": [1, 0.7, 0.1, 0.02, 0.01],
        "base_ranks": [0, 0, 2, 5, 11],
        "path": [1],
        "bonus": 9,
        "bonus_text": " slept",
        "bonus_prob": 0.8,
        "committed": [2, 9],
    }
    return TreeStep.model_validate(known | changes)


def test_the_accepted_path_stands_first_and_the_bonus_below_it() -> None:
    rows = rows_of(small(), "tree")
    assert [(row.kind, row.token) for row in rows] == [
        ("root", "The"),
        ("accepted", " cat"),
        ("bonus", " slept"),
        ("best", " sat"),
        ("rejected", " ran"),
        ("rejected", " dog"),
    ]
    assert rows[3].facts.split() == [".500", ".020", "#6"]
    assert len({SIGNS[row.kind] for row in rows}) == 5, "kinds are told without colour"


def test_the_best_guess_that_failed_is_the_drafts_likeliest_below_the_path() -> None:
    assert best_rejected(small()) == 3
    assert best_rejected(small(path=[])) == 1
    assert best_rejected(small(path=[2])) == 0, "nothing was proposed there"


def test_wide_trees_have_a_table_and_narrow_rooms_a_compact_view() -> None:
    table = rows_of(small(), "table")
    assert [row.branch.strip() for row in table] == ["0", "1", "1", "2", "2", "2"]
    assert "←  cat" in table[3].token
    compact = rows_of(small(), "compact")
    assert [row.kind for row in compact] == ["root", "accepted", "bonus", "best"]
    assert compact[1].token.endswith("+1")


@pytest.mark.parametrize("size", [(30, 8), (80, 24)])
def test_the_widget_shows_steps_and_changes_its_view(size: tuple[int, int]) -> None:
    class Small(App[None]):
        def compose(self) -> ComposeResult:
            yield DraftTree()

    async def drive() -> None:
        app = Small()
        async with app.run_test(size=size) as pilot:
            tree = app.query_one(DraftTree)
            tree.show(small())
            tree.focus()
            await pilot.pause()
            assert "cat" in tree.render_line(1).text and "●" in tree.render_line(1).text
            await pilot.press("v", "v")
            assert tree.view == "compact" and len(tree.rows) == 4
            tree.show(None)
            await pilot.pause()
            assert "no draft tree yet" in tree.render_line(0).text

    asyncio.run(drive())
