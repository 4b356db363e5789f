"""`hetspec-core runs` shows what is in the folders, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetspec_core.cli.main import main
from hetspec_core.events import ErrorInfo, Journal, Launched, Metric, Progress, Result, RunEnded
from hetspec_core.service.workbench import Workbench
from tests.fakes.run_folders import STARTED, submit_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(home: Path) -> dict[str, str]:
    error = ErrorInfo(kind="DataError", message="no [assistant] turn", hint="use answers=base", exit_code=5)
    return {
        "good": submit_run(
            home,
            "good",
            STARTED,
            Progress(task="train", done=40, total=40, unit="steps"),
            Metric(step=40, values={"loss": 0.123456, "accept_length": 2.345}),
            Result(kind="training", data={"accept_length": 2.345, "tokens": 12345}),
            RunEnded(state="succeeded"),
        ),
        "bad": submit_run(home, "bad", STARTED, RunEnded(state="failed", error=error)),
        "waiting": submit_run(home, "[red]waiting[/red]", stage="dataset"),
    }


def test_the_list_fits_into_80_columns_and_takes_no_markup(
    runs: dict[str, str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert all(run_id in out for run_id in runs.values())
    assert "[red]waiting[/r" in out
    assert "2.35" in out and "100%" in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_the_list_is_filtered_and_cut(runs: dict[str, str], capsys: Capture) -> None:
    assert main(["runs", "list", "--state", "failed", "--json"]) == 0
    (failed,) = json.loads(capsys.readouterr().out)
    assert (failed["run_id"], failed["state"], failed["error"]["kind"]) == (runs["bad"], "failed", "DataError")
    assert main(["runs", "list", "--stage", "dataset", "--json"]) == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)] == [runs["waiting"]]
    assert main(["runs", "list", "--limit", "2"]) == 0
    out, err = capsys.readouterr()
    assert runs["good"] not in out and "--limit" in err
    assert main(["runs", "list", "--state", "broken"]) == 2


def test_an_empty_list_says_so_and_is_an_empty_array(home: Path, capsys: Capture) -> None:
    assert main(["runs", "list"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "no runs yet" in err
    assert main(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_run_is_shown_with_everything_known_of_it(runs: dict[str, str], capsys: Capture) -> None:
    assert main(["runs", "show", "good"]) == 0
    out = capsys.readouterr().out
    for words in (runs["good"], "succeeded", "train: 40 of 40 steps (100%)", "0.1235", "12,345", "events.jsonl"):
        assert words in out
    assert main(["runs", "show", "bad"]) == 0
    out = capsys.readouterr().out
    assert "error: no [assistant] turn" in out and "hint: use answers=base" in out
    assert main(["runs", "show", "good", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["results"]["training"]["tokens"], shown["spec"]["name"]) == (12345, "good")


def test_a_run_that_ended_can_still_be_followed(runs: dict[str, str], capsys: Capture) -> None:
    assert main(["runs", "follow", "good"]) == 0
    err = capsys.readouterr().err
    assert "train: 40/40 steps (100%)" in err and "step 40  loss 0.1235  accept_length 2.345" in err
    assert main(["runs", "follow", "bad", "--json"]) == 5
    *events, error = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["type"] for event in events] == ["run_started", "run_ended"]
    assert error["error"]["kind"] == "DataError"


def test_logs_are_printed_whole_or_from_the_end(runs: dict[str, str], home: Path, capsys: Capture) -> None:
    log = home / "runs" / runs["good"] / "logs" / "worker-0.log"
    assert main(["runs", "logs", "good"]) == 4
    assert "no log" in capsys.readouterr().err
    log.write_bytes(b"one\ntwo [red]\nthree\xff\n")
    assert main(["runs", "logs", "good", "-f"]) == 0  # it has ended, so there is nothing to wait for
    assert capsys.readouterr().out == "one\ntwo [red]\nthree\ufffd\n"
    assert main(["runs", "logs", "good", "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"line": "three\ufffd"}
    assert main(["runs", "logs", "good", "-n", "0"]) == 0
    assert capsys.readouterr().out == ""


def test_a_queued_run_is_cancelled_and_one_that_ended_is_not(runs: dict[str, str], capsys: Capture) -> None:
    assert main(["runs", "cancel", runs["waiting"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run_id": runs["waiting"], "state": "cancelled"}
    assert main(["runs", "cancel", "bad"]) == 9
    assert main(["runs", "resume", "good"]) == 9


def test_the_registry_is_rebuilt(runs: dict[str, str], capsys: Capture) -> None:
    assert main(["runs", "rebuild", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": 3}


def test_a_run_that_is_not_there_is_status_4(home: Path, capsys: Capture) -> None:
    assert main(["runs", "show", "nothing"]) == 4
    assert "runs list" in capsys.readouterr().err


def test_a_lost_run_says_how_to_go_on(home: Path, capsys: Capture) -> None:
    run_id = submit_run(home, "gone")
    with Workbench(home) as workbench, Journal(workbench.paths(run_id).desk, "desk") as desk:
        from hetspec_core.process import ProcessIdentity

        me = ProcessIdentity.of()
        desk.write(Launched(attempt=1, pid=me.pid, host=me.host, birth="before"))
    assert main(["runs", "follow", "gone"]) == 10
    err = capsys.readouterr().err
    assert "exited without an end event" in err and f"hetspec-core runs resume {run_id}" in err
