"""SGLang's figures of an answer, in HetSpec's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.acceptance import AcceptStats
from hetspec_core.sglang import versions
from hetspec_core.sglang.launch import tree_flags, tree_of_flags
from hetspec_core.sglang.stream import sglang_accept_length, step_counts
from hetspec_core.spec import TreeSpec


@pytest.mark.parametrize(
    ("label", "flags"),
    [
        ("6/10/59", (6, 10, 60)),
        ("5/4/7", (5, 4, 8)),
        ("3/1/3", (3, 1, 4)),
        ("3/1/60", (3, 1, 4)),
        ("1/4/9", (1, 4, 5)),
    ],
)
def test_a_tree_in_sglang_words_counts_its_root_and_has_no_more_nodes_than_there_are_candidates(
    label: str, flags: tuple[int, int, int]
) -> None:
    assert tree_flags(TreeSpec.parse(label)) == flags
    assert tree_flags(tree_of_flags(*flags)) == flags


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
def test_steps_add_up_to_the_tokens_after_the_first_whatever_was_cut_off(
    accepted: list[int], data: st.DataObject
) -> None:
    made = sum(accepted) + len(accepted)
    cut = data.draw(st.integers(0, accepted[-1]))
    histogram = [accepted.count(length) for length in range(6)]
    meta = {"spec_verify_ct": len(accepted), "spec_correct_drafts_histogram": histogram}
    counts = step_counts(meta, 1 + made - cut, depth=5)
    assert len(counts) == len(accepted)
    assert sum(count.committed for count in counts) == made - cut
    assert sorted(count.accepted for count in counts) == sorted(accepted)
    assert all(1 <= count.committed <= count.accepted + 1 and count.accepted <= count.offered <= 5 for count in counts)


def test_both_accept_lengths_differ_by_the_token_of_prefill_alone() -> None:
    meta = {"spec_verify_ct": 4, "spec_correct_drafts_histogram": [2, 1, 1]}
    stats = AcceptStats(step_counts(meta, 8, depth=3))
    assert sglang_accept_length(8, 4) == 2.0
    assert stats.accept_length == 7 / 4
    assert stats.histogram == {1: 2, 2: 1, 3: 1}


def test_a_server_without_a_histogram_still_gives_the_pooled_accept_length() -> None:
    counts = step_counts({"spec_verify_ct": 3}, 8, depth=5)
    assert sum(count.committed for count in counts) == 7
    assert step_counts({"completion_tokens": 9}, 9, depth=5) == []


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        *((version, True) for version in ("0.5.11", "0.5.17.post1", "0.5.23", "v0.5.12rc1")),
        *((version, False) for version in ("0.5.10", "0.5.24", "0.6.0", "", "main", "0.5")),
    ],
)
def test_the_range_of_versions_is_both_ends_included(version: str, supported: bool) -> None:
    assert versions.is_supported(version) is supported


def test_pyproject_names_the_same_range() -> None:
    import tomllib

    from tests.conftest import REPOSITORY

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = f"sglang>={versions.OLDEST},<={versions.NEWEST}"
    assert wanted in project["optional-dependencies"]["sglang"]
    assert all(versions.is_supported(version) for version in versions.INSIDE)
