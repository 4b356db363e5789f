"""A run or a draft directory is enough to load it: its configuration takes the place of a recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.cli.main import main
from hetspec_core.errors import NotFoundError
from hetspec_core.paths import roots
from hetspec_core.service.saved import find_saved, resolve_saved, saved_draft
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec
from tests.fakes.specs import small_spec


def draft_in(folder: Path, **about: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def trained(workbench: Workbench, *, tree: str = "3/2/5") -> str:
    """A train run with a draft, of a base that no preset describes."""
    spec = small_spec("mine")
    sizes = spec.base.architecture.model_copy(update={"max_position_embeddings": 4096})
    data = spec.model_dump() | {
        "base": spec.base.model_copy(update={"architecture": sizes}),
        "draft": {"name": "d", "architecture": sizes, "checkpoint": "/where/it/began"},
        "decoding": {"tree": tree, "max_new_tokens": 7},
    }
    made = workbench.submit(RunSpec.model_validate(data))
    draft_in(made.paths.draft, hetspec={"run_id": made.run_id, "recipe": "", "base": "tiny"})
    return made.run_id


def test_a_run_is_enough(home: Path) -> None:
    with Workbench() as workbench:
        run_id = trained(workbench)
        for word in (run_id, str(workbench.paths(run_id).folder), str(workbench.paths(run_id).draft)):
            found = resolve_saved(workbench, "smollm2-llama-eagle", word, stage="bench").spec
            assert found.base == workbench.show(run_id).spec.base  # type: ignore[union-attr]
            assert (found.stage, found.decoding.tree.label, found.decoding.max_new_tokens) == ("bench", "3/2/5", 7)
            assert found.draft is not None and found.draft.checkpoint is None and found.name == ""
            assert saved_draft(workbench, None, word, "tiny") == workbench.paths(run_id).draft.absolute()
        asked = resolve_saved(workbench, "", run_id, stage="bench", overrides=["decoding.max_new_tokens=9"]).spec
        assert asked.decoding.max_new_tokens == 9, "what is asked for goes over what was saved"


def test_a_draft_that_was_carried_off_is_enough_while_its_run_or_recipe_is_here(home: Path, tmp_path: Path) -> None:
    with Workbench() as workbench:
        run_id = trained(workbench)
        moved = tmp_path / "moved"
        shutil.copytree(workbench.paths(run_id).draft, moved)
        assert resolve_saved(workbench, "", str(moved), stage="generate").spec.decoding.tree.label == "3/2/5"
        assert saved_draft(workbench, None, str(moved), "tiny") == moved
        other = draft_in(tmp_path / "other", hetspec={"recipe": "qwen3-4b-qwen3-eagle", "run_id": "gone"})
        assert resolve_saved(workbench, "", str(other), stage="bench").spec.base.name == "qwen3-4b-instruct-2507"
        bare = draft_in(tmp_path / "bare", hetspec={"base": "llama2-7b-chat"})
        assert resolve_saved(workbench, "", str(bare), stage="bench").spec.base.name == "llama2-7b-chat"


def test_the_origins_combined_model_and_checkpoint_name_their_base(home: Path, tmp_path: Path) -> None:
    combined = tmp_path / "deft"
    draft_in(combined / "draft_model")
    named = {"speculative_decoding_base_model_path": "Qwen/Qwen3-4B-Instruct-2507"}
    (combined / "config.json").write_text(json.dumps(named))
    checkpoint = draft_in(tmp_path / "run" / "checkpoint-5" / "draft_model")
    (tmp_path / "run" / "specforge_het.json").write_text(
        json.dumps({"modeling.model_path": "meta-llama/Llama-2-7b-chat-hf"})
    )
    with Workbench() as workbench:
        assert find_saved(workbench, str(combined)).recipe.startswith("qwen3-4b")
        found = resolve_saved(workbench, "", str(checkpoint), stage="bench").spec
        assert found.base.name == "llama2-7b-chat"


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ({}, "smollm2-llama-eagle"),
        ({"architectures": ["LlamaForCausalLMEagle3"]}, "smollm2-eagle3"),
        ({"hetspec": {"algorithm": {"name": "latent"}}}, "smollm2-latent"),
        ({"hetspec": {"algorithm": {"name": "one of somebody's own"}}}, "smollm2-llama-eagle"),
    ],
)
def test_a_base_that_comes_in_a_package_is_found_by_the_repository_it_was_made_from(
    home: Path, tmp_path: Path, config: dict[str, Any], recipe: str
) -> None:
    combined = tmp_path / "deft"
    draft_in(combined / "draft_model", **config)
    named = {"speculative_decoding_base_model_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    (combined / "config.json").write_text(json.dumps(named))
    with Workbench() as workbench:
        assert find_saved(workbench, str(combined)).recipe == recipe
        assert resolve_saved(workbench, "", str(combined), stage="bench").spec.base.name == "smollm2-135m-instruct"


def test_what_says_nothing_is_refused_with_what_would_help(home: Path, tmp_path: Path) -> None:
    with Workbench() as workbench:
        silent = draft_in(tmp_path / "silent", model_type="llama")
        with pytest.raises(NotFoundError, match="does not name") as error:
            find_saved(workbench, str(silent))
        assert "--draft" in error.value.hint
        with pytest.raises(NotFoundError):
            find_saved(workbench, "nobody")


def test_a_training_without_recipe_wants_a_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert roots().data == home
    assert main(["train", "--dataset", "nowhere"]) == 2
    assert "there is no recipe" in capsys.readouterr().err
