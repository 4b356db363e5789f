"""Records of benches: written with the keys they always had, read whatever their version and their damage."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.events.record import read_record
from hetspec_core.events.results import (
    BenchResult,
    BenchSetup,
    MachineFacts,
    PlainResult,
    TreeResult,
    TuneResult,
    read_bench,
)
from hetspec_core.service.bench_view import Bars, BenchLine, Grid, bench_lines, tune_lines
from tests.fakes.results import BENCHES, recorded

BUILTIN = recorded("bench-builtin")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values of a record."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place, *(path for key, item in items for path in places(item, (*place, key)))]


def changed(data: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of the record with another value at this place."""
    if not place:
        return value
    result = copy.deepcopy(data)
    holder = result
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return result


@pytest.mark.parametrize("name", BENCHES)
def test_a_record_of_every_version_is_read_and_written_as_it_was(name: str) -> None:
    data = recorded(name)
    found = read_bench(data)
    assert found.problems == () and found.note == ""
    assert found.record.to_json() == data
    assert [tree.tree for tree in found.record.trees] == [tree["tree"] for tree in data["trees"]]


def test_an_older_record_has_defaults_for_what_it_lacks() -> None:
    setup = read_bench(recorded("bench-2026-11-23")).record.setup
    assert (setup.batch_size, setup.left_out, setup.draft_active_parameters, setup.backend) == (1, {}, None, "builtin")


def test_keys_of_a_newer_version_are_kept() -> None:
    newer = changed(changed(BUILTIN, ("trees", 0, "energy_j"), 3.5), ("setup", "site"), {"rack": [1]})
    assert read_bench(newer).record.to_json() == newer


def test_numbers_that_are_not_finite_are_none_when_written_and_when_read() -> None:
    tree = TreeResult(tree="1/1/1", accept_length=math.nan, speedup=-math.inf, accept_length_interval=(1.0, math.nan))
    setup = BenchSetup(load_average=math.inf)
    written = BenchResult(setup=setup, plain=PlainResult(first_token_s=math.nan), trees=[tree]).to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == {
        "setup": {"load_average": None},
        "plain": {"first_token_s": None},
        "trees": [{"tree": "1/1/1", "accept_length": None, "accept_length_interval": None, "speedup": None}],
    }
    data = {"plain": {"decode_tokens_per_s": math.nan}, "trees": [{"speedup": 10**400, "new": [math.inf]}]}
    found = read_bench(data)
    assert found.problems == ()
    assert found.record.to_json() == {
        "plain": {"decode_tokens_per_s": None},
        "trees": [{"speedup": None, "new": [None]}],
    }


def test_a_damaged_value_is_left_out_and_named_and_the_rest_is_read() -> None:
    data = changed(changed(BUILTIN, ("trees", 0), 3), ("trees", 1, "by_depth"), [1, {"depth": 2}])
    found = read_bench(data)
    [tree] = found.record.trees
    assert tree.tree == "2/1/2" and [row.depth for row in tree.by_depth] == [2]
    assert found.note.startswith("the record is damaged: trees.0 is 3, not a table, and 1 more;")
    first = bench_lines(data)[0]
    assert isinstance(first, BenchLine) and first.warning and "trees.0 is 3, not a table" in first.text


def test_a_histogram_with_a_damaged_count_is_left_out_as_a_whole() -> None:
    for counts in ({"1": 5, "2": None}, {"one": 5}, {"1": 2.5}, {"1": -1}, {"1": math.nan}, {"9" * 9: 1}):
        found = read_bench(changed(BUILTIN, ("trees", 0, "histogram"), counts))
        assert found.record.trees[0].histogram == {} and "trees.0.histogram is" in found.note


def test_a_record_that_is_none_is_one_clear_line() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for data in (None, 3, "text", [], {"trees": deep}):
        found = read_bench(data)
        assert found.record == BenchResult() and len(found.problems) == 1
        assert found.note.startswith("the record is damaged: it is ")
    while deep:  # or freeing it would be a deep recursion of its own
        deep = deep[0]


@given(data=st.data(), value=JSON)
def test_no_damage_of_one_value_ends_in_an_exception(data: st.DataObject, value: Any) -> None:
    source = recorded(data.draw(st.sampled_from(BENCHES)))
    place = data.draw(st.sampled_from(places(source)))
    broken = changed(source, place, value)
    found = read_bench(broken)
    json.dumps(found.record.to_json(), allow_nan=False)
    assert not read_bench(found.record.to_json()).problems, "what was left is whole"
    parts = bench_lines(broken)
    if found.problems:
        assert parts[0] == BenchLine(found.note, warning=True)
    assert any(isinstance(part, Grid) for part in parts)
    assert all(bar.length >= 0 for part in parts if isinstance(part, Bars) for bar in part.bars)


def test_a_recorded_tuning_is_read_and_written_as_it_was() -> None:
    data = recorded("tune")
    found = read_record(TuneResult, data)
    assert found.problems == () and found.record.to_json() == data
    [grid] = [part for part in tune_lines(data) if isinstance(part, Grid)]
    assert [row[0] for row in grid.rows] == [trial["tree"] for trial in data["trials"]]
    assert list(grid.figures) == list(range(1, len(grid.head) - 1)), "the last column is a note"


@given(data=st.data(), value=JSON)
def test_no_damage_of_one_value_of_a_tuning_ends_in_an_exception(data: st.DataObject, value: Any) -> None:
    source = recorded("tune")
    broken = changed(source, data.draw(st.sampled_from(places(source))), value)
    found = read_record(TuneResult, broken)
    json.dumps(found.record.to_json(), allow_nan=False)
    parts = tune_lines(broken)
    assert not found.problems or parts[0] == BenchLine(found.note, warning=True)


def test_the_load_of_a_machine_is_that_of_its_facts() -> None:
    facts = read_record(MachineFacts, {"load_average": 12.3, "cores": 2}).record
    assert facts.load == "load 12 on 2 cores" and MachineFacts().load == ""
