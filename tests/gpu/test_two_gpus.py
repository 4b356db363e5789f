"""Two GPUs of one machine: a dataset by two workers, a training by two ranks over NCCL, and a pair spread over both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import place_draft
from hetspec_core.engine.modeling.device_map import Room, place_base
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events import Result, read_events
from hetspec_core.paths import RunPaths
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import BaseSpec, DatasetSpec, DecodingSpec, ResourcesSpec, RunSpec, TreeSpec
from tests.fakes.dataset_runs import assert_same_stores, dialogue, write_rows
from tests.fakes.tiny_base import make_tiny_base
from tests.fakes.tiny_models import ragged_prompts, tiny_base, tiny_draft, tiny_model
from tests.fakes.tiny_training import load_tiny_base, tiny_run_spec, write_tiny_base, write_tiny_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
PATIENCE_S = 300.0


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home) as bench:
        yield bench


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseSpec, Path]:
    folder = tmp_path_factory.mktemp("data")
    base = write_tiny_base(folder / "base")
    return base, write_tiny_store(folder / "store", load_tiny_base(base))


def go(workbench: Workbench, spec: RunSpec, gpus: int, **resources: Any) -> RunPaths:
    # Shared, because tests in this process have left contexts of their own on both GPUs.
    wanted = ResourcesSpec(device="cuda", dtype="float32", num_gpus=gpus, share_busy=True, **resources)
    run_id = workbench.submit(spec.model_copy(update={"resources": wanted})).run_id
    workbench.start(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
    paths = workbench.paths(run_id)
    if spec.stage != "generate":
        assert paths.log(f"worker-{gpus - 1}").is_file(), "there is not a worker on every GPU"
    return paths


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_what_one_does(workbench: Workbench, data: tuple[BaseSpec, Path], strategy: str) -> None:
    base, store = data
    settings: dict[str, Any] = {"tokens_per_batch": 36, "max_steps": 6, "save_every": 6, "eval_every": 6}
    settings |= {"algorithm": {"options": {"noise": 0.0}}}
    one = go(workbench, tiny_run_spec(base, [store], gradient_accumulation=4, **settings), 1)
    two = go(workbench, tiny_run_spec(base, [store], gradient_accumulation=2, strategy=strategy, **settings), 2)
    mine, theirs = (load_file(paths.checkpoints / "step-000006/draft/model.safetensors") for paths in (one, two))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=5e-3, atol=2e-3)  # Adam makes much of small gradients


def test_two_gpus_make_the_dataset_that_one_makes(workbench: Workbench, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(number) for number in range(24)])
    dataset = DatasetSpec(source=source, max_length=256, tokens_per_batch=512, store_dtype="float32")
    spec = RunSpec(stage="dataset", base=make_tiny_base(tmp_path / "base"), dataset=dataset)
    one, two = go(workbench, spec, 1), go(workbench, spec, 2)
    assert_same_stores(open_store([one.folder]), open_store([two.folder]))


@pytest.mark.parametrize("algorithm", ["eagle", "eagle3", "latent"])
@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("gemma3_text", True), ("qwen3_moe", False)])
def test_a_pair_spread_over_two_gpus_says_what_it_says_on_one(family: str, tied: bool, algorithm: str) -> None:
    decoding = DecodingSpec(max_new_tokens=16, ignore_eos=True, tree=TreeSpec.parse("3/2/5"))
    prompts = ragged_prompts((5, 9, 2))
    whole = tiny_base(family, tied=tied, num_hidden_layers=4)
    plain = [answer.tokens for answer in generate(whole, None, prompts, decoding)]
    layers = [sum(each.numel() * 4 for each in part.parameters()) for part in whole.decoder.layers]

    def pair(max_memory: dict[str, str]) -> tuple[BaseLM, DraftLM]:
        model, room = tiny_model(family, tied=tied, num_hidden_layers=4), Room(max_memory)
        devices = place_base(model, model.get_decoder(), room)
        assert {device.index for device in devices} == {int(index) for index in max_memory}
        base = BaseLM(model, None, name="tiny", fingerprint="tiny", room=room)
        draft = tiny_draft(whole, algorithm=algorithm, layers=2).bind(base)
        place_draft(draft, room)
        return base, draft

    told = {}
    for name, budgets in {"one": {"0": "1GiB"}, "two": {"0": "1GiB", "1": f"{layers[2] + layers[3]}"}}.items():
        base, draft = pair(budgets)
        told[name] = [answer.tokens for answer in generate(base, draft, prompts, decoding)]
    assert told["two"] == told["one"] == plain


def test_a_draft_whose_layers_lie_on_both_gpus_proposes_what_it_proposes_on_one() -> None:
    decoding = DecodingSpec(max_new_tokens=16, ignore_eos=True, tree=TreeSpec.parse("3/2/5"))
    prompts, whole = ragged_prompts((5, 9, 2)), tiny_base()
    here = tiny_draft(whole, layers=3)
    once = generate(whole, here, prompts, decoding)
    base_bytes = sum(each.numel() * 4 for each in whole.model.parameters())
    layer = sum(each.numel() * 4 for each in here.backbone.layers[1].parameters())
    ends = sum(each.numel() * 4 for each in here.parameters()) - 3 * layer
    base_layers = sum(each.numel() * 4 for each in whole.decoder.layers.parameters())
    room = Room({"0": f"{base_bytes - base_layers + ends + layer}", "1": f"{base_layers + 2 * layer}"})
    model = tiny_model()
    assert {device.index for device in place_base(model, model.get_decoder(), room)} == {1}
    base = BaseLM(model, None, name="tiny", fingerprint="tiny", room=room)
    draft = tiny_draft(whole, layers=3).bind(base)
    assert [device.index for device in place_draft(draft, room)] == [0, 1, 1]
    again = generate(base, draft, prompts, decoding)
    assert [answer.tokens for answer in again] == [answer.tokens for answer in once]
    assert [answer.steps for answer in again] == [answer.steps for answer in once]


def test_a_run_spread_by_max_memory_writes_the_text_of_one_gpu(workbench: Workbench, tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base", layers=4)
    store = write_tiny_store(tmp_path / "store", load_tiny_base(base))
    draft = {"architecture": base.architecture.model_copy(update={"num_hidden_layers": 1})}
    trained = go(workbench, tiny_run_spec(base, [store], max_steps=6, save_every=6, eval_every=6, draft=draft), 1)
    spec = RunSpec.model_validate(
        {
            "stage": "generate",
            "base": base.model_dump(),
            "draft": {"name": "tiny-draft", **draft, "checkpoint": str(trained.folder)},
            "decoding": {"max_new_tokens": 24, "ignore_eos": True},
            "prompts": ["What is the capital of France?", "Write a short story."],
        }
    )
    text = {}
    for gpus, budgets in ((1, {}), (2, {"0": "1GiB", "1": "75KB"})):
        paths = go(workbench, spec, gpus, max_memory=budgets)
        (result,) = [event for event in read_events(paths.events)[0] if isinstance(event, Result)]
        text[gpus] = [answer["tokens"] for answer in result.data["answers"]]
    assert text[2] == text[1] and all(len(tokens) == 24 for tokens in text[1])
