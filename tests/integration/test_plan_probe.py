"""`plan --probe` runs twenty conversations of a real base and plans with what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w

from hetspec_core.cli.main import main
from hetspec_core.service.workbench import Workbench
from tests.fakes.presets import write_preset
from tests.fakes.tiny_base import make_tiny_base


def test_a_probe_is_a_run_and_its_measurements_are_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_tiny_base(tmp_path / "base")
    write_preset("base/tiny", tomli_w.dumps(base.model_dump(mode="json", exclude_none=True, exclude={"name"})))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Question {number} of many?"}) + "\n" for number in range(50)))
    dataset = {"source": str(rows), "answers": "base", "max_new_tokens": 8, "max_length": 128}
    resources = {"device": "cpu", "dtype": "float32", "num_threads": 1}
    recipe = {"base": "tiny", "draft": "llama-1l", "algorithm": "eagle", "dataset": dataset, "resources": resources}
    recipe["training"] = {"max_length": 128}
    write_preset("recipe/tiny", tomli_w.dumps(recipe))

    assert main(["plan", "tiny", "--stage", "dataset", "--probe", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    probe = made["probe"]
    assert made["basis"] == "probe"
    assert probe["samples"] == 20
    assert probe["answers_s"] > 0 < probe["capture_s"]
    assert made["samples"] == 50
    assert made["mean_tokens"] == pytest.approx(probe["tokens"] / 20)
    assert made["bytes_per_token"] * probe["tokens"] < probe["bytes"]
    assert {phase["name"] for phase in made["phases"]} == {"start and load", "answers", "capture"}

    with Workbench() as workbench:
        (run,) = workbench.runs()
    assert (run.run_id, run.name, run.stage, run.state) == (probe["run_id"], "probe tiny", "dataset", "succeeded")
