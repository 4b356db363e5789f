"""`hetspec-core plan` and `hetspec-core doctor`: what they print, and how they exit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hetspec_core.cli import machine
from hetspec_core.cli.main import main
from hetspec_core.errors import ResourceError, UsageError
from hetspec_core.service.checks import Check
from hetspec_core.service.workbench import Workbench

Capture = pytest.CaptureFixture[str]
HUGE = ("--stage", "dataset", "--set", "dataset.limit=90000000", "--set", "resources.device='cpu'")


def test_a_plan_is_printed_by_part(capsys: Capture) -> None:
    assert main(["plan", "quick-demo", "--set", "resources.device='cpu'"]) == 0
    out = capsys.readouterr().out
    assert "quick-demo, stage train, on " in out
    assert "cost model, nothing measured" in out
    assert "4,203,648 parameters" in out
    for part in ("optimizer", "gradients", "activations", "logits", "hidden-state batches", "checkpoints"):
        assert part in out
    assert "400 steps at most" in out


def test_a_plan_as_json_has_every_number(capsys: Capture) -> None:
    assert main(["plan", "quick-demo", "--stage", "dataset", "--json", "--set", "resources.device='cpu'"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["base"]["total"] == 134_515_008
    assert made["bytes_per_token"] == 1157
    assert made["samples"] == 300
    assert made["fits"] is True
    assert made["seconds"] > 0


def test_what_cannot_fit_is_refused_with_the_reason_unless_forced(capsys: Capture) -> None:
    words = ["plan", "llama2-7b-llama-eagle", *HUGE]
    assert main(words) == ResourceError.exit_code
    captured = capsys.readouterr()
    assert "cannot fit" in captured.err
    assert "the disk of" in captured.err
    assert "--force" in captured.err
    assert "hidden states" in captured.out  # the plan itself is shown all the same
    assert main([*words, "--force"]) == 0
    capsys.readouterr()
    assert main([*words, "--json"]) == ResourceError.exit_code
    made = json.loads(capsys.readouterr().out)
    assert made["fits"] is False
    assert made["refusals"]


def test_a_probe_is_not_started_for_what_cannot_fit(capsys: Capture) -> None:
    assert main(["plan", "llama2-7b-llama-eagle", *HUGE, "--probe"]) == ResourceError.exit_code
    assert "cannot fit" in capsys.readouterr().err
    with Workbench() as workbench:
        assert workbench.runs() == []


def test_a_probe_is_for_stages_that_run_the_base_over_data(capsys: Capture) -> None:
    assert main(["plan", "quick-demo", "--stage", "bench", "--probe"]) == UsageError.exit_code
    assert "dataset and train" in capsys.readouterr().err


def checks(*statuses: Any) -> Iterator[Check]:
    for number, status in enumerate(statuses):
        yield Check(f"check {number}", status, f"seen {number}", "" if status == "ok" else "do this")


@pytest.mark.parametrize(
    ("statuses", "exit_status"), [(("ok",), 0), (("ok", "warning"), 0), (("error", "ok", "warning"), 1)]
)
def test_the_doctor_exits_with_1_on_an_error_only(
    statuses: tuple[str, ...], exit_status: int, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "diagnose", lambda: checks(*statuses))
    assert main(["doctor"]) == exit_status
    out = capsys.readouterr().out
    assert out.count("hint: do this") == sum(status != "ok" for status in statuses)
    assert f"{statuses.count('ok')} ok" in out
    assert main(["doctor", "--json"]) == exit_status
    told = json.loads(capsys.readouterr().out)
    assert [check["status"] for check in told["checks"]] == list(statuses)
    assert told["counts"]["error"] == statuses.count("error")
