"""What a user means by a word: a run, or the product of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetspec_core.errors import NotFoundError
from hetspec_core.service.names import InputKind
from hetspec_core.service.workbench import RunHandle, Workbench
from tests.fakes.specs import small_spec


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path / "bench")


def product(handle: RunHandle, kind: InputKind) -> Path:
    folder = handle.paths.folder / kind
    folder.mkdir()
    (folder / {"hidden_states": "manifest.json", "draft": "config.json"}[kind]).write_text("{}")
    return folder


def test_a_run_is_meant_by_id_by_the_beginning_of_an_id_and_by_name(workbench: Workbench) -> None:
    first = workbench.submit(small_spec("first")).run_id
    second = workbench.submit(small_spec("second", "dataset")).run_id
    assert workbench.resolve_run(first) == first
    assert workbench.resolve_run(second[:-2]) == second
    assert workbench.resolve_run("first") == first


def test_a_word_that_means_none_or_several_is_refused_with_what_there_is(workbench: Workbench) -> None:
    ids = [workbench.submit(small_spec("same")).run_id for _ in range(7)]
    with pytest.raises(NotFoundError, match="means 7 runs") as caught:
        workbench.resolve_run("same")
    assert sum(run_id in caught.value.message for run_id in ids) == 5 and "and 2 more" in caught.value.message
    with pytest.raises(NotFoundError, match="means 7 runs"):
        workbench.resolve_run(ids[0][:4])
    for word in ("nothing", ""):
        with pytest.raises(NotFoundError, match="no run"):
            workbench.resolve_run(word)


def test_a_product_is_found_by_run_and_by_directory(workbench: Workbench) -> None:
    handle = workbench.submit(small_spec("data", "dataset"))
    states = product(handle, "hidden_states")
    for word in (handle.run_id, "data", str(handle.paths.folder), str(states)):
        assert workbench.resolve_input(word, "hidden_states") == states


def test_a_directory_above_is_told_by_its_own_name(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = product(workbench.submit(small_spec("demo", "train")), "draft")
    (draft / "below").mkdir()
    monkeypatch.chdir(draft / "below")
    for word in ("..", "../../draft", "../below/.."):
        assert workbench.resolve_input(word, "draft") == draft
    monkeypatch.chdir(draft)
    assert workbench.resolve_input(".", "draft") == draft


def test_a_name_shared_by_the_stages_of_a_recipe_means_the_run_with_the_product(workbench: Workbench) -> None:
    data, train = workbench.submit(small_spec("demo", "dataset")), workbench.submit(small_spec("demo", "train"))
    states, draft = product(data, "hidden_states"), product(train, "draft")
    assert workbench.resolve_input("demo", "hidden_states") == states
    assert workbench.resolve_input("demo", "draft") == draft


def test_a_product_that_is_not_there_is_explained(workbench: Workbench, tmp_path: Path) -> None:
    data = workbench.submit(small_spec("data", "dataset")).run_id
    with pytest.raises(NotFoundError, match="stage dataset and has no draft") as caught:
        workbench.resolve_input(data, "draft")
    assert "hetspec-core train" in caught.value.hint
    with pytest.raises(NotFoundError, match="no hidden states yet; it is queued"):
        workbench.resolve_input(data, "hidden_states")
    with pytest.raises(NotFoundError, match="no such directory"):
        workbench.resolve_input("nothing", "draft")
    with pytest.raises(NotFoundError, match="no directory"):
        workbench.resolve_input(str(tmp_path / "nothing"), "draft")
    with pytest.raises(NotFoundError, match=r"config\.json"):
        workbench.resolve_input(str(tmp_path), "draft")
