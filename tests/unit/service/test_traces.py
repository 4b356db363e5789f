"""Traces on the desk: found by a word, exported safely, and the costs and shapes of the simulator."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.errors import DataError, NotFoundError
from hetspec_core.events.chat import Answered, Calibrated, Reply, ShapeCost, Step, Tokens
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.events.steps import TreeStep
from hetspec_core.events.trace import Trace, TraceHeader, TraceWriter
from hetspec_core.service.chat.answer import Answer, best_rejected, shown
from hetspec_core.service.traces.files import export, find_trace, list_traces, load_trace, to_svg
from hetspec_core.service.traces.simulation import Costs, grid, predict, read_positions, simulate
from hetspec_core.spec import TreeSpec
from tests.fakes.chat_worker import step_of

NASTY = "<script>alert('&')</script>\x1b[2J\x00\u202e\n中🙂"


def trace_of(replies: list[Reply], *, tree: str = "2/2/4", question: str = "Hello") -> Trace:
    settings = ChatSettings(draft="x", draft_name="x").changed(tree=tree)
    return Trace(
        header=TraceHeader(name=question, messages=[ChatMessage(role="user", content=question)], settings=settings),
        replies=replies,
    )


def nasty_step() -> Step:
    step = step_of(1, 0)
    assert step.tree is not None
    tree = step.tree.model_copy(update={"texts": [NASTY] * 5, "bonus_text": NASTY})
    return step.model_copy(update={"pieces": [NASTY] * 3, "tree": tree})


# --- finding ---------------------------------------------------------------------------------------------------------


def test_recorded_traces_are_listed_behind_the_shipped_one_and_found_by_a_word(home: Path) -> None:
    path = home / "traces" / "20260101-000000-1.jsonl"
    writer = TraceWriter(path, TraceHeader(messages=[], settings=ChatSettings()))
    writer.close()
    (home / "traces" / "broken.jsonl").write_text("no trace")
    found = list_traces()
    assert found[0].word == "shipped:smollm2" and found[0].complete
    assert {one.word for one in found[1:]} == {"20260101-000000-1", "broken"}
    assert next(one for one in found if one.word == "broken").error
    assert find_trace("2026") == path == find_trace(str(path))
    for word in ("nothing", "shipped:nothing", "shipped:../files", ""):
        with pytest.raises(NotFoundError):
            find_trace(word)


def test_the_shipped_trace_is_a_real_answer_with_a_tree_at_every_step() -> None:
    trace = load_trace("shipped:smollm2")
    answer = Answer.of(trace)
    assert answer.whole and answer.state == "done" and len(answer.trees) == len(answer.steps) > 10
    accept_length = answer.stats.accept_length
    assert accept_length is not None and accept_length > 1.5
    assert trace.header.settings.sampling.temperature == 0 and trace.header.base is not None
    assert all(tree.base_ranks[node] == 0 for tree in answer.trees for node in tree.path)


# --- exports ---------------------------------------------------------------------------------------------------------


def test_exports_hold_no_markup_of_the_tokens() -> None:
    trace = trace_of([Tokens(ask=1, tokens=[10], pieces=[NASTY]), nasty_step()], question=NASTY)
    svg, html = export(trace, "svg"), export(trace, "html")
    ElementTree.fromstring(svg)  # it is XML, so nothing broke out
    for text in (svg, html):
        assert "<script" not in text and "\x1b" not in text and "\x00" not in text and "\u202e" not in text
        assert "&lt;script&gt;" in text
    data = json.loads(export(trace, "json"))
    assert data["text"] == NASTY * 4 and data["steps"][0]["tree"]["texts"][0] == NASTY


def test_svg_is_of_the_step_asked_for_or_of_the_longest_path() -> None:
    trace = trace_of([Tokens(ask=1, tokens=[10], pieces=["T"]), step_of(1, 0), step_of(1, 1)])
    assert "step 0:" in export(trace, "svg") and "step 1:" in export(trace, "svg", step=1)
    with pytest.raises(DataError, match="no step 7"):
        export(trace, "svg", step=7)
    with pytest.raises(DataError, match="no draft trees"):
        export(trace_of([]), "svg")


@st.composite
def trees(draw: st.DrawFn) -> TreeStep:
    size = draw(st.integers(1, 30))
    parents = [0] + [draw(st.integers(0, node - 1)) for node in range(1, size)]
    probs = [draw(st.floats(0, 1)) for _ in range(size)]
    return TreeStep(
        index=0,
        tokens=list(range(size)),
        texts=[draw(st.text(max_size=4)) for _ in range(size)],
        parents=parents,
        draft_probs=probs,
        base_probs=probs,
        base_ranks=[0] * size,
        bonus=1,
        bonus_text="b",
        bonus_prob=0.5,
        committed=[1],
    )


@given(trees())
def test_any_tree_is_drawn_with_every_node_once(step: TreeStep) -> None:
    root = ElementTree.fromstring(to_svg(step))
    boxes = [box for box in root.iter("{http://www.w3.org/2000/svg}rect") if box.get("class")]
    assert len(boxes) == len(step.tokens) + 1
    places = {(box.get("x"), box.get("y")) for box in boxes}
    assert len(places) == len(boxes)  # nothing lies on top of something else


def test_token_text_is_shown_without_control_characters() -> None:
    assert shown(NASTY).isprintable() and "\\x1b" in shown(NASTY) and "⏎" in shown(NASTY)
    assert shown(" the") == " the" and shown("  ") == "␣␣" and shown("") == "∅"


def test_the_best_rejected_node_is_named_with_its_rank() -> None:
    tree = step_of(1, 0).tree
    assert tree is not None and best_rejected(tree) is None  # nothing was proposed below the end of the path
    shorter = tree.model_copy(update={"path": [1]})
    rejected = best_rejected(shorter)
    assert rejected is not None and (rejected.node, rejected.depth) == (3, 2)
    none = best_rejected(tree.model_copy(update={"path": []}))
    assert none is not None and none.node == 1 and "first of the base" in none.sentence


# --- simulator -------------------------------------------------------------------------------------------------------

# Answer 10 11 12 13 ...; a tree that proposes 11 (0.6) > 91 (0.3) and below 11 the tokens 12 (0.5) > 92 (0.2).


def tree_step(index: int, root: int, committed: list[int], path: list[int]) -> Step:
    tree = TreeStep(
        index=index,
        tokens=[root, root + 1, 90, root + 2, 91],
        texts=["a"] * 5,
        parents=[0, 0, 0, 1, 1],
        draft_probs=[1, 0.6, 0.3, 0.5, 0.2],
        base_probs=[1] * 5,
        base_ranks=[0] * 5,
        path=path,
        bonus=committed[-1],
        bonus_text="b",
        bonus_prob=1,
        committed=committed,
    )
    return Step(
        ask=1, index=index, committed=committed, pieces=[""] * len(committed), accepted=len(path), offered=2, tree=tree
    )


def every_position(tokens: int) -> Trace:
    steps: list[Reply] = [tree_step(i, 10 + i, [11 + i], []) for i in range(tokens)]
    end = Answered(ask=1, text="", tokens=list(range(10, 11 + tokens)), stop_reason="length", prompt_tokens=1)
    return trace_of([Tokens(ask=1, tokens=[10], pieces=["T"]), *steps, end])


@pytest.mark.parametrize(
    ("shape", "length"),
    [("2/2/4", 3.0), ("2/1/2", 3.0), ("1/1/1", 2.0), ("2/2/2", 3.0), ("2/2/1", 2.0), ("1/2/2", 2.0)],
)
def test_smaller_shapes_keep_the_best_nodes_of_the_recorded_tree(shape: str, length: float) -> None:
    predicted = predict([read_positions(every_position(12))], TreeSpec.parse(shape))
    assert predicted.accept_length == length and predicted.own_trees == 1 and not predicted.extrapolated


def test_the_last_step_commits_only_what_is_left() -> None:
    predicted = predict([read_positions(every_position(7))], TreeSpec.parse("2/2/4"))
    assert (predicted.tokens, predicted.steps) == (7, 3)


def test_larger_shapes_are_marked_as_extrapolated_and_never_best() -> None:
    positions = [read_positions(every_position(12))]
    for shape in ("3/2/4", "2/3/4", "2/2/6"):
        assert predict(positions, TreeSpec.parse(shape)).extrapolated  # 2/2 has six candidates; four were recorded
    found = simulate(positions, [TreeSpec.parse("3/2/4"), TreeSpec.parse("1/1/1")])
    assert found.best is not None and found.best.shape.label == "1/1/1"


def test_positions_without_a_tree_use_what_was_below_the_accepted_node() -> None:
    steps: list[Reply] = [tree_step(i, 10 + 3 * i, [11 + 3 * i, 12 + 3 * i, 13 + 3 * i], [1, 3]) for i in range(4)]
    trace = trace_of([Tokens(ask=1, tokens=[10], pieces=["T"]), *steps])
    positions = read_positions(trace)
    assert positions.trees[0].own and not positions.trees[1].own
    predicted = predict([positions], TreeSpec.parse("1/1/1"))
    # From 10, 11 is accepted and 12 the bonus; below 12 nothing was recorded, so there only the bonus is certain.
    assert (predicted.accept_length, predicted.own_trees, predicted.certain) == (1.5, 0.5, 0.5)


def test_traces_without_trees_or_with_a_gap_are_refused() -> None:
    with pytest.raises(DataError, match="no draft trees"):
        read_positions(trace_of([Tokens(ask=1, tokens=[10], pieces=["T"])]))
    with pytest.raises(DataError, match="gap before step 1"):
        read_positions(
            trace_of([Tokens(ask=1, tokens=[10], pieces=["T"]), tree_step(0, 10, [11], []), tree_step(1, 17, [18], [])])
        )
    with pytest.raises(DataError, match="no trace"):
        simulate([])


def test_the_grid_has_chains_and_trees_within_what_was_recorded() -> None:
    shapes = grid([read_positions(every_position(5))])
    assert all(shape.depth <= 2 and shape.top_k <= 2 and shape.num_nodes <= 4 for shape in shapes)
    assert {"1/1/1", "2/1/2", "2/2/4"} <= {shape.label for shape in shapes}


# --- costs -----------------------------------------------------------------------------------------------------------


def calibration(*labels: str) -> Calibrated:
    """Costs by the model itself: propose 1 + 2 (D-1) + 0.5 (D-1) K, verify 10 + 0.25 N, other 1 ms."""
    shapes = []
    for label in labels:
        tree = TreeSpec.parse(label)
        levels = tree.depth - 1
        propose = 1 + 2 * levels + 0.5 * levels * tree.top_k
        verify = 10 + 0.25 * tree.num_nodes
        shapes.append(
            ShapeCost(
                tree=label, nodes=tree.num_nodes, steps=9, propose_s=propose / 1e3, verify_s=verify / 1e3, other_s=1e-3
            )
        )
    return Calibrated(plain_token_s=0.01, kv_tokens=50, shapes=shapes)


def test_costs_between_measured_shapes_follow_the_model() -> None:
    costs = Costs(calibration("1/1/1", "4/1/4", "3/4/12", "6/10/60"))
    for label in ("5/4/20", "2/2/4", "6/10/48"):
        tree = TreeSpec.parse(label)
        levels = tree.depth - 1
        expected = (1 + 2 * levels + 0.5 * levels * tree.top_k + 10 + 0.25 * tree.num_nodes + 1) / 1e3
        assert costs.step(tree).step_s == pytest.approx(expected) and not costs.step(tree).measured
    assert costs.step(TreeSpec.parse("3/4/12")).measured


@pytest.mark.parametrize(
    "labels", [("3/4/12",), ("3/4/12", "6/4/24"), ("3/4/12", "3/4/20", "3/4/30"), ("1/1/1", "4/1/4")]
)
def test_few_measured_shapes_still_give_a_cost(labels: tuple[str, ...]) -> None:
    costs = Costs(calibration(*labels))
    for label in ("1/1/1", "6/10/60", *labels):
        step_s = costs.step(TreeSpec.parse(label)).step_s
        assert math.isfinite(step_s) and step_s >= 0


def test_without_measured_shapes_there_are_no_costs() -> None:
    assert not Costs(Calibrated(plain_token_s=0.01, kv_tokens=1))


def test_the_best_shape_is_the_fastest_and_the_frontier_rises() -> None:
    costs = Costs(calibration("1/1/1", "2/1/2", "2/2/4"))
    found = simulate([read_positions(every_position(12))], costs=costs)
    assert found.best is not None and found.best.shape.label == "2/1/2"  # two accepted for the least
    assert found.best.tokens_per_s == pytest.approx(3 / 0.0150) and found.best.speedup == pytest.approx(3 / 1.50)
    lengths = [one.accept_length for one in found.frontier]
    assert lengths == sorted(set(lengths))
    assert json.loads(json.dumps(found.to_json()))["best"]["shape"] == "2/1/2"
