"""A sweep: what runs a file asks for, one dataset for all, and going on with what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.cli.main import main
from hetspec_core.errors import NotFoundError, RunError, SpecError
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.library import Library
from hetspec_core.service.sweeps.cells import SweepCell, SweepSpec, expand, read_sweep
from hetspec_core.service.sweeps.running import SweepLedger, SweepRun, standings
from hetspec_core.service.workbench import Workbench

FILE = """
recipes = ["smollm2-llama-eagle", "smollm2-eagle3"]

[set]
training.max_steps = 10
bench.trees = ["6/10/60", "4/1/4"]

[train]
training.optimizer.lr = [1e-3, 3e-3]

[bench]
"bench.batch_size" = [1, 4]
"""


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench


def written(tmp_path: Path, text: str = FILE, name: str = "grid") -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(text)
    return path


def small(name: str, **more: object) -> SweepSpec:
    """One dataset, two trainings, a bench of each, on the CPU."""
    return SweepSpec.model_validate(
        {
            "name": name,
            "recipes": ["smollm2-llama-eagle"],
            "set": {"resources.device": "cpu"},
            "train": {"training.max_steps": [1, 2]},
            **more,
        }
    )


def run_of(workbench: Workbench, sweep: SweepSpec) -> tuple[SweepRun, list[str]]:
    said: list[str] = []

    def say(cell: SweepCell, run_id: str, state: str) -> None:
        said.append(f"{cell.stage} {state}")

    return SweepRun(workbench, sweep, expand(workbench, sweep), say), said


def through(workbench: Workbench, sweep: SweepSpec) -> dict[str, str]:
    """Submit what is missing and follow it to its end; gives label and stage -> end."""
    run, _ = run_of(workbench, sweep)
    ends = run.follow(run.submit(), most=2)
    return {f"{cell.stage} {cell.label}": ends[cell.key] for cell in run.cells if cell.key in ends}


def test_a_grid_becomes_one_dataset_and_a_run_for_every_combination(workbench: Workbench, tmp_path: Path) -> None:
    cells = expand(workbench, read_sweep(written(tmp_path)))
    stages = [cell.stage for cell in cells]
    assert (stages.count("dataset"), stages.count("train"), stages.count("bench")) == (1, 4, 8)
    assert stages == sorted(stages, key=["dataset", "train", "bench"].index)
    dataset, *others = cells
    assert dataset.spec.dataset.layers == (2, 15, 27), "the layers that EAGLE-3 reads, which the others do without"
    assert len({cell.key for cell in cells}) == len(cells) == len({(cell.stage, cell.label) for cell in cells})
    parents = {cell.key: cell for cell in cells}
    for cell in others:
        assert parents[cell.parent].stage == ("dataset" if cell.stage == "train" else "train")
    rates = sorted(cell.spec.training.optimizer.lr for cell in cells if cell.stage == "train")
    assert rates == [1e-3, 1e-3, 3e-3, 3e-3]
    assert all([tree.label for tree in cell.spec.bench.trees] == ["6/10/60", "4/1/4"] for cell in cells[5:])


def test_a_cell_is_known_by_what_it_does_and_not_by_how_the_file_is_written(
    workbench: Workbench, tmp_path: Path
) -> None:
    keys = {cell.key for cell in expand(workbench, read_sweep(written(tmp_path)))}
    nested = FILE.replace('"bench.batch_size"', "bench.batch_size").replace("[1e-3, 3e-3]", "[0.003, 0.001]")
    assert {cell.key for cell in expand(workbench, read_sweep(written(tmp_path, nested, "other")))} == keys
    longer = FILE.replace("max_steps = 10", "max_steps = 11")
    changed = expand(workbench, read_sweep(written(tmp_path, longer)))
    assert [cell.stage for cell in changed if cell.key in keys] == ["dataset"], "drafts trained for longer are others"
    other = FILE.replace('"4/1/4"', '"5/1/5"')
    changed = expand(workbench, read_sweep(written(tmp_path, other)))
    assert {cell.stage for cell in changed if cell.key in keys} == {"dataset", "train"}


def test_every_run_is_made_once_and_only_what_is_missing_is_made_again(workbench: Workbench) -> None:
    sweep = small("succeed")
    assert set(through(workbench, sweep).values()) == {"succeeded"}
    runs = {run.run_id: run for run in workbench.runs()}
    assert len(runs) == 5 and all(run.tags == ("sweep-succeed",) for run in runs.values())
    [dataset] = [run for run in runs.values() if run.stage == "dataset"]
    assert all(run.parents == (dataset.run_id,) for run in runs.values() if run.stage == "train")
    library = Library(workbench)
    for run in runs.values():
        if run.stage == "bench":
            spec = library.spec(run.run_id)
            assert spec.draft is not None and run.parents == (spec.draft.checkpoint,)

    assert set(through(workbench, sweep).values()) == {"succeeded"}
    assert {run.run_id for run in workbench.runs()} == set(runs), "nothing was missing"

    bench = next(run for run in runs.values() if run.stage == "bench")
    library.discard(bench.run_id)
    library.discard(dataset.run_id)
    cells = expand(workbench, sweep)
    assert [s.action for s in standings(workbench, sweep, cells) if s.action] == ["submit"], "the bench alone"
    through(workbench, sweep)
    [again] = [run for run in workbench.runs() if run.run_id not in runs]
    assert (again.stage, again.state, again.parents) == ("bench", "succeeded", bench.parents)


def test_what_failed_goes_on_and_what_stands_on_it_waits(workbench: Workbench) -> None:
    sweep = small("fail-x", stages=["dataset", "train"])
    ends = through(workbench, sweep)
    assert ends["dataset smollm2-135m-instruct dataset"] == "failed"
    assert [end for name, end in ends.items() if name.startswith("train")] == ["blocked", "blocked"]
    before = {run.run_id for run in workbench.runs()}
    ends = through(workbench, sweep)
    assert ends["dataset smollm2-135m-instruct dataset"] == "succeeded", "resumed, from what is on disk"
    assert [end for name, end in ends.items() if name.startswith("train")] == ["failed", "failed"]
    assert set(through(workbench, sweep).values()) == {"succeeded"}
    assert {run.run_id for run in workbench.runs()} == before


def test_runs_that_were_submitted_and_never_started_are_started(workbench: Workbench) -> None:
    sweep = small("succeed")
    run, _ = run_of(workbench, sweep)
    run.submit()  # and then somebody pulls the plug
    before = {run.run_id for run in workbench.runs()}
    assert set(through(workbench, sweep).values()) == {"succeeded"}
    assert {run.run_id for run in workbench.runs()} == before


def test_two_commands_do_not_submit_one_sweep_at_a_time(workbench: Workbench) -> None:
    ledger = SweepLedger(workbench.roots.data, "grid")
    with (
        ledger.lock(),
        pytest.raises(RunError, match="another command"),
        SweepLedger(workbench.roots.data, "grid").lock(),
    ):
        pass


def test_faults_of_all_combinations_are_named_before_anything_is_made(workbench: Workbench, tmp_path: Path) -> None:
    text = FILE.replace("training.optimizer.lr = [1e-3, 3e-3]", "training.optimizer.lr = [1e-3, -1.0]")
    with pytest.raises(SpecError) as error:
        expand(workbench, read_sweep(written(tmp_path, text)))
    assert any("lr=-1.0" in problem for problem in error.value.problems)
    with pytest.raises(SpecError, match="does not hold") as error:
        read_sweep(written(tmp_path, FILE.replace("[1, 4]", "4")))
    assert any("a grid needs a list" in problem for problem in error.value.problems)
    with pytest.raises(SpecError) as error:
        read_sweep(written(tmp_path, 'recipe = ["smollm2-llama-eagle"]'))
    assert any("recipes" in problem for problem in error.value.problems)
    with pytest.raises(NotFoundError):
        read_sweep(tmp_path / "nowhere.toml")
    assert workbench.runs() == []


def test_a_dry_run_says_what_each_run_costs_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(written(tmp_path)), "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 13 and {row["action"] for row in rows} == {"submit"}
    assert all(row["plan"]["device_bytes"] > 0 for row in rows)
    assert main(["sweep", str(written(tmp_path)), "--dry-run"]) == 0
    assert "13 runs, 13 to do" in capsys.readouterr().out
    with Workbench() as workbench:
        assert workbench.runs() == []
