"""Options of a training run, each by what it changes in a run on a tiny base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft, read_settings
from hetspec_core.engine.stages.train import run
from hetspec_core.errors import DataError, ModelError
from hetspec_core.events import CheckpointSaved, Log
from hetspec_core.paths import RunPaths, roots
from hetspec_core.spec import BaseSpec
from tests.fakes.tiny_training import (
    STOP,
    events_of,
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    series,
    tiny_architecture,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps the precision of a process for good; a run has a process of its own, tests share one."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


class Data:
    def __init__(self, folder: Path) -> None:
        self.spec: BaseSpec = write_tiny_base(folder / "base")
        self.base: BaseLM = load_tiny_base(self.spec)
        self.store: Path = write_tiny_store(folder / "store", self.base)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


def train(folder: Path, data: Data, datasets: list[Path] | None = None, **options: Any) -> RunPaths:
    paths = make_run_folder(folder, tiny_run_spec(data.spec, datasets or [data.store], **options))
    with open_tiny_context(paths) as context:
        run(context)
    return paths


def values(paths: RunPaths, name: str) -> list[float]:
    return [value for (_, key), value in sorted(series(paths).items()) if key == name and value is not None]


def test_a_draft_learns_and_the_loss_falls(data: Data, tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": {"lr": 1e-2, "warmup_steps": 5}, "eval_every": 50}
    paths = train(tmp_path / "run", data, max_steps=150, **options)
    losses = values(paths, "loss")
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert values(paths, "eval/accept_length_bound")[-1] > 1
    first = values(paths, "eval/acceptance_rate_1")
    draft = load_draft(paths.draft, data.base)
    assert draft.acceptance_rates and draft.acceptance_rates[0] in first


@pytest.mark.parametrize("damage", ["much", [0.5, 1.5], [None], {}])
def test_rates_of_acceptance_that_cannot_be_read_are_left_out(data: Data, tmp_path: Path, damage: Any) -> None:
    paths = train(tmp_path / "run", data, max_steps=2, eval_every=1)
    file = paths.draft / "config.json"
    config = json.loads(file.read_text())
    config["hetspec"]["acceptance_rates"] = damage
    file.write_text(json.dumps(config))
    assert load_draft(paths.draft, data.base).acceptance_rates == ()


@pytest.mark.parametrize(("family", "layers"), [("llama", 3), ("qwen3", 1), ("qwen3", 2)])
def test_every_dense_backbone_of_any_depth_trains_and_resumes(
    data: Data, tmp_path: Path, family: str, layers: int
) -> None:
    sizes = tiny_architecture(layers=layers).model_copy(update={"model_type": family, "head_dim": 8})
    paths = train(tmp_path / "run", data, max_steps=8, draft={"backbone": family, "architecture": sizes})
    trained = load_file(paths.draft / "model.safetensors")
    assert f"layers.{layers - 1}.mlp.up_proj.weight" in trained
    assert ("layers.0.self_attn.q_norm.weight" in trained) == (family == "qwen3")
    shutil.rmtree(paths.checkpoints / "step-000008")
    with open_tiny_context(paths) as context:
        run(context)
    newest = load_file(paths.checkpoints / "step-000008" / "draft" / "model.safetensors")
    before = load_file(paths.checkpoints / "step-000004" / "draft" / "model.safetensors")
    assert newest.keys() == before.keys()
    assert not any(torch.equal(newest[name], tensor) for name, tensor in before.items())  # every tensor learns


def test_epochs_count_passes_when_no_steps_are_given(data: Data, tmp_path: Path) -> None:
    paths = train(tmp_path / "run", data, max_steps=None, epochs=2, gradient_accumulation=1)
    facts = json.loads(paths.resolved.read_text())["training"]
    assert facts["total_steps"] == 2 * facts["micro_batches_per_epoch"]
    seen = values(paths, "supervised_tokens")[-1]
    assert seen == 2 * facts["supervised_tokens_per_epoch"]


def test_minutes_are_planned_from_the_first_steps_and_the_plan_survives(data: Data, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": None, "max_minutes": 0.1, "eval_every": 500, "save_every": 500}
    paths = make_run_folder(tmp_path / "run", tiny_run_spec(data.spec, [data.store], log_every=1, **options))
    with open_tiny_context(paths) as context:
        reported = context.progress
        planned: list[float] = []

        def watch(task: str, done: float, total: float | None = None, unit: str = "", note: str = "") -> None:
            reported(task, done, total, unit, note)
            if total is not None and task == "train":
                planned.append(total)
                context.cancelled.set()

        context.progress = watch  # type: ignore[method-assign]
        with pytest.raises(Exception, match="asked to stop"):
            run(context)
    [total] = planned
    logs = [event.message for event in events_of(paths) if isinstance(event, Log)]
    assert any(f"planned {total:.0f} steps to end within 0.1 minutes" in message for message in logs)
    with open_tiny_context(paths) as context:
        run(context)
    result = json.loads(paths.result.read_text())["data"]
    assert result["step"] == total
    assert result["wall_s"] < 30  # six seconds asked for, on a machine that may be busy
    assert sum("planned" in event.message for event in events_of(paths) if isinstance(event, Log)) == 1


def test_max_steps_limits_what_minutes_would_allow(data: Data, tmp_path: Path) -> None:
    # Two minutes are planned when six seconds are over; the steps of so small a model are through long before.
    for minutes, steps in ((0.05, 20), (2.0, 8), (2.0, 1)):
        paths = train(tmp_path / f"run-{minutes}-{steps}", data, max_minutes=minutes, max_steps=steps)
        assert 1 <= json.loads(paths.result.read_text())["data"]["step"] <= steps


def test_a_reduced_vocabulary_is_chosen_stored_and_reported(data: Data, tmp_path: Path) -> None:
    paths = train(tmp_path / "run", data, max_steps=4, draft={"vocab_size": 12})
    draft = load_draft(paths.draft, data.base)
    assert draft.vocab is not None and draft.vocab.size == 12
    ids = draft.vocab.ids.tolist()
    assert {0, STOP} <= set(ids) and ids == sorted(ids)  # the tokens of begin and end come first
    [share] = values(paths, "out_of_vocabulary")
    assert read_settings(paths.draft)["out_of_vocabulary"] == share
    assert 0 < share < 1
    assert values(paths, "eval/out_of_vocabulary")
    stopped = train(tmp_path / "again", data, max_steps=4, draft={"vocab_size": 12})
    assert torch.equal(load_draft(stopped.draft, data.base).vocab.ids, draft.vocab.ids)  # type: ignore[union-attr]


@pytest.mark.parametrize("reduced", [True, False])
def test_a_draft_of_another_tokenizer_is_noticed(data: Data, tmp_path: Path, reduced: bool) -> None:
    """The same weights with other words: a reduced vocabulary would stand for other tokens."""
    first = train(tmp_path / "first", data, max_steps=1, draft={"vocab_size": 12} if reduced else {})
    record = json.loads((first.draft / "config.json").read_text())
    record["hetspec"]["tokenizer_hash"] = "another"
    (first.draft / "config.json").write_text(json.dumps(record))
    options: dict[str, Any] = {"max_steps": 1, "draft": {"checkpoint": str(first.draft)}}
    if reduced:
        with pytest.raises(ModelError, match="trained with tokenizer another"):
            train(tmp_path / "second", data, **options)
        return
    logs = [e.message for e in events_of(train(tmp_path / "second", data, **options)) if isinstance(e, Log)]
    assert any("trained with tokenizer another" in message for message in logs)


def test_a_draft_that_reads_layers_needs_them_in_the_dataset(data: Data, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reads layers \[0, 1\] of the base; .* has none besides the final state"):
        train(tmp_path / "run", data, max_steps=1, algorithm={"name": "eagle3"})


def test_a_run_begins_from_the_draft_of_another(data: Data, tmp_path: Path) -> None:
    first = train(roots().runs / "first-run", data, max_steps=6)
    low: dict[str, Any] = {"max_steps": 1, "optimizer": {"lr": 1e-9, "warmup_steps": 0}, "eval_every": 1}
    for number, source in enumerate(["first-run", str(first.folder), str(first.draft)]):
        paths = train(tmp_path / f"run{number}", data, draft={"checkpoint": source}, **low)
        mine, theirs = load_file(paths.draft / "model.safetensors"), load_file(first.draft / "model.safetensors")
        assert all(torch.allclose(mine[name], tensor, atol=1e-6) for name, tensor in theirs.items())


def test_a_draft_of_the_base_s_last_layers_begins_there(data: Data, tmp_path: Path) -> None:
    low: dict[str, Any] = {"max_steps": 1, "optimizer": {"lr": 1e-9, "warmup_steps": 0}, "eval_every": 1}
    paths = train(tmp_path / "run", data, draft={"init": "base_last_layers"}, **low)
    last = data.base.decoder.layers[-1].mlp.up_proj.weight  # type: ignore[index, union-attr]
    stored = load_file(paths.draft / "model.safetensors")["layers.0.mlp.up_proj.weight"]
    assert torch.allclose(stored, last, atol=1e-6)


def test_the_published_draft_says_where_it_comes_from(data: Data, tmp_path: Path) -> None:
    paths = train(tmp_path / "run", data)
    facts = read_settings(paths.draft)
    best = [event for event in events_of(paths) if isinstance(event, CheckpointSaved) and event.best][-1]
    assert facts["base_fingerprint"] == data.base.fingerprint and facts["run_id"] == "run"
    assert facts["step"] == best.step and facts["accept_length"] == best.values["accept_length"]


def test_an_evaluation_dataset_is_what_is_evaluated(data: Data, tmp_path: Path) -> None:
    held = write_tiny_store(tmp_path / "held", data.base, samples=3, seed=8)
    paths = train(tmp_path / "run", data, max_steps=2, eval_dataset=str(held))
    facts = json.loads(paths.resolved.read_text())["training"]
    assert (facts["samples"], facts["held_out_samples"]) == (12, 3)


def test_without_held_out_samples_the_newest_draft_is_published(data: Data, tmp_path: Path) -> None:
    paths = train(tmp_path / "run", data, max_steps=5, eval_fraction=0.0)
    assert not values(paths, "eval/loss")
    newest = load_file(paths.checkpoints / "step-000005" / "draft" / "model.safetensors")
    assert all(
        torch.equal(newest[name], tensor) for name, tensor in load_file(paths.draft / "model.safetensors").items()
    )
    assert any("held out" in event.message for event in events_of(paths) if isinstance(event, Log))


def test_bfloat16_autocast_keeps_float32_weights_and_nearly_the_same_losses(data: Data, tmp_path: Path) -> None:
    exact = values(train(tmp_path / "exact", data, max_steps=6), "loss")
    AcceleratorState._reset_state(True)
    paths = train(tmp_path / "rounded", data, max_steps=6, precision="bfloat16")
    rounded = values(paths, "loss")
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.03)
    assert {tensor.dtype for tensor in load_file(paths.draft / "model.safetensors").values()} == {torch.float32}


def test_noise_changes_training_but_neither_targets_nor_evaluation(data: Data, tmp_path: Path) -> None:
    low: dict[str, Any] = {"max_steps": 2, "optimizer": {"lr": 1e-9, "warmup_steps": 0}, "eval_every": 1}
    clean = train(tmp_path / "clean", data, algorithm={"options": {"noise": 0.0}}, **low)
    noisy = train(tmp_path / "noisy", data, algorithm={"options": {"noise": 3.0}}, **low)
    assert values(clean, "loss") != values(noisy, "loss")
    assert values(clean, "eval/loss") == pytest.approx(values(noisy, "eval/loss"), rel=1e-5)


def test_metrics_reach_a_tracker(data: Data, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    paths = train(tmp_path / "run", data, max_steps=2, report_to=["tensorboard"])
    assert list((paths.folder / "trackers").rglob("events.out.tfevents.*"))
