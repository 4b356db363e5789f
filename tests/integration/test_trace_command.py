"""`hetspec-core trace` on the shipped trace and on recorded ones, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetspec_core.cli.main import main
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.traces.files import load_trace
from tests.conftest import REPOSITORY
from tests.fakes import chat_worker

SHIPPED = "shipped:smollm2"


def test_show_and_replay_print_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    text = Answer.of(load_trace(SHIPPED)).text
    assert main(["trace", "show", SHIPPED]) == 0
    shown = capsys.readouterr().out
    assert text in shown.replace("|", "") and "accept length" in shown and "depth 1" in shown
    assert main(["trace", "replay", SHIPPED, "--speed", "0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == text + "\n" and "accept length" in captured.err
    assert main(["trace", "replay", SHIPPED, "--speed", "0", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["type"] == "started" and events[-1]["text"] == text


def test_one_step_is_shown_as_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "show", SHIPPED, "--step", "1"]) == 0
    out = capsys.readouterr().out
    tree = load_trace(SHIPPED).steps[1].tree
    assert tree is not None and len([line for line in out.splitlines() if "draft " in line]) >= tree.num_nodes
    assert main(["trace", "show", SHIPPED, "--step", "999"]) == 4


def test_list_and_simulate_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["word"] == SHIPPED
    assert main(["trace", "simulate", SHIPPED, "--tree", "6/10/60", "--tree", "7/10/60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    real = Answer.of(load_trace(SHIPPED)).stats.accept_length
    by_shape = {one["shape"]: one for one in found["predictions"]}
    assert by_shape["6/10/60"]["accept_length"] == pytest.approx(real)  # the recorded shape is what happened
    assert by_shape["7/10/60"]["extrapolated"] and found["best"]["shape"] == "6/10/60"


def test_simulate_with_costs_that_a_chat_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr("hetspec_core.service.chat.session.worker_command", lambda: chat_worker.COMMAND)
    draft = tmp_path / "quick"
    draft.mkdir()
    (draft / "config.json").write_text("{}")
    assert main(["trace", "simulate", SHIPPED, "--calibrate", "--draft", str(draft)]) == 0
    assert "tokens/s predicted" in capsys.readouterr().out
    costs = tmp_path / "costs.jsonl"
    costs.write_text("no event\n")
    assert main(["trace", "simulate", SHIPPED, "--costs", str(costs)]) == 5
    assert "calibrated" in capsys.readouterr().err


def test_exports_are_written_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form, begin in (("svg", "<svg"), ("html", "<!DOCTYPE html>"), ("json", "{")):
        path = tmp_path / f"trace.{form}"
        assert main(["trace", "export", SHIPPED, "--format", form, "-o", str(path)]) == 0
        assert path.read_text().startswith(begin)
    capsys.readouterr()
    assert main(["trace", "export", SHIPPED, "--format", "pdf"]) == 2
    assert "svg, html" in capsys.readouterr().err.replace("json, svg", "svg")
    assert main(["trace", "export", SHIPPED, "--format", "svg", "--step", "999"]) == 5
    assert main(["trace", "show", "nothing"]) == 4
