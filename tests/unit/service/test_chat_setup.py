"""What a chat begins with: who runs the models, whose draft it is, and what drafts are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.service.chat.setup import SERVED_DRAFT, backends, chat_config
from hetspec_core.service.drafts import checkpoint_choices, draft_name
from hetspec_core.service.workbench import Workbench
from tests.tui.homes import NOW, begun, write_run

RECIPE = "smollm2-llama-eagle"
URL = {"backend": "sglang", "sglang.url": "http://127.0.0.1:30000"}


def test_every_backend_can_be_named() -> None:
    assert {"builtin", "sglang"} <= set(backends())
    with Workbench() as workbench:
        assert {chat_config(workbench, RECIPE, plain=True, backend=name).backend for name in backends()} == set(
            backends()
        )


def test_a_server_that_one_attaches_to_brings_its_own_draft(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with Workbench() as workbench:
        served = chat_config(workbench, RECIPE, options=URL)
        assert (served.settings.draft_name, served.backend_options) == (SERVED_DRAFT, {"url": URL["sglang.url"]})
        assert not served.settings.plain
        assert chat_config(workbench, RECIPE, options=URL, plain=True).settings.plain
        assert chat_config(workbench, RECIPE, options=URL, draft=str(tmp_path)).settings.draft == str(tmp_path)
        with pytest.raises(NotFoundError, match="no draft has been trained"):
            chat_config(workbench, RECIPE, options={"backend": "sglang"})
        with pytest.raises(SpecError, match="http://HOST:PORT"):
            chat_config(workbench, RECIPE, options=URL | {"sglang.url": "somewhere"})


def test_drafts_are_called_by_run_and_checkpoint_so_that_no_two_are_alike(home: Path) -> None:
    assert draft_name(Path("/a/imported")) == "imported"
    assert draft_name(Path("/a/20270115-no-run/draft")) == "20270115-no-run"
    paths = [write_run(home, f"2027011{n}-071500-train-{n * 4}", "same", begun(NOW, 9, alive=False)) for n in "12"]
    assert [draft_name(one.draft) for one in paths] == ["same 1111", "same 2222"]
    step = paths[0].checkpoints / "step-000010" / "draft"
    assert draft_name(step) == "same 1111 step-000010"
    step.mkdir(parents=True)
    (step / "config.json").write_text("{}")
    with Workbench() as workbench:
        [found] = checkpoint_choices(workbench, "tiny")
        assert (found.folder, checkpoint_choices(workbench, "another")) == (step, [])
