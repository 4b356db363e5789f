"""A dataset made by several workers is the one that a lone worker makes, whoever of them is killed."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.engine.context import open_context
from hetspec_core.engine.data.hidden_states import HiddenStateWriter, open_store
from hetspec_core.engine.data.manifest import StoreIdentity
from hetspec_core.engine.data.shards import Sample
from hetspec_core.engine.data.shares import take_in
from hetspec_core.engine.run_folder import Share
from hetspec_core.engine.stages.dataset import run
from hetspec_core.errors import DataError
from hetspec_core.events import Log, Progress, Result, WorkerEnded, read_events
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import BaseSpec, DatasetSpec, ResourcesSpec, RunSpec
from tests.fakes.dataset_runs import assert_same_stores, dialogue, go, make_run, write_rows
from tests.fakes.tiny_base import make_tiny_base, make_word_tokenizer


@pytest.fixture(scope="module")
def base_spec(tmp_path_factory: pytest.TempPathFactory) -> BaseSpec:
    return make_tiny_base(tmp_path_factory.mktemp("base"))


def go_share(folder: Path, number: int, count: int) -> None:
    with open_context(folder, f"worker-{number}", share=Share(number, count)) as context:
        run(context)


@pytest.mark.slow
def test_three_workers_of_which_two_are_killed_make_what_one_makes(
    home: Path, tmp_path: Path, base_spec: BaseSpec
) -> None:
    rows = [{"turns": [f"Question {number}?", "And then?"]} for number in range(18)] + [{"prompt": "Question 3?"}]
    options: dict[str, Any] = {"answers": "base", "max_new_tokens": 8, "store_dtype": "float32", "layers": (0, 1)}
    options["source"] = write_rows(tmp_path / "rows.jsonl", rows)
    spec = RunSpec(
        stage="dataset",
        base=base_spec,
        dataset=DatasetSpec(**{"max_length": 256, "tokens_per_batch": 512, **options}),
        resources=ResourcesSpec(device="cpu", dtype="float32", num_threads=1, num_workers=3),
    )
    with Workbench(home, LocalExecutor("tests.fakes.falling_worker")) as workbench:
        run_id = workbench.submit(spec).run_id
        workbench.start(run_id)
        shown = list(workbench.watch(run_id))
        assert workbench.wait(run_id) == "succeeded", shown[-1]
        paths = workbench.paths(run_id)
    ended = [event for event in read_events(paths.desk)[0] if isinstance(event, WorkerEnded)]
    statuses = Counter((event.name, event.exit_status) for event in ended)
    assert statuses == {
        ("worker-0", 0): 2,  # its share, and the whole
        ("worker-0", -9): 1,  # when it put the shares together
        ("worker-1", -9): 1,
        ("worker-1", 0): 1,
        ("worker-2", 0): 1,
    }
    assert not paths.shares.exists()
    assert_same_stores(open_store([paths.folder]), go(make_run(tmp_path / "one", base_spec, **options)))
    records = [json.loads(line) for line in (paths.folder / "conversations.jsonl").read_text().splitlines()]
    assert len({(record["id"], record["turn"]) for record in records}) == len(records) == 37
    (result,) = [event.data for event in shown if isinstance(event, Result)]
    assert result["samples"] == 19 and result["workers"] == 3
    captured = [event for event in shown if isinstance(event, Progress) and event.task == "capture"]
    assert captured[-1].done == captured[-1].total == result["tokens"]
    assert sum("loading base" in event.message for event in shown if isinstance(event, Log)) == 3  # nothing twice


def test_shares_of_data_overlap_nowhere_and_a_run_taken_up_by_fewer_workers_makes_the_rest(
    tmp_path: Path, base_spec: BaseSpec
) -> None:
    rows = [dialogue(number) for number in range(20)] + [dialogue(7)]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    folder = make_run(tmp_path / "run", base_spec, source=source)
    go_share(folder, 0, 3)
    go_share(folder, 2, 3)
    made = [open_store([folder / "shares" / number]).ids for number in ("0", "2")]
    assert all(made) and not set(made[0]) & set(made[1])
    go_share(folder, 1, 2)  # another number of workers: what is there is not made again
    again = open_store([folder / "shares" / "1"]).ids
    assert again and not set(again) & {name for names in made for name in names}

    store = go(folder)  # makes what is missing, alone

    assert_same_stores(store, go(make_run(tmp_path / "one", base_spec, source=source)))
    assert not (folder / "shares").exists()
    result = next(event.data for event in read_events(folder / "events.jsonl")[0] if isinstance(event, Result))
    assert result["left_out"] == {"repeated word for word": 1}


def test_prompts_that_two_workers_write_are_those_of_one(tmp_path: Path) -> None:
    base_spec = make_tiny_base(tmp_path / "base", tokenizer=make_word_tokenizer())
    options: dict[str, Any] = {
        "source": "self",
        "answers": "base",
        "limit": 6,
        "max_new_tokens": 6,
        "generation_batch": 4,
        "prompt_sampling": {"temperature": 3.0, "seed": 1},
    }
    one = go(make_run(tmp_path / "one", base_spec, **options))
    folder = make_run(tmp_path / "two", base_spec, **options)

    workers = [threading.Thread(target=go_share, args=(folder, number, 2)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    two = go(folder)

    assert sorted(one.ids) == sorted(two.ids) and len(two) == 6
    attempts = [json.loads(line)["attempt"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert len(set(attempts)) == len(attempts)


def sample(number: int) -> Sample:
    hidden = torch.full((4, 2), float(number))
    return Sample(f"{number:032x}", torch.arange(4, dtype=torch.int32), torch.ones(4, dtype=torch.bool), hidden)


def test_a_store_takes_in_others_once_and_only_what_it_lacks(tmp_path: Path) -> None:
    identity = StoreIdentity(
        base_fingerprint="b",
        tokenizer_hash="t",
        template_hash="t",
        hidden_size=2,
        vocab_size=9,
        layers=(),
        dtype="float32",
    )
    for name, numbers in (("a", (1, 2)), ("b", (2, 3)), ("c", (4,))):
        with HiddenStateWriter(tmp_path / name, identity, about={}) as writer:
            for number in numbers:
                writer.add(sample(number))
    with HiddenStateWriter(tmp_path / "all", identity, about={}) as writer:
        assert take_in(writer, [tmp_path / name for name in "abc"]) == 4
        assert take_in(writer, [tmp_path / name for name in "abc"]) == 0
    store = open_store([tmp_path / "all"])
    assert {store[index].id: float(store[index].hidden[0, 0]) for index in range(4)} == {
        f"{number:032x}": float(number) for number in (1, 2, 3, 4)
    }
    other = identity.model_copy(update={"norm": "none"})
    with HiddenStateWriter(tmp_path / "other", other, about={}) as writer, pytest.raises(DataError, match="norm"):
        take_in(writer, [tmp_path / "a"])
