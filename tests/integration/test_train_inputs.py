"""What a training run says of inputs that cannot be used, before any time is spent on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.engine.data.hidden_states import HiddenStateWriter, open_store
from hetspec_core.engine.data.manifest import MANIFEST_NAME
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.stages.train import run
from hetspec_core.engine.training.samples import select_samples
from hetspec_core.engine.training.state import TrainingState
from hetspec_core.errors import (
    CheckpointError,
    CorruptFileError,
    DataError,
    HetSpecError,
    ModelError,
    NotFoundError,
    RunError,
    SpecError,
)
from hetspec_core.events import CheckpointSaved, Log, Metric
from hetspec_core.paths import RunPaths
from hetspec_core.spec import AlgorithmSpec, BaseSpec, DraftSpec, RunSpec
from tests.fakes.tiny_training import (
    events_of,
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    tiny_architecture,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)


class Data:
    """A base and datasets of it."""

    def __init__(self, folder: Path) -> None:
        self.spec: BaseSpec = write_tiny_base(folder / "base")
        self.base: BaseLM = load_tiny_base(self.spec)
        self.store: Path = write_tiny_store(folder / "store", self.base)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


def train(folder: Path, spec: RunSpec) -> RunPaths:
    paths = make_run_folder(folder / "run", spec)
    with open_tiny_context(paths) as context:
        run(context)
    return paths


def refuse(folder: Path, spec: RunSpec, kind: type[HetSpecError], match: str) -> HetSpecError:
    with pytest.raises(kind, match=match) as caught:
        train(folder, spec)
    saved = [event for event in events_of(RunPaths(folder / "run")) if isinstance(event, CheckpointSaved)]
    assert not saved
    return caught.value


def draft_of(base: BaseLM, folder: Path, **sizes: Any) -> Path:
    spec = DraftSpec(name="other", architecture=tiny_architecture(layers=1, **sizes), init="random")
    save_draft(build_draft(spec, AlgorithmSpec(), base), folder, algorithm=AlgorithmSpec(), facts={})
    return folder


def test_no_dataset_and_no_draft_are_said_so(data: Data, tmp_path: Path) -> None:
    refuse(tmp_path / "a", tiny_run_spec(data.spec, []), SpecError, "no dataset to train on")
    spec = tiny_run_spec(data.spec, [data.store])
    refuse(tmp_path / "b", spec.model_copy(update={"draft": None}), SpecError, "no draft to train")


def test_a_dataset_that_is_not_there(data: Data, tmp_path: Path) -> None:
    error = refuse(tmp_path / "a", tiny_run_spec(data.spec, [tmp_path / "gone"]), NotFoundError, "gone")
    assert "runs list" in error.hint
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "b", tiny_run_spec(data.spec, [tmp_path / "empty"]), NotFoundError, "no hidden-state dataset")


def test_an_empty_dataset(data: Data, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store", data.base, samples=0)
    error = refuse(tmp_path, tiny_run_spec(data.spec, [store]), DataError, "is empty")
    assert str(store) in error.message and "dataset generate" in error.hint


def test_a_dataset_in_which_nothing_is_supervised(data: Data, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store", data.base, supervised=False)
    error = refuse(tmp_path, tiny_run_spec(data.spec, [store]), DataError, "supervised token")
    assert "inspect" in error.hint


def test_answers_beyond_the_cut_supervise_nothing(data: Data, tmp_path: Path) -> None:
    refuse(tmp_path, tiny_run_spec(data.spec, [data.store], max_length=4), DataError, "in its first 4 tokens")


def test_a_dataset_of_a_base_with_other_weights_unless_it_is_allowed(data: Data, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store", data.base, fingerprint="another-base")
    spec = tiny_run_spec(data.spec, [store], max_steps=2)
    error = refuse(tmp_path / "a", spec, DataError, "fingerprint another-base")
    assert "allow_other_base" in error.hint
    paths = train(tmp_path / "b", tiny_run_spec(data.spec, [store], max_steps=2, allow_other_base=True))
    assert any("another-base" in e.message for e in events_of(paths) if isinstance(e, Log) and e.level == "warning")


@pytest.mark.parametrize("sizes", [{"hidden": 16}, {"vocab": 40}])
def test_a_dataset_of_a_base_of_another_size(data: Data, tmp_path: Path, sizes: dict[str, int]) -> None:
    other = load_tiny_base(write_tiny_base(tmp_path / "base", **sizes))
    store = write_tiny_store(tmp_path / "store", other)
    spec = tiny_run_spec(data.spec, [store], allow_other_base=True)
    refuse(tmp_path, spec, DataError, "of another base than tiny: (hidden size 16|vocabulary 40)")


def test_an_evaluation_dataset_is_checked_too(data: Data, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store", data.base, fingerprint="another-base", seed=3)
    refuse(tmp_path / "a", tiny_run_spec(data.spec, [data.store], eval_dataset=str(store)), DataError, "another-base")
    same = tiny_run_spec(data.spec, [data.store], eval_dataset=str(data.store))
    refuse(tmp_path / "b", same, DataError, "in the evaluation dataset too")


def test_a_draft_of_another_vocabulary_than_its_base(data: Data, tmp_path: Path) -> None:
    draft = {"architecture": tiny_architecture(layers=1, vocab=40)}
    refuse(tmp_path, tiny_run_spec(data.spec, [data.store], draft=draft), ModelError, "vocab")


@pytest.mark.parametrize("sizes", [{"hidden": 16}, {"vocab": 40}])
def test_an_initial_draft_of_another_base(data: Data, tmp_path: Path, sizes: dict[str, int]) -> None:
    other = load_tiny_base(write_tiny_base(tmp_path / "base", **sizes))
    folder = draft_of(other, tmp_path / "draft", **sizes)
    spec = tiny_run_spec(data.spec, [data.store], draft={"checkpoint": str(folder)})
    refuse(tmp_path, spec, ModelError, "hidden size|vocabulary")


def test_an_initial_draft_that_is_truncated(data: Data, tmp_path: Path) -> None:
    folder = draft_of(data.base, tmp_path / "draft")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    spec = tiny_run_spec(data.spec, [data.store], draft={"checkpoint": str(folder)})
    refuse(tmp_path, spec, CheckpointError, str(folder))


def cut_shard(store: Path) -> Path:
    shard = next(iter(sorted(store.glob("shard-*.safetensors"))))
    shard.write_bytes(shard.read_bytes()[:-64])
    return shard


def break_shard_header(store: Path) -> Path:
    shard = next(iter(sorted(store.glob("shard-*.safetensors"))))
    data = bytearray(shard.read_bytes())
    data[8:40] = b"\xff" * 32  # same size, no header any more
    shard.write_bytes(data)
    return shard


def remove_shard(store: Path) -> Path:
    shard = next(iter(sorted(store.glob("shard-*.safetensors"))))
    shard.unlink()
    return shard


def break_manifest(store: Path) -> Path:
    (store / MANIFEST_NAME).write_text(json.dumps({"schema_version": 1}))
    return store / MANIFEST_NAME


@pytest.mark.parametrize("fault", [cut_shard, break_shard_header, remove_shard, break_manifest])
def test_a_damaged_dataset_names_the_file(data: Data, tmp_path: Path, fault: Callable[[Path], Path]) -> None:
    store = write_tiny_store(tmp_path / "store", data.base)
    file = fault(store)
    error = refuse(tmp_path, tiny_run_spec(data.spec, [store]), CorruptFileError, str(file))
    assert error.hint


def test_a_tracker_that_is_missing_stops_the_run_before_anything_is_loaded(data: Data, tmp_path: Path) -> None:
    absent = [name for name in ("mlflow", "trackio", "wandb", "tensorboard") if find_spec(name) is None]
    if not absent:
        pytest.skip("every tracker is installed here")
    spec = tiny_run_spec(data.spec, [data.store], report_to=[absent[0]])
    error = refuse(tmp_path, spec, NotFoundError, f"{absent[0]}, which is not installed")
    assert f"pip install {absent[0]}" in error.hint
    assert not events_of(RunPaths(tmp_path / "run"))


def test_a_draft_vocabulary_larger_than_the_base_s(data: Data, tmp_path: Path) -> None:
    refuse(
        tmp_path, tiny_run_spec(data.spec, [data.store], draft={"vocab_size": 99}), SpecError, "draft.vocab_size is 99"
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_over_the_good_checkpoint(
    data: Data, tmp_path: Path
) -> None:
    broken = write_tiny_store(tmp_path / "broken", data.base, samples=1, seed=9)
    from hetspec_core.engine.data.hidden_states import HiddenStateWriter, Sample, open_store

    identity = open_store([broken]).identity
    with HiddenStateWriter(tmp_path / "nan", identity, about={}) as writer:
        sample = open_store([broken])[0]
        hidden = torch.full_like(sample.hidden, float("nan"))
        writer.add(Sample("nan", sample.input_ids.clone(), sample.assistant_mask.clone(), hidden))
    spec = tiny_run_spec(data.spec, [tmp_path / "nan"], eval_dataset=str(data.store), save_every=1, log_every=100)
    error = refuse(tmp_path, spec, RunError, "not finite at step 1")
    assert "lr" in error.hint


def test_metrics_say_what_was_trained_on(data: Data, tmp_path: Path) -> None:
    paths = train(tmp_path, tiny_run_spec(data.spec, [data.store], max_steps=4, log_every=2))
    metrics = [event for event in events_of(paths) if isinstance(event, Metric)]
    trained = next(event for event in metrics if event.step == 4 and "loss" in event.values)
    names = {
        "loss",
        "token_loss",
        "top1",
        "top10",
        "acceptance",
        "lr",
        "grad_norm",
        "tokens_per_s",
        "supervised_tokens",
    }
    assert trained.values.keys() >= names | {"peak_memory_mb", "longest_tokens", "shortest_tokens"}
    assert trained.tokens and trained.wall_s and trained.values["supervised_tokens"]
    assert trained.tokens > trained.values["supervised_tokens"] > 0
    evaluated = next(event for event in metrics if "eval/loss" in event.values)
    assert evaluated.values.keys() >= {"eval/feature_loss", "eval/accept_length", "eval/accept_length_bound"}
    assert json.loads(paths.result.read_text())["data"]["step"] == 4


def test_eagles_files_are_trained_on_where_they_lie(data: Data, tmp_path: Path) -> None:
    store = open_store([data.store])
    (tmp_path / "files").mkdir()
    for number in range(len(store)):
        sample = store[number]
        content = {"input_ids": sample.input_ids.long(), "hidden_state": sample.hidden.clone()}
        torch.save(content | {"loss_mask": sample.assistant_mask.long()}, tmp_path / "files" / f"data_{number}.ckpt")
    paths = train(tmp_path, tiny_run_spec(data.spec, [tmp_path / "files"], max_steps=3))
    assert json.loads(paths.result.read_text())["data"]["step"] == 3
    said = [event.message for event in events_of(paths) if isinstance(event, Log)]
    assert any("does not say of which base" in message for message in said)


def changed(data: Data, folder: Path, name: str, change: Callable[[Any], None]) -> Path:
    """The store with one sample changed."""
    store = open_store([data.store])
    with HiddenStateWriter(folder, store.identity, about={}) as writer:
        for number in range(len(store)):
            sample = store[number]
            sample = replace(sample, input_ids=sample.input_ids.clone(), hidden=sample.hidden.clone())
            if sample.id == name:
                change(sample)
            writer.add(sample)
    return folder


def broken_state(sample: Any) -> None:
    sample.hidden[3, 5] = torch.inf


def held_out_of(data: Data, folder: Path) -> list[str]:
    """Names of the samples that a run of the defaults holds out."""
    store = open_store([data.store])
    spec = tiny_run_spec(data.spec, [data.store])
    chosen = select_samples(store, None, spec.training, lambda sentence: None)
    return [store.ids[index] for index in chosen.held_out]


def test_training_names_a_sample_whose_states_are_not_finite(data: Data, tmp_path: Path) -> None:
    held_out = held_out_of(data, tmp_path)
    name = next(each for each in open_store([data.store]).ids if each not in held_out)
    store = changed(data, tmp_path / "store", name, broken_state)
    with pytest.raises(RunError, match=rf"sample {name} .*final state, token 3.* not finite") as caught:
        train(tmp_path, tiny_run_spec(data.spec, [store], log_every=5, save_every=100))
    assert "the learning rate (training.optimizer.lr) is not the cause" in caught.value.hint


def test_a_held_out_sample_whose_states_are_not_finite_is_not_evaluated_on(data: Data, tmp_path: Path) -> None:
    name = held_out_of(data, tmp_path)[0]
    store = changed(data, tmp_path / "store", name, broken_state)
    paths = train(tmp_path, tiny_run_spec(data.spec, [store], max_steps=4))
    events = events_of(paths)
    assert [event for event in events if isinstance(event, Log) and event.level == "warning" and name in event.message]
    losses = [
        event.values["eval/loss"] for event in events if isinstance(event, Metric) and "eval/loss" in event.values
    ]
    assert losses and all(loss is not None for loss in losses)


def test_a_sample_with_a_token_that_the_base_does_not_have_is_refused(data: Data, tmp_path: Path) -> None:
    def beyond(sample: Any) -> None:
        sample.input_ids[1] = 48

    store = changed(data, tmp_path / "store", open_store([data.store]).ids[4], beyond)
    with pytest.raises(DataError, match=r"sample sample-0-4 of .* has token id 48; tiny has 48 tokens"):
        train(tmp_path, tiny_run_spec(data.spec, [store], draft={"vocab_size": 24}))


@pytest.mark.parametrize(("score", "loss"), [(math.nan, 1.0), (9.0, math.nan), (math.inf, 1.0), (9.0, -math.inf)])
def test_an_evaluation_that_is_not_finite_is_never_the_best(score: float, loss: float) -> None:
    assert not TrainingState().is_better(score, loss)
    assert not TrainingState(best_step=4, best_score=1.5, best_loss=3.0).is_better(score, loss)
    old = TrainingState(best_step=4, best_score=score, best_loss=loss)  # of a checkpoint that took it
    assert old.is_better(1.5, 3.0)
