"""SGLang's client side against a fake server: client, child process, backend, stages. Nothing here computes a token.

What is proved on a real server, and where the fake's words come from, is in docs/sglang.md.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hetspec_core.engine.backends.backend import StepSeen, Watcher
from hetspec_core.engine.backends.sglang import SGLangBackend
from hetspec_core.engine.backends.sglang_client import SGLangClient, sampling_params
from hetspec_core.engine.backends.sglang_engine_link import flag_arguments
from hetspec_core.engine.backends.sglang_export import served_draft
from hetspec_core.engine.backends.sglang_fleet import Fleet
from hetspec_core.engine.backends.sglang_launch import installed, plan_launch
from hetspec_core.engine.backends.sglang_server import SGLangServer, StartLog, why_it_ended
from hetspec_core.engine.context import open_context
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, save_draft
from hetspec_core.engine.stages import bench, generate, serve, tune
from hetspec_core.errors import Cancelled, DataError, HetSpecError, ModelError, ResourceError, SpecError, StageFailed
from hetspec_core.events import Progress, Result, read_events
from hetspec_core.sglang_inside import Installed
from hetspec_core.spec import (
    AlgorithmSpec,
    BaseSpec,
    BenchSpec,
    DecodingSpec,
    DraftSpec,
    ResourcesSpec,
    RunSpec,
    SamplingSpec,
    SGLangSpec,
    TreeSpec,
    TuneSpec,
)
from hetspec_core.spec.document import to_toml
from tests.fakes.sglang_site import make_site, site_spec
from tests.fakes.tiny_base import make_tiny_base

CHAIN = TreeSpec.parse("3/1/3")
GREEDY = DecodingSpec(max_new_tokens=9, ignore_eos=True, tree=CHAIN)
Pair = tuple[BaseSpec, DraftSpec]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    base_spec = make_tiny_base(folder / "base")
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    sizes = base_spec.architecture.model_copy(update={"num_hidden_layers": 1})
    draft_spec = DraftSpec(name="tiny", architecture=sizes, checkpoint=str(folder / "draft"))
    save_draft(build_draft(draft_spec, AlgorithmSpec(), base), folder / "draft", algorithm=AlgorithmSpec(), facts={})
    return base_spec, draft_spec


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site")


def fleet_of(pair: Pair, spec: SGLangSpec, tmp_path: Path, **more: Any) -> Fleet:
    return Fleet(spec, pair[0], ResourcesSpec(), folder=tmp_path / "exports", logs=tmp_path / "logs", **more)


@contextmanager
def running(pair: Pair, site: Path, tmp_path: Path, mode: str = "well", draft: bool = True) -> Iterator[SGLangServer]:
    """A server of the fake, with the tiny draft or without."""
    fleet = fleet_of(pair, site_spec(site, mode, trees=False), tmp_path)
    served = fleet.export(Path(str(pair[1].checkpoint))) if draft else None
    try:
        found = fleet.server(served, CHAIN).server
        assert found is not None
        yield found
    finally:
        fleet.close()


def chunks_of(client: SGLangClient, limit: int = 9, **more: Any) -> list[Any]:
    return list(client.generate([1, 2], sampling_params(SamplingSpec(), limit, ignore_eos=True), **more))


# --- client ---------------------------------------------------------------------------------------------------------


def test_pieces_are_the_growth_of_the_answer_and_the_last_brings_the_figures(
    pair: Pair, site: Path, tmp_path: Path
) -> None:
    with running(pair, site, tmp_path) as server:
        chunks = chunks_of(server.client)
        assert [len(chunk.tokens) for chunk in chunks] == [1, 1, 3, 2, 1, 1]
        assert [token for chunk in chunks for token in chunk.tokens] == list(range(5, 14))
        assert chunks[-1].finish == "length" and chunks[0].finish == ""
        assert chunks[-1].meta["spec_verify_ct"] == 5
        assert server.facts is not None and server.facts.tree == (3, 1, 4)
        assert server.client.next_log_probs([1]) == [(-0.5, 5), (-0.75, 6)]


def test_an_answer_stops_between_two_pieces_when_it_is_asked_to(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server:
        seen = chunks_of(server.client, 100, request_id="r", stop_asked=lambda: True)
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("mode", "error", "words"),
    [
        ("malformed", DataError, "no JSON"),
        ("no_ids", DataError, "output_ids"),
        ("cut", StageFailed, "broke off|without saying why"),
        ("die_midstream", StageFailed, "broke off|without saying why"),
        ("error", ModelError, "status 400: .*bad request"),
    ],
)
def test_a_broken_answer_says_what_was_seen(
    pair: Pair, site: Path, tmp_path: Path, mode: str, error: type[HetSpecError], words: str
) -> None:
    with running(pair, site, tmp_path, mode) as server, pytest.raises(error, match=words):
        chunks_of(server.client)


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server, pytest.raises(ModelError, match=r"refuses .*context length"):
        list(server.client.generate([1] * 600, sampling_params(SamplingSpec(), 9, ignore_eos=True)))


def test_a_silent_server_ends_the_request_in_time(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path, "deaf") as server:
        client = SGLangClient(server.launch.url, timeout_s=0.5)
        with pytest.raises(StageFailed, match="fell silent"):
            chunks_of(client)


def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ResourceError, match=f"no server answers at {url}"):
        SGLangClient(url).facts()
    with pytest.raises(ResourceError, match="no address"):
        SGLangClient("ftp://here")


# --- child process --------------------------------------------------------------------------------------------------


def test_a_start_is_told_step_by_step_and_its_end_leaves_no_process(pair: Pair, site: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    spec = site_spec(site, "slow", trees=False)
    fleet = fleet_of(pair, spec, tmp_path, on_progress=lambda label, done: told.append((label, done)))
    server = fleet.server(fleet.export(Path(str(pair[1].checkpoint))), CHAIN).server
    assert server is not None and server.pid is not None
    labels = [label for label, _ in told]
    assert "weights are loaded" in labels and labels[-1] == "the server is ready"
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert server.told.classes == ("LlamaForCausalLM", "LlamaForCausalLMEagle")
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert len(family) == 2
    fleet.close()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


def test_the_settings_in_the_log_are_no_news_of_the_start() -> None:
    told = StartLog()
    told.read(
        "[2026-11-24 22:31:49] server_args=ServerArgs(model_path='/jit', enable_torch_compile=False, "
        "cuda_graph_config=CudaGraphConfig(prefill=PhaseConfig(backend='disabled', tc_compiler='eager')))"
    )
    assert (told.label, told.done) == ("SGLang starts", 0.05)


def test_a_log_of_the_real_server_is_understood() -> None:
    told = StartLog()
    for line in (
        "[2026-11-23 09:00:00] server_args=ServerArgs(model_path='/m')",
        "[2026-11-23 09:00:10] Load weight begin. avail mem=139.15 GB",
        "[2026-11-23 09:00:11] Load weight end. elapsed=0.63 s, type=LlamaForCausalLM, avail mem=138.6 GB",
        "Ignore import error when loading hetspec_core.engine.backends.sglang_models.qwen3_eagle: no module x",
        "[2026-11-23 09:00:20] Capture draft decode CUDA graph begin. backend=full, bs=[1]",
        "[2026-11-23 09:00:40] The server is fired up and ready to roll!",
    ):
        told.read(line)
    assert told.classes == ("LlamaForCausalLM",)
    assert told.done == 1.0
    assert "qwen3_eagle: no module x" in told.ignored[0]


def test_a_server_that_does_not_start_gives_its_own_last_error(pair: Pair, site: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="status 3: ValueError: no such model"):
        fleet_of(pair, site_spec(site, "die_at_start"), tmp_path).server(None, CHAIN)


def test_a_server_whose_part_was_killed_is_told_by_that_and_not_by_how_it_cleaned_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(  # of SGLang 0.5.17, after kill -9 of its scheduler
        '[2026-11-24 23:17:58] INFO:     127.0.0.1:44002 - "GET /health_generate HTTP/1.1" 200 OK\n'
        "[2026-11-24 23:18:00] Subprocess scheduler_0 (pid=12369) crashed with exit code -9. Triggering SIGQUIT...\n"
        "[2026-11-24 23:18:00] SIGQUIT received. signum=None, frame=None. It usually means one child failed.\n"
        "[2026-11-24 23:18:00] Sleeping 5 seconds before crash diagnostics to let GPU activity settle.\n"
        "[2026-11-24 23:18:05] No live scheduler processes found; skipping py-spy and CUDA coredump.\n"
        "[2026-11-24 23:18:05] kill_process_tree called: parent_pid=12339, include_parent=True, pid=12339\n"
    )
    assert "scheduler_0 (pid=12369) crashed with exit code -9" in why_it_ended("it", -9, log, 0).message


def test_a_start_is_given_up_when_it_is_asked_to_or_takes_too_long(pair: Pair, site: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        fleet_of(pair, site_spec(site), tmp_path, stop_asked=lambda: True).server(None, CHAIN)
    spec = site_spec(site, "slow", start_timeout_s=0.4)
    with pytest.raises(StageFailed, match="not ready after 0 s"):
        fleet_of(pair, spec, tmp_path).server(None, CHAIN)


def test_a_taken_port_is_said_before_anything_starts(pair: Pair, site: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = site_spec(site, port=taken.getsockname()[1])
        with pytest.raises(ResourceError, match="taken by another program"):
            fleet_of(pair, spec, tmp_path).server(None, CHAIN)


def test_another_class_than_the_wanted_one_is_an_error(pair: Pair, site: Path, tmp_path: Path) -> None:
    fleet = fleet_of(pair, site_spec(site, "wrong_class"), tmp_path)
    with pytest.raises(ModelError, match="needs class LlamaForCausalLMEagle, and SGLang loaded LlamaForCausalLM"):
        fleet.server(fleet.export(Path(str(pair[1].checkpoint))), CHAIN)


def test_a_crashed_server_is_started_again_once(pair: Pair, site: Path, tmp_path: Path) -> None:
    fleet = fleet_of(pair, site_spec(site), tmp_path)
    try:
        first = fleet.server(None, CHAIN).server
        assert first is not None and first.pid is not None
        helpers = [child.pid for child in psutil.Process(first.pid).children()]
        assert len(helpers) == 1
        psutil.Process(first.pid).kill()
        psutil.wait_procs([psutil.Process(first.pid)], timeout=5)
        second = fleet.server(None, CHAIN).server
        assert second is not None and second is not first and second.alive and second.pid is not None
        helpers += [child.pid for child in psutil.Process(second.pid).children()]
        assert fleet.server(None, CHAIN).server is second
        psutil.Process(second.pid).kill()
        time.sleep(0.2)
        with pytest.raises(StageFailed, match="ended with status -9"):
            fleet.server(None, CHAIN)
    finally:
        fleet.close()
    assert not [each for each in helpers if psutil.pid_exists(each) and alive(each)]


@pytest.mark.parametrize("version", ["0.5.10", "0.6.0"])
def test_an_unsupported_version_is_refused_before_it_is_started(tmp_path: Path, version: str) -> None:
    site = make_site(tmp_path / "site", version)
    with pytest.raises(ResourceError, match=f"{version} .* is not supported; supported are 0.5.11 to 0.5.23"):
        installed(site_spec(site))


def test_no_sglang_is_said_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="not installed") as failure:
        installed(SGLangSpec(python_path=str(tmp_path)))
    assert "0.5.11" in failure.value.hint


# --- command line and export ----------------------------------------------------------------------------------------


def test_flags_of_the_user_are_passed_on_and_win(pair: Pair, tmp_path: Path) -> None:
    served = served_draft(Path(str(pair[1].checkpoint)), pair[0], tmp_path / "exports", Installed("0.5.17"))
    spec = SGLangSpec(flags=("--speculative-num-steps", "7", "--mem-fraction-static=0.4", "--enable-metrics"))
    launch = plan_launch(
        spec, base=tmp_path, served=served, tree=CHAIN, resources=ResourcesSpec(dtype="float16"), port=1234
    )
    line = launch.shown
    assert "--speculative-num-steps 7" in line and "--speculative-num-steps 3" not in line
    assert line.endswith("--mem-fraction-static=0.4 --enable-metrics")
    assert "--dtype float16" in line and "--speculative-num-draft-tokens 4" in line
    assert launch.url == "http://127.0.0.1:1234"
    assert flag_arguments(spec.flags) == {
        "speculative_num_steps": 7,
        "mem_fraction_static": 0.4,
        "enable_metrics": True,
    }
    with pytest.raises(SpecError, match="belongs to none"):
        flag_arguments(("7",))


def test_an_export_lies_beside_the_draft_and_is_made_once(pair: Pair, tmp_path: Path) -> None:
    source = Path(str(pair[1].checkpoint))
    before = {file.name: file.stat().st_mtime_ns for file in source.iterdir()}
    one = served_draft(source, pair[0], tmp_path / "exports", Installed("0.5.17"))
    stamp = (one.folder / "model.safetensors").stat().st_mtime_ns
    two = served_draft(source, pair[0], tmp_path / "exports", Installed("0.5.17"))
    assert one == two and (two.folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert {file.name: file.stat().st_mtime_ns for file in source.iterdir()} == before
    config = json.loads((one.folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle"] and config["tie_word_embeddings"] is False


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def draft_of(folder: Path, base_spec: BaseSpec, backbone: str, algorithm: AlgorithmSpec, **sizes: Any) -> Path:
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    architecture = base_spec.architecture.model_copy(update={"num_hidden_layers": 1, **sizes})
    spec = DraftSpec(name="other", backbone=backbone, architecture=architecture)
    save_draft(build_draft(spec, algorithm, base), folder, algorithm=algorithm, facts={})
    return folder


def test_a_qwen3_draft_needs_our_class_and_so_a_version_that_it_is_made_for(pair: Pair, tmp_path: Path) -> None:
    draft = draft_of(tmp_path / "q", pair[0], "qwen3", AlgorithmSpec(), model_type="qwen3", head_dim=8)
    served = served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"))
    assert (served.architecture, served.needs_package) == ("HetSpecQwen3Eagle", True)
    launch = plan_launch(
        SGLangSpec(), base=tmp_path, served=served, tree=CHAIN, resources=ResourcesSpec(), port=1, inside=tmp_path
    )
    assert launch.environment["SGLANG_EXTERNAL_MODEL_PACKAGE"].endswith("sglang_models")
    assert launch.environment["PYTHONPATH"] == str(tmp_path)
    assert served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.20")) == served  # its source fits
    other = Installed("0.5.23", classes=("srt/models/qwen3.py has no Qwen3Attention",))
    with pytest.raises(ModelError, match=r"made for SGLang 0\.5\.17; this is 0\.5\.23, .* has no Qwen3Attention"):
        served_draft(draft, pair[0], tmp_path / "exports", other)


@pytest.mark.parametrize(
    ("backbone", "algorithm", "sizes", "reason"),
    [
        ("gemma3", "eagle", {"model_type": "gemma3_text", "head_dim": 8}, "class for gemma3_text"),
        ("llama", "eagle", {"hidden_size": 8, "intermediate_size": 16}, "8 wide"),
    ],
)
def test_a_draft_that_sglang_cannot_serve_is_refused_with_what_would_work(
    pair: Pair, tmp_path: Path, backbone: str, algorithm: str, sizes: dict[str, Any], reason: str
) -> None:
    draft = draft_of(tmp_path / "d", pair[0], backbone, AlgorithmSpec(name=algorithm), **sizes)
    with pytest.raises(ModelError, match=f"SGLang cannot serve this draft: .*{reason}") as failure:
        served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"))
    assert failure.value.hint.startswith("what works: ")


# --- backend --------------------------------------------------------------------------------------------------------


@contextmanager
def backend_of(pair: Pair, spec: SGLangSpec) -> Iterator[SGLangBackend]:
    backend = SGLangBackend()
    backend.configure(spec.model_dump(mode="json", exclude_defaults=True))
    try:
        backend.open(pair[0], ResourcesSpec())
        yield backend
    finally:
        backend.close()


def listener(steps: list[StepSeen], tokens: list[int], trees: bool = True) -> Watcher:
    return Watcher(on_tokens=tokens.extend, on_step=steps.append, trees=trees)


def test_an_answer_comes_with_the_tree_of_every_step(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site)) as backend:
        assert "trees" in backend.facts().capabilities
        backend.use_draft(str(pair[1].checkpoint), "tiny")
        steps: list[StepSeen] = []
        tokens: list[int] = []
        written = backend.answer([1, 2, 3], GREEDY, listener(steps, tokens))
        assert written.tokens == list(range(5, 14)) and tokens == [5]
        assert [len(step.tokens) for step in steps] == [1, 3, 2, 1, 1]
        assert [step.count.accepted for step in steps] == [0, 2, 1, 0, 2]  # the last was cut by the limit
        assert all(step.tree is not None for step in steps)
        tree = steps[1].tree
        assert tree is not None and tree.path == [1, 2] and tree.draft_probs == [1.0, 0.5, 0.5, 0.5]
        assert [step.kv_tokens for step in steps] == [3, 4, 7, 9, 10]


def test_plain_and_draft_take_turns_with_a_server_each(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, keep_servers=2)) as backend:
        steps: list[StepSeen] = []
        tokens: list[int] = []
        backend.answer([1], GREEDY, listener(steps, tokens))
        assert steps == [] and tokens == list(range(5, 14))
        plain = backend.served(GREEDY.model_copy(update={"plain": True}))
        backend.use_draft(str(pair[1].checkpoint), "tiny")
        backend.answer([1], GREEDY, listener(steps, tokens, trees=False))
        assert len(steps) == 5 and steps[0].tree is None
        assert backend.served(GREEDY.model_copy(update={"plain": True})) is plain
        plain_s, costs = backend.calibrate([1], GREEDY, ["3/1/3"], lambda: False)
        assert plain_s > 0 and costs[0].steps == 5


def test_a_server_that_is_started_with_a_shorter_context_is_known_for_it(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, flags=("--context-length", "300"))) as backend:
        assert backend.facts().context_tokens == 300


def test_a_running_server_is_attached_to_and_left_running(pair: Pair, site: Path, tmp_path: Path) -> None:
    with running(pair, site, tmp_path) as server:
        with backend_of(pair, SGLangSpec(url=server.launch.url)) as backend:
            facts = backend.facts()
            assert facts.tree == "3/1/3" and facts.context_tokens == 500
            backend.use_draft("anything", "theirs")
            steps: list[StepSeen] = []
            backend.answer([1], GREEDY, listener(steps, []))
            assert len(steps) == 5
            backend.use_draft("", "")
            with pytest.raises(ModelError, match="SGLang cannot leave it out"):
                backend.answer([1], GREEDY, listener([], []))
        assert server.alive


@pytest.mark.parametrize(
    ("mode", "words"), [("other_model", "serves .*QwenForCausalLM"), ("old", "0.4.9; supported are")]
)
def test_a_server_of_another_model_or_version_is_refused(
    pair: Pair, site: Path, tmp_path: Path, mode: str, words: str
) -> None:
    fleet = fleet_of(pair, site_spec(site, mode, trees=False), tmp_path)
    launch = fleet.plan(None, CHAIN)
    server = SGLangServer(launch, tmp_path / "log")
    server.start()
    try:
        wait_for(server.client.healthy)
        with pytest.raises(HetSpecError, match=words), backend_of(pair, SGLangSpec(url=launch.url)):
            pass
    finally:
        server.stop()


def test_a_crash_in_an_answer_gives_the_reason_of_the_log(pair: Pair, site: Path) -> None:
    with backend_of(pair, site_spec(site, "die_midstream")) as backend:
        with pytest.raises(StageFailed) as failure:
            backend.answer([1], GREEDY, listener([], []))
        assert "status 7: RuntimeError: the fake fell over" in failure.value.message


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


# --- stages ---------------------------------------------------------------------------------------------------------


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

    with running(pair, site, tmp_path) as server:
        folder = run_folder(tmp_path, pair, site, "bench", sglang=SGLangSpec(url=server.launch.url))
        with open_context(folder) as context:
            bench.run(context)
    result = result_of(folder)
    assert result["plain"] is None
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
