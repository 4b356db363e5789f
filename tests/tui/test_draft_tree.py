"""The draft tree's three views: every node once, the accepted path marked, no line wider than the room, any text."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from hetspec_core.events.steps import TreeStep
from hetspec_core.service.chat.answer import best_rejected, shown
from hetspec_core.service.traces.files import load_trace
from hetspec_tui.formatting import safe
from hetspec_tui.screens.chat.tree_pane import failed_node
from hetspec_tui.widgets.draft_tree import (
    BONUS,
    SIGNS,
    DraftTreeView,
    Row,
    branches,
    compact_rows,
    levels,
    ordinal,
    percent,
    table_rows,
    tree_rows,
)

NASTY = ["\n", "\x1b[2J", "你好", "👨‍👩‍👧", "é́", "", " ", "\t\t", "[bold]x[/]", "‮abc", "️", "a" * 300, "\ud800"]


@st.composite
def trees(draw: st.DrawFn) -> TreeStep:
    """Any tree of up to forty nodes with any path and any text."""
    size = draw(st.integers(1, 40))
    parents = [0] + [draw(st.integers(max(0, node - 8), node - 1)) for node in range(1, size)]
    path: list[int] = []
    while children := [node for node in range(1, size) if parents[node] == (path[-1] if path else 0)]:
        if not draw(st.booleans()):
            break
        path.append(draw(st.sampled_from(children)))
    chances = st.one_of(st.floats(0, 1), st.just(float("nan")))
    text = st.one_of(st.sampled_from(NASTY), st.text(max_size=12))
    return TreeStep(
        index=0,
        tokens=list(range(size)),
        texts=[draw(text) for _ in range(size)],
        parents=parents,
        draft_probs=[1.0, *(draw(chances) for _ in range(size - 1))],
        base_probs=[1.0, *(draw(chances) for _ in range(size - 1))],
        base_ranks=[0, *(draw(st.integers(0, 200_000)) for _ in range(size - 1))],
        path=path,
        bonus=7,
        bonus_text=draw(text),
        bonus_prob=draw(chances),
        committed=[1] * (len(path) + 1),
    )


def numbered(step: TreeStep) -> TreeStep:
    """The step with texts that tell the nodes apart."""
    return step.model_copy(update={"texts": [f"n{node}." for node in range(len(step.tokens))], "bonus_text": "b."})


def text_of(rows: list[Row]) -> str:
    return "\n".join("".join(text for text, _ in row) for row in rows)


@settings(max_examples=40, deadline=None)
@given(trees(), st.integers(34, 150))
def test_tree_and_table_show_every_node_once_and_fit(step: TreeStep, width: int) -> None:
    step = numbered(step)
    failed = failed_node(step)
    assert sorted(branch.node for branch in branches(step, failed)) == [BONUS, *range(len(step.tokens))]
    columns = levels(step, failed)
    assert sorted(position.node for column in columns for position in column) == [BONUS, *range(1, len(step.tokens))]
    for head, rows in (tree_rows(step, failed, shown, width), table_rows(step, failed, shown, width)):
        seen = text_of([head, *rows])
        deepest = max(step.depths)
        if deepest * 2 + 8 < width - 24:  # deeper ones have their stem cut, not their text
            for node in range(len(step.tokens)):
                assert seen.count(f" n{node}.") == 1, seen
        assert seen.count(" b. ") == 1
    for row in tree_rows(step, failed, shown, width)[1]:
        assert cell_len("".join(text for text, _ in row)) <= width


@settings(max_examples=40, deadline=None)
@given(trees(), st.integers(20, 150))
def test_the_path_is_marked_by_sign_and_style_whatever_the_tokens_are(step: TreeStep, width: int) -> None:
    for draw in (tree_rows, table_rows, compact_rows):
        _, rows = draw(step, failed_node(step), shown, width)
        pieces = [(text, style) for row in rows for text, style in row]
        accepted = [text for text, style in pieces if style == "accepted" and text.startswith(SIGNS["accepted"])]
        assert len(accepted) == len(step.path)
        assert len([text for text, style in pieces if style == "bonus" and text.startswith(SIGNS["bonus"])]) == 1
        failed = [text for text, style in pieces if style == "failed" and text.startswith(SIGNS["failed"])]
        assert len(failed) <= 1 if draw is compact_rows else len(failed) == (failed_node(step) is not None)
        for text, _ in pieces:
            assert text == safe(text)
        if draw is not table_rows:  # which scrolls sideways
            assert all(cell_len("".join(text for text, _ in row)) <= width for row in rows)


def test_the_accepted_path_is_the_first_that_is_seen() -> None:
    for step in load_trace("shipped:smollm2").steps:
        assert step.tree is not None
        nodes = [branch.node for branch in branches(step.tree, failed_node(step.tree))]
        assert nodes[: len(step.tree.path) + 2] == [0, *step.tree.path, BONUS]


def test_why_the_best_guess_failed_is_said_with_its_rank() -> None:
    step = load_trace("shipped:smollm2").steps[3].tree
    assert step is not None
    rejected = best_rejected(step)
    assert rejected is not None
    rank = step.base_ranks[rejected.node] + 1
    assert f"number {rank} of the base" in rejected.sentence
    row = next(row for row in tree_rows(step, rejected.node, shown, 80)[1] if row[-1][1] == "failed")
    assert row[-1][0].strip() == f"#{rank}"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("nan"), "-"), (1.0, "100%"), (0.1, "10%"), (0.031, "3.1%"), (0.0, "<.1%")]
)
def test_chances_are_said_in_five_cells(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_ranks_are_said_in_six_cells() -> None:
    assert [ordinal(0), ordinal(4311), ordinal(128_000)] == ["#1", "#4,312", "#128k"]


class TreeApp(App[None]):
    def compose(self) -> ComposeResult:
        yield DraftTreeView(shown, failed_node, empty="nothing\nyet")


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 8), (12, 3)])
def test_the_widget_draws_whole_lines_at_any_size_and_scrolls_to_the_last_node(size: tuple[int, int]) -> None:
    step = load_trace("shipped:smollm2").steps[3].tree
    assert step is not None

    async def act() -> None:
        app = TreeApp()
        async with app.run_test(size=size) as pilot:
            tree = app.query_one(DraftTreeView)
            assert tree.rows[0].startswith("nothing"[: size[0]])
            tree.show(step)
            for view in ("tree", "table", "compact"):
                tree.choose(view)
                await pilot.pause()
                for line in range(tree.size.height):
                    assert tree.render_line(line).cell_length == tree.size.width
                tree.scroll_end(animate=False)
                await pilot.pause()
                last = tree.render_line(tree.size.height - 1 - tree.show_horizontal_scrollbar).text
                if view == "tree" and size[0] > 30:
                    assert shown(step.texts[branches(step, failed_node(step))[-1].node]) in last
            tree.choose(None)
            assert tree.view == ("tree" if size[0] > 44 and size[1] > 9 else "compact")

    asyncio.run(act())
