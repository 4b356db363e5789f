"""The words of the filter line, the columns of runs, and orders for several runs at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.errors import RunError, UsageError
from hetspec_core.service.names import tags_of
from hetspec_core.service.pages import Vocabulary
from hetspec_tui.desk import to_each
from hetspec_tui.run_list.filter_line import completed, hints
from hetspec_tui.run_list.runs_table import DEFAULT, KNOWN, columns_of, value_cell
from hetspec_tui.widgets.cells import GUTTER, share_out

WORDS = Vocabulary(
    metrics=("eval/loss",),
    settings=("training.optimizer.lr",),
    choices={"state": ("queued", "running", "failed"), "tag": ("best",)},
)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("sta", "started>"),
        ("stat", "state:"),
        ("x state:r", "x state:running"),
        ("state:failed,q", "state:failed,queued"),
        ("eval", "eval/loss>"),
        ("training.opt", "training.optimizer.lr="),
        ("tag:", "tag:best"),
        ("", None),
        ("nothing-like-it", None),
        ("state:failed ", None),
    ],
)
def test_the_last_word_is_completed(text: str, whole: str | None) -> None:
    assert completed(text, WORDS) == whole


@pytest.mark.parametrize(
    ("text", "begun"),
    [("state:", True), ("state:ru", True), ("state:running", False), ("state:runing", False), ("age<", True),
     ("a state:fai", True)],
)  # fmt: skip
def test_a_word_that_is_only_begun_is_known(text: str, begun: bool) -> None:
    assert hints(text, WORDS).is_begun is begun


@given(st.text(max_size=20))
def test_any_text_has_hints(text: str) -> None:
    found = hints(text, WORDS)
    assert found.about
    whole = completed(text, WORDS)
    assert whole is None or whole.startswith(text)


def test_the_usual_columns_show_what_matters_in_eighty_cells() -> None:
    columns = columns_of(DEFAULT)
    widths = share_out(columns, 78 - GUTTER)
    seen = [column.key for n, column in enumerate(columns) if sum(widths[: n + 1]) + n <= 78 - GUTTER]
    assert {"state", "name", "stage", "progress", "accept_length", "speedup", "age"} <= set(seen)


def test_every_known_column_has_a_title_that_fits() -> None:
    for column in columns_of(KNOWN):
        assert 0 < len(column.title) <= column.width


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()), st.binary()))
def test_any_value_has_a_cell(value: object) -> None:
    assert isinstance(value_cell(value).text, str)


def test_an_order_goes_on_after_a_run_that_refuses() -> None:
    def order(workbench: object, run_id: str) -> str | None:
        if run_id == "b":
            raise RunError("run b is busy", hint="wait")
        return f"{run_id} was slow" if run_id == "c" else None

    outcome = to_each(["a", "b", "c"], order)(None)  # type: ignore[arg-type]
    assert outcome.done == ["a", "c"]
    assert outcome.say("stopped").splitlines() == ["2 runs stopped", "c was slow", "run b is busy; wait"]


def test_tags_are_put_on_and_taken_off() -> None:
    assert tags_of(["good", "+new", "-old", "good"]) == (("good", "new"), ("old",))
    for wrong in ("a,b", "+", "-", "a -a"):
        with pytest.raises(UsageError):
            tags_of(wrong.split())
