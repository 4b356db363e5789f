"""SGLang's client side against recorded exchanges: a server that repeats them, whole or with something gone wrong.

A file says where its exchanges are from, all of SGLang 0.5.17: `exchanges-0.5.17-h200.jsonl.gz` of three servers on an
H200 (bfloat16, CUDA graphs), recorded by `scripts/gpu_sglang_check.sh`; `exchanges-0.5.17-cpu.jsonl.gz` of two on a
processor (float32, with a stand-in for SGLang's kernels), recorded by `benchmarks/sglang/exchanges.py`.
"""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hetspec_core.config import resolve
from hetspec_core.errors import DataError, HetSpecError, ModelError, ResourceError, StageFailed
from hetspec_core.sglang.child import StartLog
from hetspec_core.sglang.client import Chunk, SGLangClient, free_port, sampling_params
from hetspec_core.sglang.launch import Launch, environment, interpreter
from hetspec_core.sglang.servers import SGLangServer, check_model
from hetspec_core.sglang.stream import committed_tokens, step_count, step_counts, tree_step
from hetspec_core.sglang.versions import is_supported
from hetspec_core.spec import SamplingSpec, SGLangSpec
from tests.fakes.sglang_replay import Replay, read_recording
from tests.fakes.sglang_site import REPLAY, make_site

DATA = Path(__file__).parents[1] / "data" / "sglang"
FILES = sorted(DATA.glob("exchanges-*.jsonl.gz"))
ROWS = [(file, row) for file in FILES for row in sorted({each["server"] for each in read_recording(file)})]
DRAFTING = next(row for row in ROWS if row[1] != "plain")
NAMES = [f"{file.name.split('.jsonl')[0]} {row}" for file, row in ROWS]
every_row = pytest.mark.parametrize(("file", "row"), ROWS, ids=NAMES)


@contextmanager
def replaying(file: Path, row: str, twist: str = "") -> Iterator[SGLangClient]:
    server = Replay(("127.0.0.1", 0), read_recording(file, row), twist)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield SGLangClient(f"http://127.0.0.1:{server.server_port}", 5.0)
    finally:
        server.shutdown()
        server.server_close()


def recorded(file: Path, row: str, **wanted: Any) -> dict[str, Any]:
    """The recorded exchange whose body has these values."""
    for each in read_recording(file, row):
        body = each["body"] or {}
        if each["path"] == wanted.get("path", "/generate") and all(
            body.get(key) == value for key, value in wanted.items() if key != "path"
        ):
            return each
    raise AssertionError(f"not recorded: {wanted}")


def answer(client: SGLangClient, prompt: list[int]) -> list[Chunk]:
    return list(client.generate(prompt, sampling_params(SamplingSpec(), 40, ignore_eos=False)))


@every_row
def test_a_recorded_stream_gives_the_tokens_and_figures_of_its_last_message(file: Path, row: str) -> None:
    exchange = recorded(file, row, stream=True)
    lines = [line[5:].strip() for _, line in exchange["lines"] if line.startswith("data:")]
    assert lines[-1] == "[DONE]"
    last = json.loads(lines[-2])
    with replaying(file, row) as client:
        facts = client.facts()
        chunks = answer(client, exchange["body"]["input_ids"])
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert is_supported(facts.version) and facts.version == exchange["version"]
    assert len(tokens) == last["meta_info"]["completion_tokens"]
    assert tokens[-len(last["output_ids"]) :] == last["output_ids"]
    assert chunks[-1].finish in ("length", "stop")
    asked_whole = recorded(file, row, stream=None, return_logprob=None)
    whole = json.loads("".join(line for _, line in asked_whole["lines"]))
    assert len(whole["output_ids"]) == whole["meta_info"]["completion_tokens"]
    if facts.args["dtype"] == "float32":  # in half precision a prompt found in the prefix cache is another answer
        assert whole["output_ids"] == tokens
    if facts.speculates:
        depth = facts.tree[0] if facts.tree else 0
        meta = chunks[-1].meta
        counts = step_counts(meta, len(tokens), depth)
        assert len(counts) == meta["spec_verify_ct"]
        assert sum(count.committed for count in counts) == len(tokens) - 1
        assert max(len(chunk.tokens) for chunk in chunks) <= depth + 1
    else:
        assert facts.tree is None and "spec_verify_ct" not in chunks[-1].meta


@every_row
def test_recorded_log_probabilities_are_read_best_first(file: Path, row: str) -> None:
    with replaying(file, row) as client:
        (best, _), (next_best, _) = client.next_log_probs([1, 2])
    assert 0 >= best >= next_best


@every_row
def test_a_recorded_server_is_known_for_what_it_serves(file: Path, row: str) -> None:
    with replaying(file, row) as client:
        facts = client.facts()
        assert client.healthy() and facts.architectures
        llama, qwen3 = (resolve(name, stage="bench").spec.base for name in ("smollm2-llama-eagle", "qwen3-4b-latent"))
        assert llama is not None and qwen3 is not None
        check_model(replace(facts, model="elsewhere"), llama, client.url)
        with pytest.raises(ModelError, match=r"serves .*LlamaForCausalLM"):
            check_model(replace(facts, model="elsewhere"), qwen3, client.url)
        client.abort("nobody")
        client.flush_cache()


@every_row
def test_a_recorded_refusal_is_told_in_the_servers_words(file: Path, row: str) -> None:
    exchange = next(
        (each for each in read_recording(file, row) if each["path"] == "/generate" and each["status"] >= 400), None
    )
    if exchange is None:
        pytest.skip("this server was not asked for anything that it refuses")
    said = json.loads("".join(line for _, line in exchange["lines"]))
    with replaying(file, row) as client, pytest.raises(ModelError, match=f"status {exchange['status']}") as failure:
        list(client.generate(exchange["body"]["input_ids"], exchange["body"]["sampling_params"]))
    assert str(said["error"]["message"])[:60] in failure.value.message


@every_row
def test_a_recorded_prompt_that_is_too_long_is_refused_by_a_message_of_the_stream(file: Path, row: str) -> None:
    """SGLang says so with status 200, as the first message of a stream."""
    exchanges = read_recording(file, row)
    long = next(each for each in exchanges if len((each["body"] or {}).get("input_ids", ())) > 4000)
    assert long["status"] == 200
    with replaying(file, row) as client, pytest.raises(ModelError, match=r"refuses .*context length \(2048 tokens\)"):
        answer(client, long["body"]["input_ids"])


@pytest.mark.parametrize(
    ("twist", "error", "words"),
    [
        ("malformed", DataError, "no JSON"),
        ("cut", StageFailed, "broke off|without saying why"),
        ("old", ResourceError, r"SGLang 0\.4\.9; supported are"),
    ],
)
def test_a_recording_that_breaks_says_what_was_seen(twist: str, error: type[HetSpecError], words: str) -> None:
    prompt = recorded(*DRAFTING, stream=True)["body"]["input_ids"]
    with replaying(*DRAFTING, twist) as client, pytest.raises(error, match=words):
        answer(client, prompt)


def test_a_recording_with_another_model_is_refused() -> None:
    base = resolve("smollm2-llama-eagle", stage="bench").spec.base
    assert base is not None
    with replaying(*DRAFTING, "other_model") as client, pytest.raises(ModelError, match="Qwen3ForCausalLM"):
        check_model(replace(client.facts(), model="elsewhere"), base, client.url)


def child(tmp_path: Path, twist: str) -> SGLangServer:
    """The recording as a process of its own."""
    spec = SGLangSpec(python_path=str(make_site(tmp_path / "site", server=REPLAY)))
    port = free_port("127.0.0.1")
    about = {"SGLANG_RECORDING": str(DRAFTING[0]), "SGLANG_ROW": DRAFTING[1], "SGLANG_TWIST": twist}
    command = [interpreter(spec), "-m", "sglang.launch_server", "--port", str(port)]
    launch = Launch(command, environment(spec) | about, f"http://127.0.0.1:{port}", "127.0.0.1", port)
    return SGLangServer(launch, tmp_path / "log", 5.0)


def test_a_recorded_server_that_is_slow_is_waited_for_and_one_that_dies_gives_its_last_words(tmp_path: Path) -> None:
    slow = child(tmp_path / "slow", "slow")
    slow.start()
    try:
        assert is_supported(slow.wait_ready(20.0, lambda label, done: None).version)
        taken = SGLangServer(slow.launch, tmp_path / "other", 5.0)
        with pytest.raises(ResourceError, match=f"port {slow.launch.port} .* is taken"):
            taken.start()
    finally:
        slow.stop()
    dying = child(tmp_path / "dying", "die")
    dying.start()
    try:
        dying.wait_ready(20.0, lambda label, done: None)
        with pytest.raises(StageFailed, match=r"broke off|without saying why"):
            answer(dying.client, recorded(*DRAFTING, stream=True)["body"]["input_ids"])
        assert "a CUDA call failed" in dying.died().message
    finally:
        dying.stop()


def test_logs_of_real_starts_are_followed_to_their_end() -> None:
    """Recorded on a GPU with SGLang 0.5.17: a Llama draft of SGLang's own class, and a mixture of HetSpec's."""
    logs = json.loads((DATA / "starts-0.5.17.json").read_text())
    for classes, lines in ((("LlamaForCausalLM", "LlamaForCausalLMEagle"), logs["llama"]), (None, logs["qwen3_moe"])):
        told, labels = StartLog(), []
        for line in lines:
            if told.read(line):
                labels.append(told.label)
        assert not told.ignored
        assert told.classes == (classes or ("LlamaForCausalLM", "HetSpecQwen3MoeEagle"))
        assert "weights are loaded" in labels and "CUDA graphs are captured" in labels
        if classes is not None:
            assert (told.label, told.done) == ("the server is ready", 1.0)


def test_records_that_the_plugin_told_on_a_gpu_become_steps() -> None:
    """SGLang 0.5.17 with CUDA graphs on, one answer, tree 6/10/59: nodes, scores, verdicts and the chain of steps."""
    with gzip.open(DATA / "trees-0.5.17.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    assert len(records) > 8 and len({record["rid"] for record in records}) == 1
    for record, later in itertools.pairwise(records):
        new = committed_tokens(record)
        assert record["dropped"] == 0 and len(record["tokens"]) == 60
        assert later["kv_tokens"] == record["kv_tokens"] + len(new), "every step begins where the one before ended"
        assert later["tokens"][0] == new[-1], "the root is the last committed token"
        step = tree_step(record, 0, new, str)
        assert step.path == record["path"] and step.committed == new
        assert all(parent < node for node, parent in enumerate(record["parents"]) if node)
        for node in range(1, 60):
            parent = record["parents"][node]
            assert record["scores"][node] <= record["scores"][parent] + 1e-6, "scores are products along a path"
            assert 0 <= step.draft_probs[node] <= 1 + 1e-6
        assert all(record["base_ranks"][node] == 0 for node in record["path"]), "greedy takes the likeliest"
        count = step_count(record, len(new))
        assert (count.committed, count.accepted) == (len(new), len(record["path"]))
