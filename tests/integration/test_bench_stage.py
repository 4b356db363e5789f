"""Stages bench and generate on a tiny base, with a draft from a directory; and the demo's recipe from end to end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.cli.bench import print_bench, print_tuning
from hetspec_core.engine.context import open_context, resolve_dtype
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.decoder import ReferenceDecoder
from hetspec_core.engine.decoding.measure import Track
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.token_counts import TokenCounts
from hetspec_core.engine.stages import bench, generate, tune
from hetspec_core.errors import CheckpointError, DataError, ModelError, NotFoundError
from hetspec_core.events import Log, Result, Text, read_events
from hetspec_core.spec import (
    AlgorithmSpec,
    BaseSpec,
    BenchSpec,
    DecodingSpec,
    DraftSpec,
    ResourcesSpec,
    RunSpec,
    TreeSpec,
    TuneSpec,
)
from hetspec_core.spec.run import to_toml
from tests.fakes.results import keys_of, recorded
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
        resources=ResourcesSpec(
            **{"device": "cpu", "dtype": "float32", "num_threads": 1, **parts.pop("resources", {})}
        ),
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
    assert keys_of(result) == keys_of(recorded("bench-builtin"))
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


@pytest.fixture(scope="module")
def counted_pair(pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSpec, DraftSpec]:
    """The pair with a draft that knows how often each token occurs."""
    base_spec, draft_spec = pair
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    draft = load_draft(draft_spec.checkpoint, base)
    draft.token_counts = TokenCounts(torch.arange(base.vocab_size).flip(0))
    folder = tmp_path_factory.mktemp("counted") / "draft"
    save_draft(draft, folder, algorithm=AlgorithmSpec(), facts={})
    return base_spec, draft_spec.model_copy(update={"checkpoint": str(folder)})


def test_a_bench_measures_every_tree_with_every_draft_vocabulary(
    tmp_path: Path, counted_pair, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = counted_pair[0].architecture.vocab_size
    folder = run_folder(tmp_path, counted_pair, "bench", bench={"draft_vocabs": (16, "whole"), "repeats": 1})
    bench.run(open_context(folder))
    result = result_of(folder)
    measured = [(tree["tree"], tree["draft_vocab_size"]) for tree in result["trees"]]
    shapes = ("3/2/5", "2/1/2")
    assert measured == [
        (f"{shape} vocab {size}", size if size == 16 else whole) for shape in shapes for size in (16, "whole")
    ]
    assert {tree["lossless"]["identical"] for tree in result["trees"]} == {3}
    assert result["setup"]["draft_vocab_size"] == whole
    print_bench(result)
    printed = " ".join(capsys.readouterr().out.split())
    for shape in shapes:
        assert f"{shape} vocab 16 proposes the 16 commonest of {whole:,} tokens; against {whole:,}: accept" in printed


def test_a_bench_with_one_draft_vocabulary_names_trees_by_their_shape(tmp_path: Path, counted_pair) -> None:
    folder = run_folder(tmp_path, counted_pair, "bench", decoding={"draft_vocab": 16})
    bench.run(open_context(folder))
    assert [(tree["tree"], tree["draft_vocab_size"]) for tree in result_of(folder)["trees"]] == [
        ("3/2/5", 16),
        ("2/1/2", 16),
    ]


def test_a_vocabulary_for_a_draft_without_counts_is_refused(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", decoding={"draft_vocab": 16})
    with pytest.raises(ModelError, match=r"decoding\.draft_vocab is 16, and the draft has no counts"):
        bench.run(open_context(folder))


def test_an_answer_names_the_draft_vocabulary_where_it_is_reduced(tmp_path: Path, counted_pair) -> None:
    sizes, texts = [], set()
    for number, choice in enumerate((16, "whole", "auto")):
        place = tmp_path / str(number)
        place.mkdir()
        folder = run_folder(place, counted_pair, "generate", prompts=("Who?",), decoding={"draft_vocab": choice})
        generate.run(open_context(folder))
        answer = result_of(folder)["answers"][0]
        sizes.append(answer["draft_vocab_size"])
        texts.add(answer["text"])
    assert sizes == [16, None, None] and len(texts) == 1


def test_a_tuning_tries_every_tree_with_every_draft_vocabulary(tmp_path: Path, counted_pair) -> None:
    options = {"trees": (TreeSpec.parse("2/1/2"),), "draft_vocabs": (16, "whole"), "repeats": 1}
    folder = run_folder(tmp_path, counted_pair, "tune", tune=TuneSpec(**options))
    tune.run(open_context(folder))
    trees = [trial["tree"] for trial in result_of(folder)["trials"]]
    assert trees == ["plain", "2/1/2 vocab 16", "2/1/2 vocab whole"]


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
        folder = run_folder(
            place, pair, "generate", prompts=("Who?", "Why?"), decoding={"plain": plain, "tree": "3/2/5"}
        )
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


def test_rows_that_cannot_be_read_are_counted_in_the_record_and_the_table(
    tmp_path: Path, pair, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path, pair, "bench", decoding={"plain": True})
    lines = [
        json.dumps(QUESTIONS[0]),
        "{not json",
        json.dumps({"question_id": 3, "turns": 7}),
        json.dumps(QUESTIONS[1]),
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines) + "\n")
    bench.run(open_context(folder))
    result = result_of(folder)
    assert result["setup"]["conversations"] == 2
    found = result["setup"]["left_out"]["rows that cannot be read"]
    assert found["count"] == 2 and [name.split(":")[0] for name in found["named"]] == ["line 2", "line 3"]
    assert [text for text in warnings_of(folder) if "2 rows that cannot be read" in text and "line 2" in text]
    print_bench(result)
    assert "left out: 2 rows that cannot be read (line 2" in capsys.readouterr().out


def test_prompts_that_do_not_fit_are_left_out_before_anything_is_measured(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench", bench={"repeats": 1, "batch_size": 2})
    context_tokens = pair[0].architecture.max_position_embeddings
    long = "word " * context_tokens
    rows = [QUESTIONS[1], {"question_id": "long one", "turns": [long]}, {"question_id": 4, "turns": ["Short.", long]}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bench.run(open_context(folder))
    setup = result_of(folder)["setup"]
    assert (setup["conversations"], setup["questions"]) == (2, 3), "two turns of the first, one of the last"
    found = setup["left_out"]["prompts longer than the context"]
    assert found["count"] == 2
    assert found["named"][0].startswith("long one: ") and found["named"][1].startswith("4, turn 2: ")
    events, _ = read_events(folder / "events.jsonl", 0)
    kinds = [event.type for event in events if isinstance(event, Log) or getattr(event, "task", "") == "bench"]
    assert kinds.index("log") < kinds.index("progress"), "the warning comes first"
    assert [text for text in warnings_of(folder) if "long one" in text]


def test_a_turn_that_outgrows_the_context_ends_its_conversation_only(tmp_path: Path, pair) -> None:
    """How long an answer gets is known when it is there: here it fills the context, and the second turn has no room."""
    options = {"plain": True, "max_new_tokens": pair[0].architecture.max_position_embeddings, "ignore_eos": True}
    folder = run_folder(tmp_path, pair, "bench", decoding=options, bench={"warmup": 0})
    bench.run(open_context(folder))
    setup = result_of(folder)["setup"]
    assert (setup["conversations"], setup["questions"]) == (2, 2)
    assert setup["left_out"]["later turns that outgrew the context"]["named"][0].startswith("2, turn 2: ")
    assert [text for text in warnings_of(folder) if "outgrew" in text]


def test_a_bench_of_prompts_that_are_all_too_long_is_refused(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "bench")
    long = "word " * pair[0].architecture.max_position_embeddings
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question_id": "x7", "turns": [long]}) + "\n")
    with pytest.raises(DataError, match=r"no prompt of .* can be measured: prompts longer than the context: x7"):
        bench.run(open_context(folder))


@pytest.mark.parametrize("plain", [True, False])
def test_prompts_of_generate_are_checked_before_the_first_is_answered(tmp_path: Path, pair, plain: bool) -> None:
    long = "word " * pair[0].architecture.max_position_embeddings
    folder = run_folder(tmp_path, pair, "generate", decoding={"plain": plain}, prompts=("Who?", long))
    with pytest.raises(DataError, match=r"prompt 2 has .* tokens; the context"):
        generate.run(open_context(folder))
    events, _ = read_events(folder / "events.jsonl", 0)
    assert not [event for event in events if isinstance(event, Text)]


def test_the_load_of_a_bench_is_the_highest_that_was_seen(
    tmp_path: Path, pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other work that ends before the measurement does has slowed it all the same."""
    seen = iter([1.0, 9.0])
    monkeypatch.setattr("os.getloadavg", lambda: (next(seen, 2.0), 0.0, 0.0))
    folder = run_folder(tmp_path, pair, "bench")
    bench.run(open_context(folder))
    assert result_of(folder)["setup"]["load_average"] == 9.0


def test_a_tuning_takes_turns_on_every_prompt(tmp_path: Path, pair, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"trees": (TreeSpec.parse("2/1/2"), TreeSpec.parse("3/2/5")), "batch_sizes": (1, 2), "repeats": 2}
    folder = run_folder(tmp_path, pair, "tune", tune=TuneSpec(**options))
    with (tmp_path / "questions.jsonl").open("a") as file:
        file.write("no row\n" + json.dumps({"question_id": 3, "turns": ["Why?"]}) + "\n")
    tune.run(open_context(folder))
    result = result_of(folder)
    assert keys_of(result) == keys_of(recorded("tune")) | {".trials[].predicted_speedup"}  # recorded at a server
    order = [(trial["tree"], trial["batch_size"]) for trial in result["trials"]]
    assert order == [(tree, size) for tree in ("plain", "2/1/2", "3/2/5") for size in (1, 2)]
    assert [trial["turns"] for trial in result["trials"]] == [6, 4] * 3, "3 prompts twice, and 2 batches of them"
    assert {trial["tokens"] for trial in result["trials"]} == {2 * 3 * 8}, "all ways answer the same prompts"
    assert all(trial["speedup_interval"] for trial in result["trials"])
    assert result["prompts"]["left_out"]["rows that cannot be read"]["count"] == 1
    assert set(result["best"]) == {"1", "2"}
    for best in result["best"].values():
        assert (best["tree"] is None) == ("no difference was measured" in best["verdict"]) == bool(best["advice"])
    print_tuning(result)
    printed = capsys.readouterr().out
    assert "left out: 1 rows that cannot be read (line 3" in printed
    assert all(best["verdict"] in printed for best in result["best"].values())
    predicted = {trial["tree"]: trial.get("predicted_speedup") for trial in result["trials"]}
    assert predicted["plain"] is None and "predicted" in printed
    assert all(predicted[tree] > 0 for tree in ("2/1/2", "3/2/5"))


def test_a_tuning_without_time_names_what_was_not_tried_and_no_winner(tmp_path: Path, pair) -> None:
    folder = run_folder(tmp_path, pair, "tune", tune=TuneSpec(trees=(TreeSpec.parse("2/1/2"),), budget_s=1e-6))
    tune.run(open_context(folder))
    result = result_of(folder)
    assert [trial["turns"] for trial in result["trials"]] == [1, 0]
    assert result["trials"][1]["note"] == "the time budget was spent"
    assert result["best"]["1"]["tree"] is None and "only plain was measured" in result["best"]["1"]["verdict"]


def warnings_of(folder: Path) -> list[str]:
    events, _ = read_events(folder / "events.jsonl", 0)
    return [event.message for event in events if isinstance(event, Log) and event.level == "warning"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_losslessness_is_proved_in_float32_where_speeds_are_in_another_type(
    dtype: str, tmp_path: Path, pair, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"trees": (TreeSpec.parse("2/1/2"), TreeSpec.parse("3/2/5")), "proof_prompts": 2, "proof_tokens": 6}
    folder = run_folder(tmp_path, pair, "bench", bench=options, resources={"dtype": dtype})
    bench.run(open_context(folder))
    result = result_of(folder)
    assert result["setup"]["dtype"] == dtype
    for tree in result["trees"]:
        if dtype == "float32":
            assert "proof" not in tree and tree["lossless"]["identical"] == tree["lossless"]["prompts"] == 3
        else:
            assert tree["proof"]["identical"] == tree["proof"]["prompts"] == 2
    print_bench(result)
    assert ("3/2/5 in float32: 2/2 answers of the reference" in capsys.readouterr().out) == (dtype == "bfloat16")


def test_a_proof_that_fails_is_said(tmp_path: Path, pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if trees committed a token that the base did not choose."""
    real = ReferenceDecoder.generate

    def wrong(self, prompts, decoding, draft=None, **options):
        answers = real(self, prompts, decoding, draft, **options)
        if not decoding.plain and self.base.dtype == torch.float32:
            for answer in answers:
                answer.tokens[1] += 1
        return answers

    monkeypatch.setattr(ReferenceDecoder, "generate", wrong)
    folder = run_folder(tmp_path, pair, "bench", bench={"proof_prompts": 2}, resources={"dtype": "bfloat16"})
    bench.run(open_context(folder))
    for tree in result_of(folder)["trees"]:
        assert (tree["proof"]["identical"], tree["proof"]["prompts"]) == (0, 2)
        assert [one["token"] for one in tree["proof"]["differences"]] == [1, 1]


@pytest.mark.parametrize("stage", ["generate", "chat", "bench", "tune", "dataset", "train"])
def test_what_decodes_takes_the_serving_type_of_the_machine(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for fast in (True, False):
        monkeypatch.setattr("hetspec_core.engine.context.has_fast_bfloat16", lambda device, fast=fast: fast)
        serving = fast and stage not in ("dataset", "train")
        assert resolve_dtype(ResourcesSpec(), cpu, stage) == (torch.bfloat16 if serving else torch.float32)
        assert resolve_dtype(ResourcesSpec(dtype="float32"), cpu, stage) == torch.float32


def test_a_bench_of_auto_says_the_shapes_that_it_took(tmp_path: Path, pair, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"trees": (TreeSpec.parse("auto"), TreeSpec.parse("3/2/5"))}
    folder = run_folder(tmp_path, pair, "bench", bench=options)
    bench.run(open_context(folder))
    auto, named = result_of(folder)["trees"]
    assert auto["tree"] == "auto" and sum(auto["shapes"].values()) == 3 and "shapes" not in named
    assert auto["lossless"]["identical"] == 3
    assert auto["predicted_speedup"] > 0 and "predicted_speedup" not in named
    print_bench(result_of(folder))
    assert f"of 3 answers, predicted {auto['predicted_speedup']:.2f} times plain" in capsys.readouterr().out


def test_a_bench_measures_auto_beside_a_named_shape_unless_told_otherwise() -> None:
    assert [tree.label for tree in BenchSpec().trees] == ["6/10/60", "auto"]


def test_the_turns_of_a_tuning_do_not_count_what_a_decoder_makes_once(
    tmp_path: Path, pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ReferenceDecoder.generate

    def slow_to_begin(self, *arguments, **options):
        time.sleep(0.2)  # as long as a program takes to capture
        return real(self, *arguments, **options)

    monkeypatch.setattr(ReferenceDecoder, "generate", slow_to_begin)
    folder = run_folder(tmp_path, pair, "tune", tune=TuneSpec(trees=(TreeSpec.parse("2/1/2"),), repeats=1))
    tune.run(open_context(folder))
    for trial in result_of(folder)["trials"]:
        assert 0 < trial["seconds"] < 0.2 * trial["turns"]


@pytest.mark.parametrize("error", [RuntimeError("not enough memory"), MemoryError(), torch.OutOfMemoryError("full")])
def test_a_proof_without_memory_leaves_the_speeds(
    error: Exception, tmp_path: Path, pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(
        "hetspec_core.engine.stages.bench.base_gap", lambda base: full() if base.dtype == torch.float32 else None
    )
    folder = run_folder(tmp_path, pair, "bench", bench={"proof_prompts": 1}, resources={"dtype": "bfloat16"})
    monkeypatch.setattr("hetspec_core.engine.decoding.measure.first_difference", lambda *_: None)
    bench.run(open_context(folder))
    assert all(tree["accept_length"] and not tree.get("proof") for tree in result_of(folder)["trees"])
    events, _ = read_events(folder / "events.jsonl", 0)
    assert any("not proved" in event.message for event in events if isinstance(event, Log))


def test_every_shape_that_auto_took_is_proved() -> None:
    track = Track("auto", DecodingSpec(tree=TreeSpec.parse("auto")))
    track.completions = [Completion(1, tree=label) for label in ("3/2/5", "plain", "4/4/12", "3/2/5")]
    assert [way.tree.label for way in bench._shapes_of(track)] == ["3/2/5", "4/4/12"]
    track.completions = [Completion(1, tree="plain")]
    assert bench._shapes_of(track) == []
