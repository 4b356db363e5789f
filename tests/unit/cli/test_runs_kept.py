"""`hetspec-core runs` finds, labels, compares, exports and throws away runs, and gets them back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.cli.main import main
from hetspec_core.events import Event, Journal, Launched, Metric, Result, RunEnded, RunStarted
from hetspec_core.files import locked
from hetspec_core.process import ProcessIdentity
from hetspec_core.service.folders import submit_folder
from hetspec_core.service.library import Library
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec
from tests.fakes.specs import small_spec

Capture = pytest.CaptureFixture[str]
STARTED = RunStarted(stage="train", pid=1, host="elsewhere.example", birth="b")
ENDED = RunEnded(state="succeeded")


def add(home: Path, spec: RunSpec, *events: Event) -> str:
    with Workbench(home) as workbench:
        handle = workbench.submit(spec)
    with Journal(handle.paths.events, "worker-0") as journal:
        for event in events:
            journal.write(event)
    return handle.run_id


def trained(name: str, lr: float, *parents: str) -> RunSpec:
    spec = small_spec(name)
    optimizer = spec.training.optimizer.model_copy(update={"lr": lr})
    training = spec.training.model_copy(update={"optimizer": optimizer})
    return spec.model_copy(update={"training": training, "parents": parents})


@pytest.fixture
def runs(home: Path) -> Iterator[dict[str, str]]:
    data = add(home, small_spec("data", "dataset"), STARTED, ENDED)
    curve = [Metric(step=step, values={"loss": 3.0 - step / 100}, tokens=step) for step in range(100)]
    slow = add(home, trained("slow", 0.01, data), STARTED, *curve,
               Result(kind="training", data={"accept_length": 2.25}), ENDED)  # fmt: skip
    fast = add(home, trained("fast", 0.1, data), STARTED, Metric(step=5, values={"loss": 1.0, "accept_length": 2.75}),
               ENDED)  # fmt: skip
    bench = add(home, small_spec("bench|it", "bench").model_copy(update={"parents": (fast,)}))
    yield {"data": data, "slow": slow, "fast": fast, "bench": bench}
    with Workbench(home) as workbench:  # whatever was done: the registry is what the folders say
        registry = workbench.registry
        registry.sync_all()
        live = [registry._rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in ("runs", "metrics", "results")]
        texts = registry._rows("SELECT run_id, name, note, tags, config FROM texts ORDER BY 1")
        workbench.rebuild()
        again = [registry._rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in ("runs", "metrics", "results")]
        assert again == live
        assert registry._rows("SELECT run_id, name, note, tags, config FROM texts ORDER BY 1") == texts


def answer(capsys: Capture, *words: str) -> object:
    assert main(["runs", *words, "--json"]) == 0, capsys.readouterr()
    return json.loads(capsys.readouterr().out)


def names(capsys: Capture, *words: str) -> list[str]:
    found = answer(capsys, "list", *words)
    assert isinstance(found, list)
    return [run["name"] for run in found]


def test_runs_are_filtered_searched_and_sorted(runs: dict[str, str], capsys: Capture) -> None:
    assert names(capsys, "accept_length>2.5") == ["fast"]
    assert names(capsys, "state:succeeded", "stage:train", "--sort", "accept_length:asc") == ["slow", "fast"]
    assert names(capsys, "stage:train", "--sort", "loss") == ["slow", "fast"]
    assert names(capsys, "fast", "--stage", "train") == ["fast"]
    assert main(["runs", "list", "stage:train", "--sort", "training.optimizer.lr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["fast", "slow"] and "0.10" in lines[0]
    assert main(["runs", "list", "stat:failed"]) == 2
    assert "did you mean 'state'?" in capsys.readouterr().err


def test_the_list_on_a_terminal_of_80_columns_has_whole_ids(
    runs: dict[str, str], home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from hetspec_core.cli import runs_list

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=80, color_system=None, markup=False, highlight=False)
    monkeypatch.setattr(runs_list, "console", lambda: terminal)
    assert main(["runs", "star", "fast"]) == 0
    assert main(["runs", "list", "--sort", "training.optimizer.lr"]) == 0
    text = out.getvalue()
    assert all(run_id in text for run_id in runs.values())
    assert "* fast" in text and "training.op" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_labels_are_put_on_and_taken_off_and_survive_the_registry(
    runs: dict[str, str], home: Path, capsys: Capture
) -> None:
    assert main(["runs", "tag", "fast", "+best", "+new", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == ["best", "new"]
    assert main(["runs", "tag", "fast", "-new", "+b"]) == 0
    assert capsys.readouterr().out == "b\nbest\n"
    assert main(["runs", "note", "fast", "warmup was [red]too short[/red]"]) == 0
    assert main(["runs", "star", "fast", "slow"]) == 0
    assert main(["runs", "unstar", "slow"]) == 0
    assert main(["runs", "archive", "data"]) == 0
    capsys.readouterr()
    for path in home.glob("registry.db*"):
        path.unlink()
    assert names(capsys, "tag:best", "too short", "starred:yes") == ["fast"]
    assert "data" not in names(capsys) and "data" in names(capsys, "--archived")
    assert names(capsys, "archived:yes") == ["data"]
    assert main(["runs", "unarchive", runs["data"]]) == 0
    assert main(["runs", "note", "fast"]) == 0
    assert capsys.readouterr().out == "warmup was [red]too short[/red]\n"
    assert main(["runs", "show", "fast"]) == 0
    assert "b, best" in capsys.readouterr().out
    assert main(["runs", "note", "fast", ""]) == 0
    assert answer(capsys, "note", "fast") == {"run_id": runs["fast"], "note": ""}
    for words in (["plain"], ["+"], ["+a", "-a"], ["+a,b"]):
        assert main(["runs", "tag", "fast", *words]) == 2
    assert main(["runs", "star", "nothing"]) == 4


def test_deleted_runs_are_in_the_trash_and_come_back(runs: dict[str, str], home: Path, capsys: Capture) -> None:
    assert main(["runs", "tag", "fast", "+best"]) == 0
    assert main(["runs", "delete", "fast"]) == 2  # nobody is there to be asked
    assert (home / "runs" / runs["fast"]).is_dir()
    capsys.readouterr()
    assert main(["runs", "delete", "fast", "slow", "--yes"]) == 0
    assert f"{runs['bench']} depends on what will be deleted" in capsys.readouterr().err
    assert names(capsys, "stage:train") == []
    trash = answer(capsys, "trash")
    assert isinstance(trash, list) and {one["name"] for one in trash} == {"fast", "slow"}
    assert main(["runs", "restore", "fast"]) == 0
    assert names(capsys, "tag:best") == ["fast"]
    assert main(["runs", "restore", "fast"]) == 4
    assert main(["runs", "trash", "--empty"]) == 2
    capsys.readouterr()
    assert main(["runs", "trash", "--empty", "--yes", "--json"]) == 0
    capsys.readouterr()
    assert answer(capsys, "trash") == []
    assert not (home / "trash" / runs["slow"]).exists() and (home / "runs" / runs["fast"]).is_dir()


def test_who_is_asked_and_says_no_loses_nothing(
    runs: dict[str, str], home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    from hetspec_core.cli import runs_edit

    monkeypatch.setattr(runs_edit.sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda question, err: False)
    assert main(["runs", "delete", "fast"]) == 130
    assert (home / "runs" / runs["fast"]).is_dir()
    monkeypatch.setattr(typer, "confirm", lambda question, err: True)
    assert main(["runs", "delete", "fast"]) == 0
    assert (home / "trash" / runs["fast"]).is_dir()


def test_a_running_run_is_neither_deleted_nor_repeated(runs: dict[str, str], home: Path, capsys: Capture) -> None:
    with Workbench(home) as workbench, Journal(workbench.paths(runs["bench"]).desk, "desk") as desk:
        me = ProcessIdentity.of()
        desk.write(Launched(attempt=1, pid=me.pid, host=me.host, birth=me.birth))
        lock = workbench.paths(runs["bench"]).supervisor_lock
    with locked(lock):
        assert main(["runs", "delete", runs["bench"], "--yes"]) == 9
        assert "runs cancel" in capsys.readouterr().err
        assert main(["runs", "retry", runs["bench"]]) == 9
    assert (home / "runs" / runs["bench"]).is_dir()


def test_a_run_copied_back_by_hand_is_not_overwritten_by_its_trash(runs: dict[str, str], home: Path) -> None:
    import shutil

    assert main(["runs", "delete", "fast", "--yes"]) == 0
    shutil.copytree(home / "trash" / runs["fast"], home / "runs" / runs["fast"])
    assert main(["runs", "restore", runs["fast"]]) == 9


def test_lineage_goes_up_and_down(runs: dict[str, str], capsys: Capture) -> None:
    tree = answer(capsys, "lineage", "fast")
    assert isinstance(tree, dict)
    assert [one["run_id"] for one in tree["stands_on"]] == [runs["data"]]
    assert [one["run_id"] for one in tree["stand_on_it"]] == [runs["bench"]]
    assert main(["runs", "delete", "data", "--yes"]) == 0
    capsys.readouterr()
    assert main(["runs", "lineage", "bench|it"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert runs["fast"] in lines[1] and f"{runs['data']}  not here any more" in lines[2]
    assert lines[-1].endswith("is needed by nothing")


def test_runs_are_compared_by_what_differs_and_by_what_they_came_to(runs: dict[str, str], capsys: Capture) -> None:
    found = answer(capsys, "compare", "slow", "fast")
    assert isinstance(found, dict)
    assert found["settings"] == {"name": ["slow", "fast"], "training.optimizer.lr": [0.01, 0.1]}
    assert found["results"]["training.accept_length"] == [2.25, None]
    assert main(["runs", "compare", "slow", "fast"]) == 0
    out = capsys.readouterr().out
    assert "training.optimizer.lr" in out and "2.75" in out and "\x1b" not in out
    assert main(["runs", "compare", "slow"]) == 2
    assert answer(capsys, "diff", "slow", "fast") == [
        {"key": "name", "first": "slow", "second": "fast"},
        {"key": "training.optimizer.lr", "first": 0.01, "second": 0.1},
    ]
    capsys.readouterr()
    assert main(["runs", "diff", "slow", "slow"]) == 0
    assert "no difference" in capsys.readouterr().err


def test_metrics_are_printed_by_name_thinned_and_as_csv(runs: dict[str, str], capsys: Capture) -> None:
    assert answer(capsys, "metrics", "slow") == [
        {"name": "loss", "step": 99, "value": 2.01, "tokens": 99, "wall_s": None}
    ]
    curve = answer(capsys, "metrics", "slow", "--name", "loss", "--points", "10")
    assert isinstance(curve, list) and len(curve) <= 12 and curve[0]["step"] == 0 and curve[-1]["step"] == 99
    assert main(["runs", "metrics", "fast", "--csv"]) == 0
    assert capsys.readouterr().out == "name,step,value,tokens,wall_s\naccept_length,5,2.75,,\nloss,5,1.0,,\n"
    assert main(["runs", "metrics", "fast"]) == 0
    assert "accept_length" in capsys.readouterr().out
    assert main(["runs", "metrics", "fast", "--name", "lss"]) == 4
    assert "did you mean 'loss'?" in capsys.readouterr().err
    assert main(["runs", "metrics", "bench|it"]) == 0
    assert "no metrics yet" in capsys.readouterr().err


def test_runs_are_exported_as_csv_json_and_markdown(runs: dict[str, str], tmp_path: Path, capsys: Capture) -> None:
    assert main(["runs", "export", "stage:train"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["name"]: (row["loss"], row["training.accept_length"]) for row in rows} == {
        "slow": ("2.01", "2.25"), "fast": ("1.0", "")}  # fmt: skip
    assert main(["runs", "export", "--format", "json", "fast", "stage:train"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["figures"] == {"accept_length": 2.75, "loss": 1.0}
    target = tmp_path / "table.md"
    assert main(["runs", "export", "--format", "markdown", "-o", str(target)]) == 0
    lines = target.read_text().splitlines()
    assert len(lines) == 6 and lines[1].startswith("| --- |") and "bench\\|it" in target.read_text()
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert main(["runs", "export", "-o", "/proc/nowhere/table.csv"]) == 8


def test_a_run_is_begun_again_as_a_new_one_from_the_same_folder(
    runs: dict[str, str], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Workbench(home) as workbench:
        library = Library(workbench)
        again = library.retry(runs["fast"])
        assert again != runs["fast"]
        assert library.spec(again) == library.spec(runs["fast"])
        assert submit_folder(workbench.paths(again)) == submit_folder(workbench.paths(runs["fast"])) != tmp_path
        assert workbench.state(again) == "queued"


def test_a_list_that_is_empty_because_all_is_archived_says_so(home: Path, capsys: Capture) -> None:
    run_id = add(home, small_spec("data", "dataset"), STARTED, ENDED)
    assert main(["runs", "archive", run_id]) == 0
    capsys.readouterr()
    assert main(["runs", "list"]) == 0
    assert "--archived" in capsys.readouterr().err
