"""Reports of many benches: tables, drawings, files, and which drafts nothing else beats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.cli.bench import print_bench
from hetspec_core.cli.main import main
from hetspec_core.cli.pipeline import verdict as verdict_of_demo
from hetspec_core.events.results import TreeResult, read_bench
from hetspec_core.quantities import load_note
from hetspec_core.service.bench_view import COLUMNS
from hetspec_core.service.results import ResultRow, collect, front, rows_of
from hetspec_core.service.workbench import Workbench
from hetspec_tui.screens.run.texts import results_text
from tests.fakes.results import PLAIN, bench_run, recorded, tree


@pytest.fixture
def benches(home: Path) -> list[str]:
    with Workbench() as workbench:
        return [
            bench_run(workbench, "[red]small[/red]", 1_000_000, tree("6/10/60", 2.5, 0.010, 150.0)),
            bench_run(
                workbench, "large", 4_000_000, tree("6/10/60", 3.0, 0.030, 140.0), tree("4/1/4", 2.0, 0.015, 160.0)
            ),
        ]


def test_a_report_shows_every_tree_with_where_the_time_goes(benches, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    shown = capsys.readouterr().out
    assert "[red]small[/red]" in shown, "names are no markup"
    assert "2.50" in shown and "7/8" in shown
    assert "0.55 (26%)" in shown, "the draft reads what was committed again: propose and commit are its time"
    assert "depth 1: 80%" in shown and "depth 2: 25%" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("  2 ")][:1]
    assert "60.0%" in line
    assert "accept length against draft cost" in shown and "tokens/s against active parameters" in shown


def test_a_bench_without_plain_decoding_is_reported_with_what_is_known(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a server gives it that is attached to and always drafts."""
    lone = {**tree("5/4/7", 2.25, 0.0, 150.0), "speedup": None, "lossless": None, "phases": None, "costs": None}
    with Workbench() as workbench:
        run_id = bench_run(workbench, "lone", 0, lone, plain=None)
        [row] = rows_of(workbench, run_id, "")
        assert workbench.show(run_id).summary.speedup is None
    assert (row.accept_length, row.speedup, row.plain_tokens_per_s) == (2.25, None, None)
    told = row.to_json()
    assert (told["identical"], told["prompts"], row.equal_answers) == (None, None, "-")
    for command in (["report"], ["runs", "list"], ["runs", "show", run_id], ["report", "--json"]):
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert "None" not in shown and "lone" in shown
    assert main(["report", "--md", str(home / "r.md"), "--csv", str(home / "r.csv")]) == 0
    assert "2.25" in (home / "r.md").read_text()


ROW_KEYS = [
    "run_id",
    "label",
    "base",
    "recipe",
    "tree",
    "dtype",
    "batch_size",
    "temperature",
    "parameters",
    "active_parameters",
    "accept_length",
    "interval",
    "plain_tokens_per_s",
    "tokens_per_s",
    "speedup",
    "identical",
    "prompts",
    "device",
    "load",
    "histogram",
    "by_depth",
    "costs",
    "step_s",
    "draft_cost_s",
]


def test_the_rows_of_a_report_keep_their_keys_and_are_the_figures_of_the_record(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = recorded("bench-builtin")
    with Workbench() as workbench:
        bench_run(workbench, "kept", 0, *record["trees"], plain=record["plain"], **record["setup"])
    assert main(["report", "--json", "--csv", str(home / "r.csv")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [list(row) for row in rows] == [ROW_KEYS, ROW_KEYS]
    first, tree = rows[0], record["trees"][0]
    for ours, theirs in {"interval": "accept_length_interval", "tokens_per_s": "decode_tokens_per_s"}.items():
        assert first[ours] == tree[theirs]
    assert all(first[key] == tree[key] for key in ("tree", "accept_length", "speedup", "histogram", "by_depth"))
    assert (first["identical"], first["prompts"], first["temperature"]) == (3, 3, 0.0)
    assert first["step_s"]["propose"] == tree["phases"]["propose_s"] + tree["phases"]["commit_s"]
    head = (home / "r.csv").read_text().splitlines()[0].split(",")
    collections = {"interval", "histogram", "by_depth", "costs", "step_s"}
    assert head[: len(ROW_KEYS) - len(collections)] == [key for key in ROW_KEYS if key not in collections]


def test_every_figure_of_a_tree_is_in_the_tables_of_all_faces(
    home: Path, benches: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with Workbench() as workbench:
        record = workbench.show(benches[0]).results["bench"]
    print_bench(record)
    shown = {"bench": capsys.readouterr().out, "dashboard": results_text({"bench": record}).plain}
    assert main(["report", "--md", str(home / "r.md"), "--json"]) == 0
    keys = json.loads(capsys.readouterr().out)[0].keys()
    shown["report"] = (home / "r.md").read_text()
    [tree] = read_bench(record).record.trees
    for face, text in shown.items():
        for column in COLUMNS:
            assert column.head in text and column.text(tree) in text, face
    assert {column.name for column in COLUMNS} <= keys


def test_a_damaged_bench_is_reported_with_a_warning_and_what_can_be_read(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = {"tree": "6/10/60", "accept_length": "no", "histogram": {"1": None}, "by_depth": 7, "lossless": [1]}
    trees: Any = (damaged, 3)
    with Workbench() as workbench:
        run_id = bench_run(workbench, "hurt", 0, *trees, plain="x")
    for command in (["report"], ["report", "--json"]):
        assert main(command) == 0
        told = capsys.readouterr()
        assert "6/10/60" in told.out and "hurt" in told.out
        assert f"warning: run {run_id}: the record is damaged: plain is 'x', not a table, and 5 more" in told.err
    print_bench({"setup": 1, "plain": None, "trees": [damaged]})
    assert "the record is damaged: setup is 1, not a table, and 4 more" in capsys.readouterr().out


def test_a_bench_without_plain_decoding_is_compared_with_one_that_has_it(
    benches, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = {**tree("5/4/7", 2.25, 0.0, 150.0), "speedup": None, "lossless": None, "phases": None, "costs": None}
    with Workbench() as workbench:
        run_id = bench_run(workbench, "lone", 0, lone, plain=None)
    assert main(["runs", "compare", benches[0], run_id]) == 0
    shown = capsys.readouterr().out
    assert shown.count("succeeded") == 2 and "None" not in shown


def test_words_of_a_query_choose_runs_and_nothing_found_is_said(benches, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "name:large", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["label"], row["tree"]) for row in rows] == [("large", "6/10/60"), ("large", "4/1/4")]
    assert rows[0]["draft_cost_s"] == pytest.approx(0.031)
    assert main(["report", "name:nobody"]) != 0
    assert "no bench of name:nobody has succeeded" in capsys.readouterr().err


def test_files_hold_the_same_figures(benches, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv, markdown = tmp_path / "r.csv", tmp_path / "r.md"
    assert main(["report", "--csv", str(csv), "--md", str(markdown), "--no-histograms"]) == 0
    head, *lines = csv.read_text().splitlines()
    assert len(lines) == 3 and {"accept_length", "propose_s", "committed_2"} <= set(head.split(","))
    assert "| large | 4/1/4 | float32 |" in markdown.read_text()


def test_a_picture_needs_an_extra_that_is_named(benches, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plots.png"
    status = main(["report", "--png", str(path)])
    shown = capsys.readouterr()
    if status == 0:
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert "hetspec[report]" in shown.err and not path.exists()
    assert main(["report", "--png", str(tmp_path / "plots.jpg")]) == 2


def test_only_a_sweeps_own_benches_are_in_its_report(benches, home: Path) -> None:
    from hetspec_core.service.sweeps.running import SubmittedCell, SweepLedger

    with Workbench() as workbench:
        entries = {
            "a": SubmittedCell(benches[1], "lr=1", "bench", "t"),
            "b": SubmittedCell("gone", "lr=2", "bench", "t"),
        }
        SweepLedger(workbench.roots.data, "grid").write(entries)
        assert [row.label for row in collect(workbench, ["grid"])] == ["lr=1", "lr=1"]


def row(x: float, y: float) -> ResultRow:
    return ResultRow(
        run_id="r", label="l", base="b", recipe="", dtype="", batch_size=1, temperature=0.0, parameters=1,
        active_parameters=1, plain_tokens_per_s=1.0,
        measured=TreeResult(tree="t", accept_length=y, decode_tokens_per_s=x, speedup=1.0),
    )  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found, best = front([row(x, y) for x, y in points], lambda one: one.tokens_per_s, lambda one: one.accept_length)
    values = [value for _, value in found]
    assert best, "something is always on it"
    for index, (x, y) in enumerate(values):
        better = any((a <= x and b > y) or (a < x and b >= y) for a, b in values)
        assert (index in best) is not better


def outputs(place: Path) -> list[list[str]]:
    """Command lines that write `place / out.*`."""
    return [
        ["runs", "export", "--format", "csv", "-o", str(place / "out.csv")],
        ["report", "--csv", str(place / "out.csv")],
        ["report", "--md", str(place / "out.md")],
        ["trace", "export", "shipped:smollm2", "-o", str(place / "out.html")],
    ]


def test_an_output_that_is_a_link_is_written_through(benches, tmp_path: Path) -> None:
    for words in outputs(tmp_path):
        link, target = Path(words[-1]), tmp_path / "elsewhere" / Path(words[-1]).name
        target.parent.mkdir(exist_ok=True)
        target.write_text("old")
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert main(words) == 0
        assert link.is_symlink() and target.read_text() not in ("", "old"), words


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_is_a_device_stays_one(benches, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in outputs(tmp_path):
        Path(words[-1]).unlink(missing_ok=True)
        Path(words[-1]).symlink_to("/dev/full")
        assert main(words) == 8, words
        assert "the disk is full" in capsys.readouterr().err
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    ("load", "cores", "note"),
    [
        (12.3, 2, "load 12 on 2 cores"),
        (3.1, 2, "load 3 on 2 cores"),
        (2.9, 2, ""),  # its own threads, and little besides
        (2.5, 1, "load 2 on 1 core"),
        (70.0, 64, ""),
        (90.0, 64, "load 90 on 64 cores"),
        (None, 2, ""),
        (float("nan"), 2, ""),
        (5.0, None, ""),
    ],
)
def test_a_load_is_told_where_other_work_shared_the_processor(load: Any, cores: Any, note: str) -> None:
    assert load_note({"load_average": load, "cores": cores}) == note
    assert load_note({}) == ""


def test_the_demo_names_no_faster_tree_from_figures_measured_under_load() -> None:
    data = {"plain": PLAIN, "trees": [tree("6/10/60", 2.1, 0.1, 160.0)]}
    assert "decodes 1.60 times as fast" in verdict_of_demo(data | {"setup": {"load_average": 1.0, "cores": 2}})
    told = verdict_of_demo(data | {"setup": {"load_average": 12.0, "cores": 2}})
    assert "Accept length 2.1" in told and "load 12 on 2 cores" in told and "times as fast" not in told


def test_a_figure_measured_under_load_says_so_in_every_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workbench() as workbench:
        bench_run(workbench, "calm", 10, tree("1/1/1", 1.5, 0.1, 50.0), load_average=1.0, cores=2)
        bench_run(workbench, "busy", 10, tree("1/1/1", 1.5, 0.1, 20.0), load_average=12.0, cores=2)
    assert main(["report", "--no-histograms", "--md", str(home / "report.md")]) == 0
    assert "load 12 on 2 cores" in " ".join(capsys.readouterr().out.split())
    lines = (home / "report.md").read_text().splitlines()
    assert "measured at" in lines[0]
    assert [line.rstrip(" |").endswith("load 12 on 2 cores") for line in lines if "busy" in line][:1] == [True]
    assert not any("load 12" in line for line in lines if "calm" in line)
    assert main(["report", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["label"]: row["load"] for row in rows} == {"calm": "", "busy": "load 12 on 2 cores"}
    data = {"setup": {"load_average": 12.0, "cores": 2}, "plain": PLAIN, "trees": [tree("1/1/1", 1.5, 0.1, 20.0)]}
    assert "measured at load 12 on 2 cores" in results_text({"bench": data}).plain
