"""The dataset stage on a tiny base: what it makes, that kills cost nothing, and what it says of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.stages.dataset_verify import verify
from hetspec_core.errors import CorruptFileError, DataError, HetSpecError, ModelError, NotFoundError, SpecError
from hetspec_core.events import Log, Progress, Result
from hetspec_core.spec import BaseSpec
from tests.conftest import REPOSITORY
from tests.fakes.dataset_runs import assert_same_stores, by_id, dialogue, events, go, make_run, write_rows
from tests.fakes.tiny_base import make_tiny_base, make_word_tokenizer


@pytest.fixture(scope="module")
def base_spec(tmp_path_factory: pytest.TempPathFactory) -> BaseSpec:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def test_answers_of_the_data(tmp_path: Path, base_spec: BaseSpec) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(number, turns=2) for number in range(12)])
    folder = make_run(tmp_path / "run", base_spec, source=source, layers=(0, 1), store_dtype="float32")

    store = go(folder)

    assert len(store) == 12
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    for number in (0, 11):
        sample = store[number]
        fresh = base.forward(sample.input_ids.long()[None], layers=(0, 1))
        torch.testing.assert_close(sample.hidden, fresh.hidden[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sample.layers[1], fresh.layers[1][0], rtol=1e-4, atol=1e-4)
        answer = base.tokenizer.decode(sample.input_ids[sample.assistant_mask])
        assert answer.startswith("Answer") and answer.endswith("<|im_end|>") and answer.count("<|im_end|>") == 2
    result = next(event for event in events(folder) if isinstance(event, Result))
    assert result.data["samples"] == 12 and result.data["tokens"] == sum(store.lengths)
    assert 0 < result.data["supervised_share"] < 1
    capture = [event for event in events(folder) if isinstance(event, Progress) and event.task == "capture"]
    assert capture[-1].done == capture[-1].total == sum(store.lengths) and "tokens/s" in capture[-1].note


def test_second_start_computes_nothing(tmp_path: Path, base_spec: BaseSpec) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(number) for number in range(5)])
    folder = make_run(tmp_path / "run", base_spec, source=source)
    go(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "hidden_states").glob("shard-*")}

    go(folder)

    assert {path: path.stat().st_mtime_ns for path in (folder / "hidden_states").glob("shard-*")} == before
    said = [event.message for event in events(folder) if isinstance(event, Log)]
    assert sum("loading base" in message for message in said) == 1
    assert any("5 of 5 samples are in the dataset already" in message for message in said)


def test_answers_of_the_base_are_its_greedy_ones(tmp_path: Path, base_spec: BaseSpec) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [{"turns": ["What is the sun?", "And then?"]}, {"prompt": "List it."}])
    folder = make_run(tmp_path / "run", base_spec, source=source, answers="base", max_new_tokens=12)

    store = go(folder)

    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    template = ChatTemplate.for_tokenizer(base.tokenizer)
    samples = by_id(store)
    records = [json.loads(line) for line in (folder / "conversations.jsonl").read_text().splitlines()]
    assert [record["turn"] for record in records] == [1, 1, 2]
    for record in records:
        history = [Message(**message) for message in record["messages"][:-1]]
        ids = template.encode(history, add_generation_prompt=True).input_ids
        prompt_length = len(ids)
        for _ in range(12):
            ids.append(int(base.logits(base.forward(torch.tensor([ids])).hidden[0, -1]).argmax()))
            if ids[-1] in base.stop_ids:
                break
        assert record["input_ids"] == ids
        assert record["answers"][-1] == [prompt_length, len(ids)]
    two_turns = samples[records[-1]["id"]]
    assert two_turns.input_ids.tolist() == records[-1]["input_ids"]
    assert len(records[-1]["answers"]) == 2


def test_sampled_answers_do_not_depend_on_their_company(tmp_path: Path, base_spec: BaseSpec) -> None:
    rows = [{"prompt": f"Question {number}?"} for number in range(6)]
    options = {"answers": "base", "max_new_tokens": 10, "sampling": {"temperature": 1.0, "seed": 5}}
    whole = write_rows(tmp_path / "a.jsonl", rows)
    part = write_rows(tmp_path / "b.jsonl", rows[::-1][:3])

    one = by_id(go(make_run(tmp_path / "one", base_spec, source=whole, generation_batch=4, **options)))
    two = by_id(go(make_run(tmp_path / "two", base_spec, source=part, generation_batch=2, **options)))

    assert len(two) == 3
    for name, sample in two.items():
        assert sample.input_ids.tolist() == one[name].input_ids.tolist()


def test_prompts_of_the_base_itself(tmp_path: Path) -> None:
    base_spec = make_tiny_base(tmp_path / "base", tokenizer=make_word_tokenizer())
    options = {
        "source": "self",
        "answers": "base",
        "limit": 8,
        "max_new_tokens": 6,
        "prompt_sampling": {"temperature": 3.0, "seed": 1},
    }

    first = go(make_run(tmp_path / "run", base_spec, **options))
    again = go(make_run(tmp_path / "again", base_spec, **options, generation_batch=3))

    attempts = [json.loads(line) for line in (tmp_path / "run" / "prompts.jsonl").read_text().splitlines()]
    assert len(first) == 8 <= len(attempts)
    assert len({attempt["attempt"] for attempt in attempts}) == len(attempts)
    kept = [
        record["messages"][0]["content"]
        for record in map(json.loads, (tmp_path / "run" / "conversations.jsonl").read_text().splitlines())
    ]
    assert len({text.lower() for text in kept}) == 8
    assert all("<|" not in text and len(text.split()) >= 3 for text in kept)
    assert sorted(first.ids) == sorted(again.ids)


_KILLED = """
import os, signal, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from hetspec_core.engine.data import hidden_states
from hetspec_core.engine.context import open_context
from hetspec_core.engine.stages.dataset import run
moment, folder = sys.argv[1], Path(sys.argv[2])
calls = 0
if moment == "in the middle of an answer's line":
    real_write = os.write
    def write(handle, data):
        global calls
        calls += b'"input_ids"' in data
        if calls == 5:
            real_write(handle, data[:20])
            os.kill(os.getpid(), signal.SIGKILL)
        return real_write(handle, data)
    os.write = write
else:
    real_manifest = hidden_states.write_manifest
    def manifest(*arguments):
        global calls
        calls += 1
        if calls == 3 and moment == "before the second shard is named":
            os.kill(os.getpid(), signal.SIGKILL)
        real_manifest(*arguments)
        if calls == 2 and moment == "after the first shard":
            os.kill(os.getpid(), signal.SIGKILL)
    hidden_states.write_manifest = manifest
with open_context(folder) as context:
    run(context)
"""


@pytest.mark.parametrize(
    "moment", ["in the middle of an answer's line", "after the first shard", "before the second shard is named"]
)
def test_killed_run_resumes_to_what_it_would_have_been(tmp_path: Path, base_spec: BaseSpec, moment: str) -> None:
    options: dict[str, Any] = {"store_dtype": "float32", "layers": (0, 1), "shard_megabytes": 1}
    if moment == "in the middle of an answer's line":
        rows: list[Any] = [{"turns": [f"Question {number}?", "Then?"]} for number in range(6)]
        options |= {"answers": "base", "max_new_tokens": 8}
    else:
        rows = [dialogue(number, turns=3) for number in range(130)]
    options["source"] = write_rows(tmp_path / "rows.jsonl", rows)
    folder = make_run(tmp_path / "killed", base_spec, **options)
    code = _KILLED.format(repository=str(REPOSITORY))
    done = subprocess.run([sys.executable, "-c", code, moment, str(folder)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    shards = {path: path.stat().st_mtime_ns for path in (folder / "hidden_states").glob("shard-*")}
    lines = (folder / "conversations.jsonl").read_bytes().count(b"\n") if "answers" in options else 0
    assert shards or lines

    resumed = go(folder)
    straight = go(make_run(tmp_path / "straight", base_spec, **options))

    assert_same_stores(resumed, straight)
    assert all(path.stat().st_mtime_ns == before for path, before in shards.items()), "a shard was written again"
    if lines:
        records = [json.loads(line) for line in (folder / "conversations.jsonl").read_text().splitlines()]
        turns = [(record["id"], record["turn"]) for record in records]
        assert len(set(turns)) == len(turns) == 12, "an answer was written again"


def test_malformed_rows_are_said_by_line(tmp_path: Path, base_spec: BaseSpec) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(0), {"conversations": [{"from": "x", "value": "y"}]}])
    folder = make_run(tmp_path / "run", base_spec, source=source)

    assert len(go(folder)) == 1

    warnings = [event.message for event in events(folder) if isinstance(event, Log) and event.level == "warning"]
    assert any("1 of 2 rows" in message and "line 2" in message for message in warnings)


@pytest.mark.parametrize(
    ("rows", "options", "kind", "message"),
    [
        (None, {"source": "nowhere.jsonl"}, NotFoundError, "nowhere.jsonl"),
        ([{"prompt": "What?"}], {}, DataError, "no assistant turn"),
        ([dialogue(4)], {"max_length": 6}, DataError, "no supervised token"),
        ([{"prompt": "word " * 50}], {"answers": "base", "max_length": 20}, DataError, "no supervised token"),
        ([{"a": 1}], {}, DataError, "format of .* is not known"),
        ([dialogue(1)], {"layers": (2,)}, SpecError, r"dataset.layers has \[2\]"),
    ],
)
def test_bad_data_is_found_before_any_forward(
    tmp_path: Path,
    base_spec: BaseSpec,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[Any] | None,
    options: dict[str, Any],
    kind: type[HetSpecError],
    message: str,
) -> None:
    def no_forward(*_: object, **__: object) -> None:
        raise AssertionError("the base was run")

    monkeypatch.setattr(BaseLM, "forward", no_forward)
    if rows is not None:
        options = {"source": write_rows(tmp_path / "rows.jsonl", rows), **options}

    with pytest.raises(kind, match=message):
        go(make_run(tmp_path / "run", base_spec, **options))


def test_template_that_marks_nothing_is_found_before_the_weights_are_loaded(
    tmp_path: Path, base_spec: BaseSpec
) -> None:
    (tmp_path / "plain.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    base = base_spec.model_copy(update={"chat_template": str(tmp_path / "plain.jinja")})
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(0)])
    folder = make_run(tmp_path / "run", base, source=source)

    with pytest.raises(DataError, match="marks no answer"):
        go(folder)
    assert not any("loading base" in event.message for event in events(folder) if isinstance(event, Log))


def test_base_that_is_not_on_this_machine(tmp_path: Path, base_spec: BaseSpec) -> None:
    base = base_spec.model_copy(update={"source": base_spec.source.model_copy(update={"path": str(tmp_path / "gone")})})
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(0)])

    with pytest.raises(ModelError, match="gone"):
        go(make_run(tmp_path / "run", base, source=source))


def test_verify_passes_a_good_dataset_and_finds_states_of_other_tokens(tmp_path: Path, base_spec: BaseSpec) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(number) for number in range(6)])
    folder = make_run(tmp_path / "run", base_spec, source=source)
    go(folder)

    facts = verify(folder, samples=3, device="cpu")

    assert facts["ok"] and facts["cosine"] > 0.999 and facts["max_error"] < 0.05 and len(facts["samples"]) == 3
    path = folder / "hidden_states" / "shard-00000.safetensors"
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:] = data[half:][::-1]  # the states of half the samples are no states any more
    path.write_bytes(data)
    worse = verify(folder, samples=6, device="cpu")
    assert not worse["ok"]
    assert "shard-00000.safetensors was altered" in worse["damaged"][0]
    assert worse["wrong"]


def test_verify_refuses_other_weights(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(0)])
    folder = make_run(tmp_path / "run", base, source=source)
    go(folder)
    make_tiny_base(tmp_path / "base", seed=1)

    with pytest.raises(ModelError, match="fingerprint"):
        verify(folder, device="cpu")


def test_truncated_shard_stops_the_resume_and_deleting_it_heals(tmp_path: Path, base_spec: BaseSpec) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(number) for number in range(6)])
    folder = make_run(tmp_path / "run", base_spec, source=source)
    go(folder)
    path = folder / "hidden_states" / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(CorruptFileError, match=r"shard-00000\.safetensors is truncated"):
        go(folder)
    path.unlink()

    assert len(go(folder)) == 6
