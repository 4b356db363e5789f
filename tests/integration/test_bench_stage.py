"""Stages bench and generate on a tiny base, with a draft from a directory; and the demo's recipe from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.cli.bench import print_bench
from hetspec_core.engine.context import open_context
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, save_draft
from hetspec_core.engine.stages import bench, generate
from hetspec_core.errors import CheckpointError, DataError, ModelError, NotFoundError
from hetspec_core.events import Result, Text, read_events
from hetspec_core.spec import (
    AlgorithmSpec,
    BaseSpec,
    BenchSpec,
    DecodingSpec,
    DraftSpec,
    ResourcesSpec,
    RunSpec,
    TreeSpec,
)
from hetspec_core.spec.document import to_toml
from tests.fakes.tiny_base import make_tiny_base

QUESTIONS = [
    {"question_id": 1, "category": "one", "turns": ["Who are you?"]},
    {"question_id": 2, "category": "two", "turns": ["What is it?", "And then?"]},
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSpec, DraftSpec]:
    folder = tmp_path_factory.mktemp("pair")
    base_spec = make_tiny_base(folder / "base")
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    sizes = base_spec.architecture.model_copy(update={"num_hidden_layers": 1})
    draft_spec = DraftSpec(name="tiny", architecture=sizes, checkpoint=str(folder / "draft"))
    algorithm = AlgorithmSpec()
    save_draft(build_draft(draft_spec, algorithm, base), folder / "draft", algorithm=algorithm, facts={})
    return base_spec, draft_spec


def run_folder(tmp_path: Path, pair: tuple[BaseSpec, DraftSpec], stage: str, **parts: Any) -> Path:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    bench_options = {"prompts": str(questions), "trees": (TreeSpec.parse("3/2/5"), TreeSpec.parse("2/1/2"))}
    spec = RunSpec(
        stage=stage,  # type: ignore[arg-type]
        base=pair[0],
        draft=parts.pop("draft", pair[1]),
        decoding=DecodingSpec(**{"max_new_tokens": 8, "ignore_eos": True, **parts.pop("decoding", {})}),
        bench=BenchSpec(**{**bench_options, **parts.pop("bench", {})}),
        resources=ResourcesSpec(device="cpu", dtype="float32", num_threads=1),
        **parts,
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "spec.toml").write_text(to_toml(spec))
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    events, _ = read_events(folder / "events.jsonl", 0)
    data = next(event.data for event in events if isinstance(event, Result))
    assert json.loads((folder / "result.json").read_text())["data"] == json.loads(json.dumps(data))
    return data


def test_a_bench_measures_every_turn_by_every_tree(tmp_path: Path, pair, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, pair, "bench")
    bench.run(open_context(folder))
    result = result_of(folder)
    assert result["setup"]["conversations"] == 2
    assert result["setup"]["questions"] == 3
    assert [tree["tree"] for tree in result["trees"]] == ["3/2/5", "2/1/2"]
    for tree in result["trees"]:
        assert tree["lossless"]["identical"] == 3
        assert tree["completion_tokens"] == result["plain"]["completion_tokens"] == 3 * 8
        assert 1.0 <= tree["accept_length"] <= tree["depth"] + 1
        assert set(tree["categories"]) == {"one", "two"}
    print_bench(result)
    printed = capsys.readouterr().out
    assert "3/3" in printed
    assert "3/2/5" in printed


def test_filters_choose_the_prompts(tmp_path: Path, pair) -> None:
    options = {"categories": ("two",), "first_turn_only": True}
    folder = run_folder(tmp_path, pair, "bench", bench=options)
    bench.run(open_context(folder))
    setup = result_of(folder)["setup"]
    assert (setup["conversations"], setup["questions"]) == (1, 1)


def test_a_number_behind_the_file_is_a_limit(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    assert len(bench.read_prompts(BenchSpec(prompts=f"{questions}:1"))) == 1
    assert len(bench.read_prompts(BenchSpec(prompts=str(questions)))) == 2


def test_an_unknown_category_names_those_there_are(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", bench={"categories": ("three",)})
    with pytest.raises(DataError, match="no conversation of category three; it has one, two"):
        bench.run(open_context(folder))


def test_a_missing_prompt_file_is_named(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", bench={"prompts": str(tmp_path / "nowhere.jsonl")})
    with pytest.raises(NotFoundError, match=r"nowhere\.jsonl"):
        bench.run(open_context(folder))


def test_a_draft_that_is_not_trained_is_refused(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", draft=pair[1].model_copy(update={"checkpoint": None}))
    with pytest.raises(ModelError, match="is not trained") as caught:
        bench.run(open_context(folder))
    assert "--draft" in caught.value.hint


def test_a_draft_directory_without_a_draft_is_named(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", draft=pair[1].model_copy(update={"checkpoint": str(tmp_path)}))
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        bench.run(open_context(folder))


def test_the_streamed_text_is_the_answer_and_equals_plain(tmp_path: Path, pair) -> None:
    answers = {}
    for plain in (False, True):
        place = tmp_path / str(plain)
        place.mkdir()
        folder = run_folder(place, pair, "generate", prompts=("Who?", "Why?"), decoding={"plain": plain})
        generate.run(open_context(folder))
        answers[plain] = result_of(folder)["answers"]
        events, _ = read_events(folder / "events.jsonl", 0)
        for number, answer in enumerate(answers[plain]):
            said = "".join(event.text for event in events if isinstance(event, Text) and event.prompt == number)
            assert said == answer["text"]
    assert [answer["tokens"] for answer in answers[False]] == [answer["tokens"] for answer in answers[True]]
    assert all(answer["accept_length"] is not None for answer in answers[False])
    assert all(answer["accept_length"] is None for answer in answers[True])


def test_a_batched_bench_says_the_same_of_acceptance(tmp_path: Path, pair) -> None:
    results = []
    for size in (1, 2):
        (tmp_path / str(size)).mkdir()
        folder = run_folder(tmp_path / str(size), pair, "bench", bench={"batch_size": size})
        bench.run(open_context(folder))
        results.append(result_of(folder))
    one, two = results
    assert two["setup"]["batch_size"] == 2
    assert one["setup"]["prompt_tokens"] == two["setup"]["prompt_tokens"], "second turns go on from plain's answers"
    for alone, together in zip(one["trees"], two["trees"]):
        assert alone["accept_length"] == together["accept_length"]
        assert alone["histogram"] == together["histogram"]
        assert together["lossless"]["identical"] == 3


def test_a_base_alone_is_measured(tmp_path: Path, pair, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, pair, "bench", draft=None, decoding={"plain": True})
    bench.run(open_context(folder))
    result = result_of(folder)
    assert result["trees"] == [] and result["plain"]["completion_tokens"] == 3 * 8
    print_bench(result)
    assert "tiny alone" in capsys.readouterr().out


def test_only_the_conversations_of_the_named_ids_are_measured(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", bench={"sample_ids": ("2",)})
    bench.run(open_context(folder))
    assert result_of(folder)["setup"]["questions"] == 2
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="no conversation with id 7") as error:
        bench.run(open_context(run_folder(tmp_path / "other", pair, "bench", bench={"sample_ids": ("7",)})))
    assert "there are 1, 2" in error.value.hint
