"""Run folders of the dataset stage over a tiny base, and the comparison of the stores that they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hetspec_core.engine.context import open_context
from hetspec_core.engine.data.hidden_states import HiddenStateStore, open_store
from hetspec_core.engine.stages.dataset import run
from hetspec_core.events import read_events
from hetspec_core.spec import BaseSpec, DatasetSpec, ResourcesSpec, RunSpec
from hetspec_core.spec.run import to_toml


def dialogue(number: int, turns: int = 1) -> dict[str, Any]:
    said = []
    for turn in range(turns):
        said.append({"from": "human", "value": f"Question {number} of turn {turn}?"})
        said.append({"from": "gpt", "value": f"Answer {number}. " + "It goes on. " * (number % 5)})
    return {"id": str(number), "conversations": said}


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_run(folder: Path, base: BaseSpec, **dataset: Any) -> Path:
    spec = RunSpec(
        stage="dataset",
        base=base,
        dataset=DatasetSpec(**{"max_length": 256, "tokens_per_batch": 512, **dataset}),
        resources=ResourcesSpec(device="cpu", dtype="float32", num_threads=1),  # the same on every processor
    )
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text(to_toml(spec))
    return folder


def go(folder: Path) -> HiddenStateStore:
    with open_context(folder) as context:
        run(context)
    return open_store([folder])


def events(folder: Path) -> list[Any]:
    return read_events(folder / "events.jsonl")[0]


def by_id(store: HiddenStateStore) -> dict[str, Any]:
    return {store[number].id: store[number] for number in range(len(store))}


def assert_same_stores(one: HiddenStateStore, two: HiddenStateStore) -> None:
    mine, theirs = by_id(one), by_id(two)
    assert len(mine) == len(one), "a sample is there twice"
    assert mine.keys() == theirs.keys()
    for name, sample in mine.items():
        assert torch.equal(sample.input_ids, theirs[name].input_ids)
        assert torch.equal(sample.assistant_mask, theirs[name].assistant_mask)
        torch.testing.assert_close(sample.hidden, theirs[name].hidden, rtol=1e-3, atol=1e-3)
