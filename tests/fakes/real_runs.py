"""Runs of the real stages on a tiny base that take a few seconds and save often, and what must be true of them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import torch
from safetensors.torch import load_file

from hetspec_core.engine.context import open_context
from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.modeling.checkpoint import read_settings
from hetspec_core.engine.worker import stage_from_catalog
from hetspec_core.events.journal import DURABLE
from hetspec_core.paths import RunPaths
from hetspec_core.spec import BaseSpec, DatasetSpec, ResourcesSpec, RunSpec
from tests.fakes.tiny_base import make_tiny_base
from tests.fakes.tiny_training import load_tiny_base, series, tiny_run_spec, write_tiny_base, write_tiny_store

SAMPLES = 120
STEPS = 120
DURABLE_KINDS = (*(event.type for event in DURABLE), "worker_ended")


def write_rows(path: Path, count: int, *, words: int = 40) -> Path:
    """Conversations of different lengths, with answers."""
    with path.open("w") as file:
        for number in range(count):
            answer = " ".join(f"word{number + place}" for place in range(words + number % 7))
            said = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": said}) + "\n")
    return path


def dataset_run(base: BaseSpec, source: Path, *, max_length: int = 384) -> RunSpec:
    """A dataset run that closes a shard every megabyte."""
    return RunSpec(
        stage="dataset",
        name="states",
        base=base,
        dataset=DatasetSpec(
            source=str(source),
            max_length=max_length,
            tokens_per_batch=max_length,
            store_dtype="float32",
            shard_megabytes=1,
        ),
        resources=ResourcesSpec(device="cpu", dtype="float32", num_threads=1),
    )


def tiny_dataset_run(folder: Path) -> RunSpec:
    """About ten shards of a tiny base."""
    spec = dataset_run(make_tiny_base(folder / "base", hidden_size=64), write_rows(folder / "rows.jsonl", SAMPLES))
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"layers": (0, 1)})})


def tiny_shared_dataset_run(folder: Path) -> RunSpec:
    """The same, made by two workers, a share each."""
    spec = tiny_dataset_run(folder)
    return spec.model_copy(update={"resources": spec.resources.model_copy(update={"num_workers": 2})})


def tiny_train_run(folder: Path) -> RunSpec:
    """Some hundred steps of a tiny draft, with a checkpoint after every few."""
    base = write_tiny_base(folder / "base")
    store = write_tiny_store(folder / "store", load_tiny_base(base), samples=14)
    spec = tiny_run_spec(base, [store], max_steps=STEPS, log_every=1, save_every=7, eval_every=50)
    return spec.model_copy(update={"name": "draft"})


def work_here(paths: RunPaths) -> None:
    """Do what a worker does, in this process; what it raises comes through."""
    with open_context(paths.folder) as context:
        stage_from_catalog(context.spec.stage)(context)


def assert_same_outcome(paths: RunPaths, whole: RunPaths) -> None:
    """A run has the very result of one that was never disturbed."""
    if whole.hidden_states.is_dir():
        mine, theirs = open_store([paths.folder]), open_store([whole.folder])
        assert len(mine.ids) == len(set(mine.ids)), "a sample is there twice"
        assert set(mine.ids) == set(theirs.ids), "a sample is lost"
        place = {name: number for number, name in enumerate(theirs.ids)}
        for number, name in enumerate(mine.ids):
            one, other = mine[number], theirs[place[name]]
            assert torch.equal(one.input_ids, other.input_ids)
            torch.testing.assert_close(one.hidden, other.hidden, rtol=1e-3, atol=1e-3)
    else:
        mine, theirs = series(paths), series(whole)
        assert set(mine) == set(theirs), f"lost or left over: {sorted(set(mine) ^ set(theirs))[:6]}"
        differing = {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key]}
        assert not differing, f"{len(differing)} differ, the first at {min(differing)}: {differing[min(differing)]}"
        mine_, theirs_ = (load_file(where.draft / "model.safetensors") for where in (paths, whole))
        differ = [name for name, tensor in theirs_.items() if not torch.equal(mine_[name], tensor)]
        steps = [read_settings(where.draft)["step"] for where in (paths, whole)]
        assert not differ, f"the drafts of steps {steps} differ in {differ}"


def progress_on_disk(paths: RunPaths) -> int:
    """How many shards or checkpoints there are."""
    shards = list(paths.hidden_states.glob("shard-*.safetensors"))
    return len(shards) + len(list(paths.checkpoints.glob("step-*")))


def copy_torn(source: Path, target: Path, chance: random.Random) -> None:
    """Copy a folder file by file while it is being written, and tear what a power cut may tear.

    What was forced to disk is whole after a power cut: files that got their names afterwards, and journals up to the
    last line that was. The newest of the rest, lines, logs and unfinished files, are cut at a random byte. Journals are
    copied last: a checkpoint is never on a disk before the lines that it stands for.
    """
    copied: list[tuple[float, Path, int]] = []
    found = [Path(folder, name) for folder, _, names in os.walk(source) for name in sorted(names)]
    for path in sorted(found, key=lambda path: path.suffix == ".jsonl"):
        place, parts = target / path.relative_to(source), path.relative_to(source).parts
        try:
            time, content = path.stat().st_mtime, path.read_bytes()
        except FileNotFoundError:  # it got its name, or was cleared away, meanwhile
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        if path.suffix in (".jsonl", ".log") or any(part.startswith(".") for part in parts):
            copied.append((time, place, durable_bytes(content) if path.suffix == ".jsonl" else 0))
    for _, place, kept in sorted(copied, reverse=True)[: chance.randint(1, 3)]:
        content = place.read_bytes()
        place.write_bytes(content[: chance.randint(kept, len(content))] + chance.choice([b"", b"\0" * 20]))


def durable_bytes(content: bytes) -> int:
    """Length of a journal up to the last line that was forced to disk."""
    kept = end = 0
    for line in content.splitlines(keepends=True):
        end += len(line)
        if line.endswith(b"\n") and _kind(line) in DURABLE_KINDS:
            kept = end
    return kept


def _kind(line: bytes) -> str:
    try:
        return json.loads(line).get("type", "")
    except (ValueError, AttributeError):
        return ""
