"""Sending drafts and datasets to the hub: the card, what goes along, and that the token goes nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.cli.main import main
from hetspec_core.engine.stages.hub_push import files_of, push
from hetspec_core.errors import ResourceError, UsageError
from hetspec_core.service.cards import draft_card, draft_origins
from hetspec_core.service.workbench import Workbench
from tests.fakes.results import bench_run, tree

TOKEN = "hf_secretsecretsecret"
SETTINGS = {"algorithm": {"name": "eagle"}, "recipe": "smollm2-llama-eagle", "base": "smollm2", "captured_layers": []}


class FakeHub:
    """Takes what a client would send."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    def create_repo(self, repository: str, **options: Any) -> None:
        self.repositories.append({"name": repository, **options})

    def create_commit(self, repository: str, operations: list[Any], **options: Any) -> Any:
        if self.fault:
            raise RuntimeError(self.fault)
        for one in operations:
            source = one.path_or_fileobj
            self.files[one.path_in_repo] = source if isinstance(source, bytes) else Path(source).read_bytes()
        return type("Commit", (), {"commit_url": f"https://hub/{repository}/commit/1"})()


@pytest.fixture
def draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "draft"
    (folder / "more").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hetspec": SETTINGS}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "more" / "d2t.bin").write_bytes(b"map")
    (folder / ".lock").touch()
    (folder / "x.lock").touch()
    (folder / "README.md").write_text("an old card")
    (folder / "link").symlink_to("/etc/hostname")
    return folder


def test_files_and_card_go_in_one_commit(draft: Path) -> None:
    hub = FakeHub()
    answer = push(draft, "me/it", "the card", kind="model", private=True, api=hub, token=TOKEN)
    assert hub.repositories == [{"name": "me/it", "repo_type": "model", "private": True, "exist_ok": True}]
    assert hub.files == {
        "config.json": (draft / "config.json").read_bytes(),
        "model.safetensors": b"weights",
        "more/d2t.bin": b"map",
        "README.md": b"the card",
    }
    assert answer["url"].startswith("https://hub/me/it") and TOKEN not in json.dumps(answer)
    assert (draft / "README.md").read_text() == "an old card", "the folder stays as it was"


def test_the_token_is_wanted_from_the_environment_and_is_never_said(
    draft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no token"):
        push(draft, "me/it", "card", kind="model", private=False, api=FakeHub())
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ResourceError) as error:
        push(draft, "me/it", "card", kind="model", private=False, api=FakeHub(f"401 for Bearer {TOKEN}"))
    assert TOKEN not in str(error.value) and "(token)" in error.value.message
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no files"):
        push(tmp_path / "empty", "me/it", "card", kind="dataset", private=False, api=FakeHub(), token=TOKEN)


def test_the_card_has_what_was_measured_and_how_to_use_it(draft: Path) -> None:
    from hetspec_core.config import load_base

    with Workbench() as workbench:
        run_id = bench_run(workbench, "b", 1000, tree("6/10/60", 2.5, 0.01, 150.0))
        spec_file = workbench.paths(run_id).spec
        spec_file.chmod(0o644)
        sizes = spec_file.read_text().partition("[base.architecture]")[2].partition("\n[")[0]
        more = f'\n[draft]\nname = "d"\ncheckpoint = "{draft}"\n[draft.architecture]{sizes}'
        spec_file.write_text(spec_file.read_text() + more)
        card = draft_card(draft_origins(workbench, draft), "me/it", load_base("llama3.1-8b-instruct"))
    head, body = card.split("---\n")[1:3]
    assert "license: llama3.1" in head and 'base_model: "meta-llama/Llama-3.1-8B-Instruct"' in head
    assert "| 6/10/60 | float32 | 1 | 2.50 | 150.00 | 100.00 | 1.50 | 7/8 |" in body
    assert "hetspec-core bench smollm2-llama-eagle --draft it" in body
    assert "Llama 3.1 Community License" in body


def test_a_dry_run_writes_the_card_lists_the_files_and_needs_no_token(
    draft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "card.md"
    words = ["draft", "push", str(draft), "me/it", "--dry-run", "--card", str(card), "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["files"]) == sorted(files_of(draft)) == ["config.json", "model.safetensors", "more/d2t.bin"]
    assert "Nothing has been measured" in card.read_text()
    assert main([*words[:3], "no-owner", "--dry-run", "--card", str(card)]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
    assert main(["draft", "push", str(draft), "me/it"]) == 2
    assert "no token" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["draft", "dataset"])
def test_a_dry_run_prints_the_card_and_writes_nothing(
    kind: str, draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (draft / "manifest.json").write_text("{}")
    place = tmp_path / "here"
    place.mkdir()
    (place / "card.md").write_text("mine")
    monkeypatch.chdir(place)
    assert main([kind, "push", str(draft), "me/it", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "config.json" in out and "# it\n" in out and "nothing was sent" in err
    assert {path.name: path.read_text() for path in place.iterdir()} == {"card.md": "mine"}
    assert main([kind, "push", str(draft), "me/it", "--dry-run", "--card", "card.md"]) == 2
    assert "exists already" in capsys.readouterr().err and (place / "card.md").read_text() == "mine"
    assert main([kind, "push", str(draft), "me/it", "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["card"] is None and "# it\n" in answer["card_text"]


def test_a_datasets_card_says_what_it_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    manifest = {
        "identity": {"base_fingerprint": "beef", "layers": [2, 15], "dtype": "bfloat16"},
        "about": {"base": {"name": "tiny"}, "source": "shipped:prompts"},
        "counts": {"samples": 3, "tokens": 1234, "supervised_tokens": 567},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card = tmp_path / "card.md"
    assert main(["dataset", "push", str(folder), "me/states", "--dry-run", "--card", str(card)]) == 0
    text = card.read_text()
    assert "shipped:prompts" in text and "1,234" in text and "2, 15" in text and "--repo-type dataset" in text
