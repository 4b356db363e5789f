"""The stages by SGLang against a fake server and a fake engine: bench, generate, tune, serve.

What is proved on a real server, and where the fake's words come from, is in docs/sglang.md.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from hetspec_core.engine.context import open_context
from hetspec_core.engine.stages import bench, generate, tune
from hetspec_core.errors import Cancelled, ModelError, SpecError, StageFailed
from hetspec_core.events import Log, Progress, Result, read_events
from hetspec_core.sglang import serve
from hetspec_core.sglang.client import SGLangClient
from hetspec_core.spec import BenchSpec, ResourcesSpec, RunSpec, SGLangSpec, TreeSpec, TuneSpec
from hetspec_core.spec.run import to_toml
from tests.fakes.results import keys_of, recorded
from tests.fakes.sglang_pair import CHAIN, GREEDY, Pair, chunks_of, running, wait_for
from tests.fakes.sglang_site import site_spec


def run_folder(tmp_path: Path, pair: Pair, site: Path, stage: str, mode: str = "well", **parts: Any) -> Path:
    questions = tmp_path / "questions.jsonl"
    rows = [{"question_id": 1, "turns": ["Who?"]}, {"question_id": 2, "turns": ["What is it?", "And then?"]}]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = RunSpec(
        stage=stage,  # type: ignore[arg-type]
        base=pair[0],
        draft=pair[1],
        decoding=parts.pop("decoding", GREEDY),
        bench=BenchSpec(prompts=str(questions), trees=(CHAIN,), bootstrap=10),
        backend="sglang",
        sglang=parts.pop("sglang", None) or site_spec(site, mode, trees=False),
        resources=ResourcesSpec(device="cpu", dtype="float32"),
        **parts,
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "logs").mkdir()
    (folder / "spec.toml").write_text(to_toml(spec))
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    events, _ = read_events(folder / "events.jsonl", 0)
    return next(event.data for event in events if isinstance(event, Result))


def test_bench_by_servers_has_the_record_of_the_built_in_bench(pair: Pair, site: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pair, site, "bench", sglang=site_spec(site, trees=False, batch_sizes=(1, 2)))
    with open_context(folder) as context:
        bench.run(context)
    result = result_of(folder)
    assert keys_of(result) == keys_of(recorded("bench-servers"))
    tree = result["trees"][0]
    assert result["setup"]["questions"] == 3 and result["setup"]["sglang"]["version"] == "0.5.17"
    assert tree["lossless"] == {"prompts": 3, "identical": 3, "differences": []}
    # 9 tokens: 8 after the first in 5 steps; SGLang's own division has the first in it.
    assert tree["accept_length"] == pytest.approx(8 / 5)
    assert tree["sglang"]["accept_length"] == pytest.approx(9 / 5)
    assert tree["sglang"]["flags"] == [3, 1, 4]
    assert tree["sglang"]["correct_drafts_histogram"] == [6, 3, 6]
    assert tree["verify_steps"] == 15 and tree["completion_tokens"] == 27
    assert tree["decode_tokens_per_s"] > 0 and tree["speedup"] > 0
    assert tree["sglang"]["batches"][0]["batch_size"] == 2
    assert result["plain"]["completion_tokens"] == 27
    told = [event.task for event in read_events(folder / "events.jsonl", 0)[0] if isinstance(event, Progress)]
    assert {"bench plain", "bench 3/1/3"} <= set(told)
    assert (folder / "logs" / "sglang-1.log").is_file() and (folder / "logs" / "sglang-2.log").is_file()
    assert not list((folder / "checkpoints").glob("*")) and list((folder / "sglang").glob("draft-*"))


def test_bench_of_a_running_server_measures_its_tree_and_prints_without_plain(
    pair: Pair, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hetspec_core.cli.bench import print_bench

    unnamed = (pair[0], pair[1].model_copy(update={"checkpoint": None}))  # the server has its own
    with running(pair, site, tmp_path) as server:
        folder = run_folder(tmp_path, unnamed, site, "bench", sglang=SGLangSpec(url=server.launch.url))
        with open_context(folder) as context:
            bench.run(context)
        assert server.facts is not None
    result = result_of(folder)
    assert keys_of(result) == keys_of(recorded("bench-running-server"))
    assert result["plain"] is None
    assert result["setup"]["draft"] == result["setup"]["sglang"]["draft"] == server.facts.draft
    assert result["trees"][0]["tree"] == "3/1/3" and result["trees"][0]["speedup"] is None
    print_bench(result)
    assert "as SGLang counts: 27 tokens / 15 verify steps = 1.80" in capsys.readouterr().out


def test_the_offline_engine_measures_all_batch_sizes_and_says_how_far_it_is(
    pair: Pair, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hetspec_core.cli.bench import print_bench

    spec = site_spec(site, trees=False, batch_sizes=(1, 2), engine=True)
    folder = run_folder(tmp_path, pair, site, "bench", sglang=spec)
    with open_context(folder) as context:
        bench.run(context)
    result = result_of(folder)
    tree = result["trees"][0]
    assert result["setup"]["sglang"]["mode"] == "engine" and result["setup"]["dtype"] == "float32"
    assert result["setup"]["questions"] == 2, "first turns alone"
    assert tree["lossless"]["identical"] == 2 and tree["accept_length"] == pytest.approx(8 / 5)
    assert tree["sglang"]["accept_length"] == pytest.approx(9 / 5)
    for batches in (tree["sglang"]["batches"], result["plain"]["sglang"]["batches"]):
        assert [batch["batch_size"] for batch in batches] == [1, 2]
    told = [event for event in read_events(folder / "events.jsonl", 0)[0] if isinstance(event, Progress)]
    for task in ("engine plain", "engine 3/1/3"):
        assert [each.done for each in told if each.task == task][-1] == 1.0
    print_bench(result)
    assert "tokens/s: prefill included" in capsys.readouterr().out


def test_a_batch_that_the_prompts_do_not_fill_is_not_made_faster_by_its_size(
    pair: Pair, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hetspec_core.cli.bench import print_bench

    spec = site_spec(site, trees=False, batch_sizes=(8,), engine=True)
    folder = run_folder(tmp_path, pair, site, "bench", sglang=spec)
    with open_context(folder) as context:
        bench.run(context)
    result = result_of(folder)
    for way in (result["plain"], result["trees"][0]):
        batch = way["sglang"]["batches"][0]
        assert way["end_to_end_tokens_per_s"] == pytest.approx(batch["tokens_per_s"], rel=0.1)
    print_bench(result)
    assert "batch 8, median of 1" in capsys.readouterr().out


def test_what_the_engine_measured_outlives_its_end(
    pair: Pair, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hetspec_core.cli.bench import print_bench

    spec = site_spec(site, "die_at_two", trees=False, batch_sizes=(1, 2, 4), engine=True)
    folder = run_folder(tmp_path, pair, site, "bench", sglang=spec)
    with open_context(folder) as context:
        bench.run(context)
    result = result_of(folder)
    assert keys_of(result) == keys_of(recorded("bench-engine"))
    batches = result["trees"][0]["sglang"]["batches"]
    assert [batch["tokens_per_s"] is not None for batch in batches] == [True, False, False]
    assert all("out of memory" in batch["note"] for batch in batches[1:])
    said = [event.message for event in read_events(folder / "events.jsonl", 0)[0] if isinstance(event, Log)]
    assert any("not measured: batch size 2, 4" in line for line in said)
    print_bench(result)
    assert "4 prompts at once: not measured: SGLang's engine ended" in capsys.readouterr().out


def test_the_engine_takes_every_flag_of_a_server_and_tells_one_that_there_is_not(
    pair: Pair, site: Path, tmp_path: Path
) -> None:
    for name, flags in (("known", ("--cuda-graph-bs", "8", "--tensor-parallel-size=1")), ("unknown", ("--no-such",))):
        place = tmp_path / name
        place.mkdir()
        folder = run_folder(place, pair, site, "bench", sglang=site_spec(site, engine=True, flags=flags))
        with open_context(folder) as context:
            if name == "known":
                bench.run(context)
                continue
            with pytest.raises(StageFailed, match="error: unrecognized arguments: --no-such"):
                bench.run(context)


def test_an_engine_that_does_not_start_gives_its_own_last_error(pair: Pair, site: Path, tmp_path: Path) -> None:
    spec = site_spec(site, "die_at_start", trees=False, engine=True)
    folder = run_folder(tmp_path, pair, site, "bench", sglang=spec)
    with (
        open_context(folder) as context,
        pytest.raises(StageFailed, match="engine ended with status 1: ValueError: no"),
    ):
        bench.run(context)


def test_the_base_alone_is_measured_by_servers_started_and_running(
    pair: Pair, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hetspec_core.cli.bench import print_bench

    alone = GREEDY.model_copy(update={"plain": True})
    with running(pair, site, tmp_path, draft=False) as server:
        for name, spec, dtype in (
            ("started", site_spec(site, trees=False, batch_sizes=(2,)), "float32"),
            ("running", SGLangSpec(url=server.launch.url), "bfloat16"),
        ):
            place = tmp_path / name
            place.mkdir()
            folder = run_folder(place, pair, site, "bench", sglang=spec, decoding=alone)
            with open_context(folder) as context:
                bench.run(context)
            result = result_of(folder)
            assert result["trees"] == [] and result["plain"]["completion_tokens"] == 27
            assert result["setup"]["draft"] == ""
            assert result["setup"]["dtype"] == dtype, "the server's, whatever was asked for"
            print_bench(result)
    said = capsys.readouterr().out
    assert "alone" in said and said.count("plain, 2 prompts at once:") == 1


def test_the_base_alone_is_not_measured_at_a_server_that_always_drafts(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server:
        alone = GREEDY.model_copy(update={"plain": True})
        folder = run_folder(tmp_path, pair, site, "bench", sglang=SGLangSpec(url=server.launch.url), decoding=alone)
        with open_context(folder) as context, pytest.raises(ModelError, match="makes every answer with its draft"):
            bench.run(context)


def test_generate_by_a_server_streams_the_same_record(pair: Pair, site: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pair, site, "generate", prompts=("Who are you?",))
    with open_context(folder) as context:
        generate.run(context)
    answer = result_of(folder)["answers"][0]
    assert answer["tokens"] == list(range(5, 14)) and answer["verify_steps"] == 5
    assert answer["accept_length"] == pytest.approx(8 / 5)


@pytest.mark.parametrize("stage", [bench, generate, tune])
def test_nothing_is_measured_of_a_draft_that_the_running_server_does_not_have(
    pair: Pair, site: Path, tmp_path: Path, stage: Any
) -> None:
    other = shutil.copytree(str(pair[1].checkpoint), tmp_path / "other")
    with running(pair, site, tmp_path) as server:
        parts: dict[str, Any] = {"sglang": SGLangSpec(url=server.launch.url), "prompts": ("Who?",)}
        named = (pair[0], pair[1].model_copy(update={"checkpoint": str(other)}))
        folder = run_folder(tmp_path, named, site, stage.__name__.rpartition(".")[2], **parts)
        error, words = (SpecError, "which has one tree") if stage is tune else (ModelError, "and not with")
        with open_context(folder) as context, pytest.raises(error, match=words):
            stage.run(context)


def test_generate_counts_steps_as_the_server_does_when_several_come_at_once(
    pair: Pair, site: Path, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, pair, site, "generate", "lumps", prompts=("Who are you?",))
    with open_context(folder) as context:
        generate.run(context)
    answer = result_of(folder)["answers"][0]
    assert (answer["verify_steps"], answer["accept_length"]) == (5, pytest.approx(8 / 5))


def test_tuning_names_the_fastest_and_what_the_budget_left_out(pair: Pair, site: Path, tmp_path: Path) -> None:
    trees = (TreeSpec.parse("3/1/3"), TreeSpec.parse("2/1/2"))
    folder = run_folder(tmp_path, pair, site, "tune", tune=TuneSpec(trees=trees, batch_sizes=(1, 2)))
    with open_context(folder) as context:
        tune.run(context)
    result = result_of(folder)
    assert [(trial["tree"], trial["batch_size"]) for trial in result["trials"]] == [
        (tree, size) for tree in ("plain", "3/1/3", "2/1/2") for size in (1, 2)
    ]
    assert set(result["best"]) == {"1", "2"}
    assert all(trial["tokens_per_s"] > 0 for trial in result["trials"])


@pytest.mark.parametrize("stage", [bench, tune])
def test_prompts_that_a_server_has_no_room_for_are_left_out_before_anything_is_measured(
    pair: Pair, site: Path, tmp_path: Path, stage: Any
) -> None:
    """The fake's context is 500 tokens, a little less than the base's: the server's own word counts."""
    folder = run_folder(tmp_path, pair, site, stage.__name__.rpartition(".")[2], tune=TuneSpec(trees=(CHAIN,)))
    with (tmp_path / "questions.jsonl").open("a") as file:
        file.write("[[\n" + json.dumps({"question_id": "long", "turns": ["a " * 1000]}) + "\n")
    with open_context(folder) as context:
        stage.run(context)
    result = result_of(folder)
    left_out = result["setup"]["left_out"] if stage is bench else result["prompts"]["left_out"]
    assert {reason: found["count"] for reason, found in left_out.items()} == {
        "rows that cannot be read": 1,
        "prompts longer than the context": 1,
    }
    assert "has a context of 496" in left_out["prompts longer than the context"]["named"][0]


def test_a_spent_budget_is_said_and_nothing_is_guessed(pair: Pair, site: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pair, site, "tune", tune=TuneSpec(trees=(CHAIN,), budget_s=1e-3))
    with open_context(folder) as context:
        tune.run(context)
    last = result_of(folder)["trials"][-1]
    assert last["tokens_per_s"] is None and last["note"] == "the time budget was spent"


def test_serving_says_where_it_is_and_ends_when_it_is_stopped(pair: Pair, site: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pair, site, "serve")
    stop = threading.Event()

    def use() -> None:
        wait_for(lambda: (folder / "result.json").is_file(), 30)
        served = json.loads((folder / "result.json").read_text())["data"]
        found.append((served, chunks_of(SGLangClient(served["url"]))))
        stop.set()

    found: list[tuple[dict[str, Any], list[Any]]] = []
    client = threading.Thread(target=use)
    client.start()
    with open_context(folder, cancelled=stop) as context, pytest.raises(Cancelled):
        serve.run(context)
    client.join()
    served, chunks = found[0]
    assert len(chunks) == 6
    assert served["tree"] == [3, 1, 4] and served["class"] == "LlamaForCausalLMEagle"
    assert served["exported"].startswith(str(folder / "sglang"))
    assert any("bench_sglang_eagle.py" in line for line in served["clients"])
    events, _ = read_events(folder / "events.jsonl", 0)
    assert any(isinstance(event, Progress) and event.task == "start server" for event in events)
    assert SGLangClient(served["url"]).healthy() is False


def test_a_served_crash_is_survived_once_and_then_told(pair: Pair, site: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pair, site, "serve")

    def kill_twice() -> None:
        seen: set[int] = set()
        for _ in range(2):
            wait_for(lambda: served_pid(folder) not in ({None} | seen), 30)
            pid = served_pid(folder)
            assert pid is not None
            seen.add(pid)
            psutil.Process(pid).kill()

    killer = threading.Thread(target=kill_twice)
    killer.start()
    with open_context(folder) as context, pytest.raises(StageFailed, match="status -9"):
        serve.run(context)
    killer.join()


def served_pid(folder: Path) -> int | None:
    try:
        return json.loads((folder / "result.json").read_text())["data"]["pid"]
    except (OSError, ValueError):
        return None
