from __future__ import annotations

from importlib.util import find_spec

import pytest

from hetspec_core.engine.training.processes import check_trackers, tracker_config
from hetspec_core.errors import NotFoundError
from hetspec_core.spec.training import TRACKERS


def test_a_tracker_that_is_not_installed_is_named_with_the_way_to_get_it() -> None:
    absent = [name for name in TRACKERS if find_spec(name) is None]
    if not absent:
        pytest.skip("every tracker is installed here")
    with pytest.raises(NotFoundError, match=f"{absent[0]}, which is not installed") as caught:
        check_trackers([absent[0]])
    assert f"pip install {absent[0]}" in caught.value.hint


def test_no_tracker_asks_for_nothing() -> None:
    check_trackers([])


def test_a_record_is_flattened_to_dotted_scalars() -> None:
    record = {"a": {"b": 1, "c": {"d": True}}, "e": None, "f": [1, "x"], "g": 0.5}
    assert tracker_config(record) == {"a.b": 1, "a.c.d": True, "f": "[1, 'x']", "g": 0.5}
