"""Presets as the desk shows and changes them."""

from __future__ import annotations

import tomllib

import pytest

from hetspec_core.errors import NotFoundError, SpecError, UsageError
from hetspec_core.paths import roots
from hetspec_core.service import presets
from tests.fakes.presets import write_hostile_presets, write_preset


def test_every_word_of_a_search_must_be_found() -> None:
    names = [line.name for line in presets.list_presets("recipe", "SmolLM2 qwen3")]
    assert "smollm2-qwen3-eagle" in names and len(names) < len(presets.list_presets("recipe"))
    assert all("smollm2" in name for name in names)
    assert presets.list_presets("recipe", "no such thing") == ()
    with pytest.raises(NotFoundError, match="did you mean 'draft'"):
        presets.list_presets("drafts")


@pytest.mark.parametrize("line", presets.list_presets(), ids=lambda line: line.reference)
def test_every_shipped_preset_resolves_with_the_source_of_every_key(line: presets.PresetLine) -> None:
    seen = presets.view(line.reference)
    assert seen.problems == () and seen.line.owner == "shipped" and seen.text
    assert all(item.source for item in seen.values)
    assert all(item.key.startswith(f"{line.kind}.") for item in seen.values) or line.kind == "recipe"
    assert {item.layer for item in seen.values} <= {"default", "preset"}


def test_a_drafts_sizes_are_those_for_the_base_beside_it() -> None:
    def width(base: str) -> object:
        seen = presets.view("draft/llama-1l", partners={"base": base})
        return next(item for item in seen.values if item.key == "draft.architecture.hidden_size")

    assert (width("smollm2-135m-instruct").value, width("llama2-7b-chat").value) == (576, 4096)  # type: ignore[attr-defined]
    assert "formula 'base.hidden_size'" in width("llama2-7b-chat").source  # type: ignore[attr-defined]


def test_a_preset_that_does_not_hold_is_shown_as_written_with_all_problems() -> None:
    write_preset("draft/odd", 'extends = "llama-1l"\ninit = "randon"\nvocab_size = -1\n')
    seen = presets.view("draft/odd")
    assert len(seen.problems) == 2 and any("did you mean 'random'" in problem for problem in seen.problems)
    assert ("draft.vocab_size", -1) in [(item.key, item.value) for item in seen.values]
    write_preset("draft/torn", "extends = ")
    assert "is not TOML" in presets.view("draft/torn").problems[0]


def test_a_preset_that_cannot_be_read_is_viewed_with_its_problem_and_does_not_touch_another() -> None:
    hostile = write_hostile_presets("recipe")
    for name in hostile:
        seen = presets.view(f"recipe/{name}")
        assert seen.problems and str(seen.line.path) in seen.problems[0]
    assert presets.view("quick-demo").problems == ()
    assert {line.name for line in presets.list_presets("recipe") if line.problem} == set(hostile)
    with pytest.raises(SpecError, match="cannot be deleted"):
        presets.delete("recipe", "folder")
    presets.delete("recipe", "pipe")
    assert "pipe" not in {line.name for line in presets.list_presets("recipe")}


def test_plans_say_what_a_preset_costs() -> None:
    made, missing = presets.plans("recipe/quick-demo", roots())
    assert list(made) == ["dataset", "train", "bench"] and missing == {}
    assert made["train"].base.total == 134_515_008
    assert list(presets.plans("base/smollm2-135m-instruct", roots())[0]) == ["dataset"]


def test_differences_are_those_of_the_resolved_values() -> None:
    found = {item.key: (item.first, item.second) for item in presets.differences("draft/llama-1l", "draft/qwen3-1l")}
    assert found["draft.backbone"] == ("llama", "qwen3")
    assert "draft.architecture.hidden_size" not in found
    with pytest.raises(UsageError, match="different kinds"):
        presets.differences("draft/llama-1l", "base/llama2-7b-chat")


def test_a_copy_is_the_users_and_the_shipped_one_stays() -> None:
    before = presets.view("draft/llama-1l").text
    line = presets.copy("draft/llama-1l", "llama-1l")
    assert line.owner == "yours, over the shipped one" and line.path.read_text() == before
    with pytest.raises(UsageError, match="already exists"):
        presets.copy("draft/llama-1l", "llama-1l")
    presets.delete("draft", "llama-1l")
    assert presets.view("draft/llama-1l").line.owner == "shipped"
    with pytest.raises(UsageError, match="came with HetSpec"):
        presets.delete("draft", "llama-1l")
    presets.copy("draft/llama-1l", "llama-1l-mine")
    assert presets.new_name("draft", "llama-1l") == "llama-1l-mine-2"


def test_what_does_not_hold_is_not_written_and_every_problem_is_told() -> None:
    path = presets.copy("recipe/quick-demo", "mine").path
    before = path.read_text()
    text = before.replace("max_steps = 400", 'max_steps = "many"').replace("limit = 300", "limt = 300")
    with pytest.raises(SpecError, match="was not written") as caught:
        presets.save("recipe", "mine", text)
    assert len(caught.value.problems) == 2 and path.read_text() == before
    assert presets.check_text("recipe", "mine", text) == caught.value.problems
    assert presets.check_text("recipe", "../mine", before)
    assert "is not TOML" in presets.check_text("recipe", "mine", "a = ")[0]


def test_a_save_over_somebody_elses_change_is_refused() -> None:
    path = presets.copy("recipe/quick-demo", "mine").path
    before = path.read_text()
    path.write_text(before + "\n# changed by another\n")
    with pytest.raises(UsageError, match="was changed meanwhile"):
        presets.save("recipe", "mine", before, replacing=before)
    presets.save("recipe", "mine", before)
    assert path.read_text() == before
    assert [item.name for item in path.parent.iterdir()] == ["mine.toml"]


def test_values_are_put_into_a_text_and_taken_out_again() -> None:
    text = presets.view("recipe/smollm2-qwen3-eagle").text
    new = presets.with_values("recipe", text, {"draft.vocab_size": 4096, "training.optimizer.lr": 1e-4})
    assert tomllib.loads(new)["draft"] == {"preset": "qwen3-1l", "vocab_size": 4096}
    assert tomllib.loads(new)["training"] == {"optimizer": {"lr": 1e-4}}
    assert presets.check_text("recipe", "mine", new) == ()
    again = presets.with_values("recipe", new, {"training.optimizer.lr": None, "draft.vocab_size": None})
    assert "training" not in tomllib.loads(again) and tomllib.loads(again)["draft"] == {"preset": "qwen3-1l"}
    draft = presets.with_values(
        "draft", "backbone = 'llama'", {"draft.architecture.hidden_size": "base.hidden_size // 2"}
    )
    assert tomllib.loads(draft)["architecture"] == {"hidden_size": "base.hidden_size // 2"}
