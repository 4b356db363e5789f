"""Where the values of a run came from: kept when it is made, found again, and never in the way of a run without it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from hetspec_core.config import resolve
from hetspec_core.errors import NotFoundError
from hetspec_core.service.launch import LaunchRequest, linked
from hetspec_core.service.library import Library
from hetspec_core.service.workbench import Workbench
from tests.fakes.specs import small_spec


@pytest.fixture
def workbench(home: Path) -> Workbench:
    return Workbench()


def test_every_value_of_a_run_has_the_source_that_its_recipe_gave_it(workbench: Workbench) -> None:
    asked = resolve("quick-demo", stage="dataset", overrides=["dataset.limit=7"])
    handle = workbench.submit(asked)
    assert stat.S_IMODE(handle.paths.origins.stat().st_mode) == 0o440
    values = {one.key: one for one in Library(workbench).explain(handle.run_id)}
    assert (values["dataset.limit"].value, values["dataset.limit"].source) == (7, "--set dataset.limit")
    assert all(one.source and one.layer for one in values.values())
    for key, value, source in asked.explain():
        if value is not None:
            assert values[key].source == source


def test_a_value_that_was_set_after_resolving_does_not_keep_the_source_of_the_old_one(workbench: Workbench) -> None:
    asked = linked(LaunchRequest("quick-demo"), "train", "somewhere")
    training = asked.spec.training.model_copy(update={"seed": 5})
    later = type(asked)(asked.spec.model_copy(update={"training": training}), asked.origins)
    values = {one.key: one for one in Library(workbench).explain(workbench.submit(later).run_id)}
    assert asked.origins["training.seed"].source == "default"
    assert values["training.seed"].source == "set when the run was made"


def test_a_run_that_is_tried_again_keeps_its_sources(workbench: Workbench) -> None:
    first = workbench.submit(resolve("quick-demo", stage="dataset")).run_id
    workbench.cancel(first)
    second = Library(workbench).retry(first)
    assert Library(workbench).explain(second) == Library(workbench).explain(first)


@pytest.mark.parametrize("damage", [None, "no json", "[]", '{"name": {"layer": "moon", "source": "x"}, "stage": 3}'])
def test_a_run_without_a_readable_record_has_its_values_only(workbench: Workbench, damage: str | None) -> None:
    handle = workbench.submit(small_spec("old"))
    if damage is not None:
        handle.paths.origins.write_text(damage)
    values = {one.key: (one.value, one.source) for one in Library(workbench).explain(handle.run_id)}
    assert values["name"] == ("old", "")


def test_a_run_that_is_not_there_is_an_error(workbench: Workbench) -> None:
    with pytest.raises(NotFoundError):
        Library(workbench).explain("no-such-run")


def test_the_record_is_plain_json_by_dotted_key(workbench: Workbench) -> None:
    handle = workbench.submit(resolve("quick-demo", stage="dataset"))
    found = json.loads(handle.paths.origins.read_text())
    assert found["dataset.sampling.seed"] == {"layer": "default", "source": "default"}
