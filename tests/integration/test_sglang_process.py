"""SGLang's server as a child process, and its command line, against a fake server. Nothing here computes a token.

What is proved on a real server, and where the fake's words come from, is in docs/sglang.md.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft, read_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.token_counts import TOKEN_COUNTS, TokenCounts
from hetspec_core.errors import Cancelled, ModelError, ResourceError, SpecError, StageFailed
from hetspec_core.sglang.child import StartLog, why_it_ended
from hetspec_core.sglang.client import SGLangClient, free_port, port_is_taken
from hetspec_core.sglang.export import served_draft
from hetspec_core.sglang.launch import installed, plan_launch
from hetspec_core.sglang.offline import EngineJob
from hetspec_core.sglang.serve import client_lines
from hetspec_core.sglang.servers import ServerPool
from hetspec_core.sglang.versions import Installed
from hetspec_core.spec import AlgorithmSpec, BaseSpec, DecodingSpec, DraftSpec, ResourcesSpec, SGLangSpec
from tests.fakes.sglang_pair import CHAIN, GREEDY, Pair, alive, chunks_of, pool_of
from tests.fakes.sglang_site import bare_python, make_site, site_spec

# --- child process --------------------------------------------------------------------------------------------------


def test_a_start_is_told_step_by_step_and_its_end_leaves_no_process(pair: Pair, site: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    spec = site_spec(site, "slow", trees=False)
    pool = pool_of(pair, spec, tmp_path, on_progress=lambda label, done: told.append((label, done)))
    server = pool.server(pool.export(Path(str(pair[1].checkpoint))), CHAIN).server
    assert server is not None and server.pid is not None
    labels = [label for label, _ in told]
    assert "weights are loaded" in labels and labels[-1] == "the server is ready"
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert server.start_log.classes == ("LlamaForCausalLM", "LlamaForCausalLMEagle")
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    assert len(family) == 2
    pool.close()
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
        "Ignore import error when loading hetspec_core.sglang.models.qwen3_eagle: no module x",
        "[2026-11-23 09:00:20] Capture draft decode CUDA graph begin. backend=full, bs=[1]",
        "[2026-11-23 09:00:40] The server is fired up and ready to roll!",
    ):
        told.read(line)
    assert told.classes == ("LlamaForCausalLM",)
    assert told.done == 1.0
    assert "qwen3_eagle: no module x" in told.ignored[0]


def test_a_server_that_does_not_start_gives_its_own_last_error(pair: Pair, site: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="status 3: ValueError: no such model"):
        pool_of(pair, site_spec(site, "die_at_start"), tmp_path).server(None, CHAIN)


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


def test_a_server_that_found_no_memory_says_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
    error = why_it_ended("it", -9, log, 0)
    assert error.message == "it ended with status -9: out of memory on the GPU"
    assert "--mem-fraction-static" in error.hint and "hetspec-core gpus" in error.hint and str(log) in error.hint


def test_a_start_is_given_up_when_it_is_asked_to_or_takes_too_long(pair: Pair, site: Path, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        pool_of(pair, site_spec(site), tmp_path, stop_asked=lambda: True).server(None, CHAIN)
    spec = site_spec(site, "slow", start_timeout_s=0.4)
    with pytest.raises(StageFailed, match="not ready after 0 s"):
        pool_of(pair, spec, tmp_path).server(None, CHAIN)


def test_a_taken_port_is_said_before_anything_starts(pair: Pair, site: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = site_spec(site, port=taken.getsockname()[1])
        with pytest.raises(ResourceError, match="taken by another program"):
            pool_of(pair, spec, tmp_path).server(None, CHAIN)


def test_another_class_than_the_wanted_one_is_an_error(pair: Pair, site: Path, tmp_path: Path) -> None:
    pool = pool_of(pair, site_spec(site, "wrong_class"), tmp_path)
    with pytest.raises(ModelError, match="needs class LlamaForCausalLMEagle, and SGLang loaded LlamaForCausalLM"):
        pool.server(pool.export(Path(str(pair[1].checkpoint))), CHAIN)


def test_a_crashed_server_is_started_again_once(pair: Pair, site: Path, tmp_path: Path) -> None:
    pool = pool_of(pair, site_spec(site), tmp_path)
    try:
        first = pool.server(None, CHAIN).server
        assert first is not None and first.pid is not None
        helpers = [child.pid for child in psutil.Process(first.pid).children()]
        assert len(helpers) == 1
        psutil.Process(first.pid).kill()
        psutil.wait_procs([psutil.Process(first.pid)], timeout=5)
        second = pool.server(None, CHAIN).server
        assert second is not None and second is not first and second.alive and second.pid is not None
        helpers += [child.pid for child in psutil.Process(second.pid).children()]
        assert pool.server(None, CHAIN).server is second
        psutil.Process(second.pid).kill()
        time.sleep(0.2)
        with pytest.raises(StageFailed, match="ended with status -9"):
            pool.server(None, CHAIN)
    finally:
        pool.close()
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


def test_a_python_that_cannot_answer_is_told_by_its_own_last_line(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('broken here')")
    with pytest.raises(ResourceError, match="failed to report its SGLang: ImportError: broken here"):
        installed(SGLangSpec(python_path=str(tmp_path)))


def test_sglang_in_an_environment_of_its_own_serves(
    pair: Pair, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # nothing of ours lies where its Python begins to look
    spec = site_spec(site, python=str(bare_python(tmp_path / "own")), trees=False)
    pool = pool_of(pair, spec, tmp_path)
    try:
        served = pool.server(pool.export(Path(str(pair[1].checkpoint))), CHAIN)
        assert len(chunks_of(served.client)) == 6
    finally:
        pool.close()


@pytest.mark.parametrize("part", ["RotaryEmbedding", "eagle_sample"])
def test_float32_is_refused_where_it_could_not_be_helped_to(pair: Pair, tmp_path: Path, part: str) -> None:
    site = make_site(tmp_path / "other", "0.5.20", without=(part,))

    def pool() -> ServerPool:
        resources = ResourcesSpec(dtype="float32")
        return ServerPool(site_spec(site), pair[0], resources, folder=tmp_path / "exports", logs=tmp_path / "logs")

    if part == "eagle_sample":  # the trees are missing then, not the help
        assert "HETSPEC_SGLANG_NATIVE" in pool().plan(None, CHAIN).environment
        return
    with pytest.raises(ModelError, match=r"0\.5\.20 differs from .*: srt/layers/rotary_embedding/base.py has no Rot"):
        pool()  # so for servers and for the offline engine


@pytest.mark.parametrize("host", ["nonexistent.invalid", "10.255.255.1"])
def test_a_host_that_is_not_of_this_machine_is_said_and_not_called_taken(host: str) -> None:
    for ask in (lambda: port_is_taken(host, 30000), lambda: free_port(host)):
        with pytest.raises(ResourceError, match=f"nothing can listen at {host}"):
            ask()


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


def test_a_server_with_a_key_is_asked_with_it_and_shows_it_nowhere(
    pair: Pair, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(pair, site_spec(site, flags=("--api-key", "s3cret"), trees=False), tmp_path)
    try:
        served = pool.server(None, CHAIN)
        assert len(chunks_of(served.client)) == 9
        assert served.server is not None
        told = served.server.log.read_text() + served.server.launch.shown
        assert "s3cret" not in told and "--api-key '***'" in told
        assert served.server.pid is not None
        shown = [word for process in family(served.server.pid) for word in process.cmdline()]
        assert "--api-key" in shown and "s3cret" not in " ".join(shown), "every user of the machine can read this"
        assert served.server.log.stat().st_mode & 0o077 == 0
        url = served.client.url
        with pytest.raises(ResourceError, match=r"wants an API key \(status 401\)") as failure:
            SGLangClient(url).facts()
        assert "HETSPEC_SGLANG_API_KEY" in failure.value.hint
        monkeypatch.setenv("HETSPEC_SGLANG_API_KEY", "another")
        with pytest.raises(ResourceError, match="refuses the API key that it was given"):
            chunks_of(SGLangClient(url))
        monkeypatch.setenv("HETSPEC_SGLANG_API_KEY", "s3cret")
        assert len(chunks_of(SGLangClient(url))) == 9
        pasted = "\n".join(client_lines(served.server.launch, "r", ""))
        assert "Authorization: Bearer $HETSPEC_SGLANG_API_KEY" in pasted and "s3cret" not in pasted
    finally:
        pool.close()


def test_a_class_of_ours_must_be_named_by_the_log_and_one_of_sglangs_need_not(
    pair: Pair, site: Path, tmp_path: Path
) -> None:
    qwen3 = draft_of(tmp_path / "q", pair[0], "qwen3", AlgorithmSpec(), model_type="qwen3", head_dim=8)
    pool = pool_of(pair, site_spec(site, "mute", trees=False), tmp_path)
    try:
        assert pool.server(pool.export(Path(str(pair[1].checkpoint))), CHAIN).facts.speculates
        with pytest.raises(
            ModelError, match="needs class HetSpecQwen3Eagle, and SGLang's log does not name"
        ) as failure:
            pool.server(pool.export(qwen3), CHAIN)
        assert "--log-level info" in failure.value.hint
    finally:
        pool.close()


def test_the_socket_of_the_trees_is_gone_as_soon_as_they_are_heard(
    pair: Pair, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    really = tempfile.mkdtemp

    def mkdtemp(*args: Any, **named: Any) -> str:
        folder = really(*args, **named)
        if named.get("prefix") == "hetspec-":
            made.append(Path(folder))
        return folder

    monkeypatch.setattr("hetspec_core.sglang.servers.tempfile.mkdtemp", mkdtemp)
    pool = pool_of(pair, site_spec(site), tmp_path)
    try:
        served = pool.server(pool.export(Path(str(pair[1].checkpoint))), CHAIN)
        assert served.feed is not None and served.feed.alive
        assert len(made) == 1 and not made[0].exists(), "whoever is killed from now on leaves nothing behind"
        chunks_of(served.client, request_id="r")
        assert served.feed.take("r", 5.0) is not None
    finally:
        pool.close()


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


def draft_of(folder: Path, base_spec: BaseSpec, backbone: str, algorithm: AlgorithmSpec, **sizes: Any) -> Path:
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    architecture = base_spec.architecture.model_copy(update={"num_hidden_layers": 1, **sizes})
    spec = DraftSpec(name="other", backbone=backbone, architecture=architecture)
    save_draft(build_draft(spec, algorithm, base), folder, algorithm=algorithm, facts={})
    return folder


@pytest.mark.parametrize(("backbone", "algorithm"), [("llama", "eagle"), ("qwen3", "eagle"), ("llama", "eagle3")])
def test_a_draft_is_served_with_the_commonest_tokens_only(
    pair: Pair, tmp_path: Path, backbone: str, algorithm: str
) -> None:
    sizes = {"model_type": backbone} | ({"head_dim": 8} if backbone == "qwen3" else {})
    options: dict[str, Any] = {"layers": "1,1,1"} if algorithm == "eagle3" else {}
    draft = draft_of(tmp_path / "draft", pair[0], backbone, AlgorithmSpec(name=algorithm, options=options), **sizes)
    vocabulary = pair[0].architecture.vocab_size
    with pytest.raises(ModelError, match="has no counts of tokens"):
        served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"), 16)
    with pytest.raises(SpecError, match=rf"it needs 1 to {vocabulary}"):
        served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"), vocabulary + 1)
    TokenCounts(torch.arange(vocabulary)).write(draft / TOKEN_COUNTS)
    base = BaseLM.load(pair[0], device="cpu", dtype=torch.float32)
    ids = proposing_draft(base, load_draft(draft, base), DecodingSpec(draft_vocab=16)).to_base_ids(torch.arange(16))
    whole = served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"), "auto")
    few = served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"), 16)
    assert whole.token_map is None and whole.folder != few.folder
    back = read_draft(few.folder, base_layers=base.num_layers).stored
    assert back.vocab_ids is not None and back.vocab_ids.tolist() == ids.tolist()
    if algorithm == "eagle":
        assert few.token_map is not None and torch.load(few.token_map, weights_only=True).tolist() == ids.tolist()
        launch = plan_launch(
            SGLangSpec(), base=tmp_path, served=few, tree=CHAIN, resources=ResourcesSpec(), port=1, inside=tmp_path
        )
        assert f"--speculative-token-map {few.token_map}" in launch.shown
    else:
        own = read_draft(draft).stored.tensors["lm_head.weight"]
        assert torch.equal(back.tensors["lm_head.weight"], own[ids])


def test_a_qwen3_draft_needs_our_class_and_so_a_version_that_it_is_made_for(pair: Pair, tmp_path: Path) -> None:
    draft = draft_of(tmp_path / "q", pair[0], "qwen3", AlgorithmSpec(), model_type="qwen3", head_dim=8)
    served = served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.17"))
    assert (served.architecture, served.needs_package) == ("HetSpecQwen3Eagle", True)
    launch = plan_launch(
        SGLangSpec(), base=tmp_path, served=served, tree=CHAIN, resources=ResourcesSpec(), port=1, inside=tmp_path
    )
    assert launch.environment["SGLANG_EXTERNAL_MODEL_PACKAGE"].endswith("sglang.models")
    assert launch.environment["PYTHONPATH"] == str(tmp_path)
    assert served_draft(draft, pair[0], tmp_path / "exports", Installed("0.5.20")) == served  # its source fits
    other = Installed("0.5.23", classes=("srt/models/qwen3.py has no Qwen3Attention",))
    with pytest.raises(ModelError, match=r"made for SGLang 0\.5\.17; this is 0\.5\.23, .* has no Qwen3Attention"):
        served_draft(draft, pair[0], tmp_path / "exports", other)


def test_the_engine_is_started_with_the_words_of_a_server(pair: Pair, tmp_path: Path) -> None:
    served = served_draft(Path(str(pair[1].checkpoint)), pair[0], tmp_path / "exports", Installed("0.5.17"))
    spec = SGLangSpec(flags=("--tensor-parallel-size", "2", "--json-model-override-args", '{"a": 1}'), tp_size=4)
    about: dict[str, Any] = {"base": tmp_path, "served": served, "tree": CHAIN, "resources": ResourcesSpec()}
    words = EngineJob(spec, prompts=[[1]], decoding=GREEDY, **about).words
    command = plan_launch(spec, port=1234, **about).command
    assert [word for word in command if word not in ("--host", "127.0.0.1", "--port", "1234")][4:] == words
    assert words[-4:] == list(spec.flags) and "--tp-size" not in words, "the same flag by another name is the user's"


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
