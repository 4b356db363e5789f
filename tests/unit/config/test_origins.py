"""Layers over layers: values, places, and what lies beneath."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.config.origins import Leaf, Place, Table, leaves, merge, place_of, plain, to_table
from hetspec_core.documents import key_lines

keys = st.sampled_from(["a", "b", "c", "d"])
data = st.recursive(
    st.dictionaries(keys, st.integers(), max_size=3),
    lambda inner: st.dictionaries(keys, st.integers() | inner, max_size=3),
)
# As in specs: a key that is a table in one layer is a table in every layer.
regular = st.fixed_dictionaries(
    {},
    optional={
        "x": st.integers(),
        "y": st.integers(),
        "table": st.fixed_dictionaries({}, optional={"x": st.integers(), "y": st.integers()}),
    },
)


def layer(values: dict[str, Any], label: str) -> Table:
    return to_table(values, lambda _: Place("preset", label))


def merged_plainly(lower: Any, upper: Any) -> Any:
    """The same by the simplest code there is: dictionaries merge, anything else replaces."""
    if not (isinstance(lower, dict) and isinstance(upper, dict)):
        return upper
    both = lower.keys() & upper.keys()
    return lower | upper | {key: merged_plainly(lower[key], upper[key]) for key in both}


@given(data, data)
def test_values_merge_like_dictionaries(lower: dict[str, Any], upper: dict[str, Any]) -> None:
    assert plain(merge(layer(lower, "1"), layer(upper, "2"))) == merged_plainly(lower, upper)


@given(regular, regular, regular)
def test_merging_may_be_grouped_at_will(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    first, second, third = layer(one, "1"), layer(two, "2"), layer(three, "3")
    assert plain(merge(merge(first, second), third)) == plain(merge(first, merge(second, third)))


@given(data, data)
def test_every_leaf_keeps_the_place_it_was_written_at(lower: dict[str, Any], upper: dict[str, Any]) -> None:
    above = layer(upper, "2")
    written = {key for key, _ in leaves(above)}
    for key, leaf in leaves(merge(layer(lower, "1"), above)):
        assert leaf.place.label == ("2" if key in written else "1")


def test_a_leaf_knows_all_that_it_covers() -> None:
    leaf = merge(merge(layer({"a": 1}, "1"), layer({"a": 2}, "2")), layer({"a": 3}, "3"))["a"]
    assert isinstance(leaf, Leaf) and leaf.beneath is not None and leaf.beneath.beneath is not None
    assert [leaf.value, leaf.beneath.value, leaf.beneath.beneath.value] == [3, 2, 1]


def test_merging_changes_neither_layer() -> None:
    lower, upper = layer({"a": {"b": 1}}, "1"), layer({"a": {"b": 2}}, "2")
    merge(lower, upper)
    assert plain(lower) == {"a": {"b": 1}} and plain(upper) == {"a": {"b": 2}}


def test_a_source_of_a_stated_kind_replaces_the_whole_source() -> None:
    lower = layer({"source": {"kind": "package", "file": "f"}}, "1")
    assert plain(merge(lower, layer({"source": {"kind": "path", "path": "/x"}}, "2"))) == {
        "source": {"kind": "path", "path": "/x"}
    }
    assert plain(merge(lower, layer({"source": {"file": "g"}}, "2"))) == {"source": {"kind": "package", "file": "g"}}


def test_the_place_of_something_inside_a_list_is_that_of_the_list() -> None:
    table = layer({"bench": {"trees": [{"depth": 1}]}}, "1")
    place = place_of(table, ("bench", "trees", "0", "depth"))
    assert place is not None and place.label == "1"
    assert place_of(table, ("bench", "repeats")) is None


TOML = """summary = "x" # a comment
base = "b"

[training]
epochs = 3
optimizer.lr = 1e-3
[ draft . "architecture" ]
'hidden_size' = 1
inline = { a = 1, b = 2 }
[[rows]]
x = 1
[[rows]]
x = 2
"""


def test_lines_of_keys_are_found() -> None:
    tomllib.loads(TOML)
    assert key_lines(TOML) == {
        ("summary",): 1,
        ("base",): 2,
        ("training",): 4,
        ("training", "epochs"): 5,
        ("training", "optimizer", "lr"): 6,
        ("draft", "architecture"): 7,
        ("draft", "architecture", "hidden_size"): 8,
        ("draft", "architecture", "inline"): 9,
        ("rows",): 10,
        ("rows", "x"): 11,
    }
