"""Two GPUs of one machine: a dataset by two workers, and a training by two ranks over NCCL, as by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.paths import RunPaths
from hetspec_core.service import Workbench
from hetspec_core.spec import BaseSpec, DatasetSpec, DecodingSpec, ResourcesSpec, RunSpec, TreeSpec
from tests.fakes.tiny_base import make_tiny_base
from tests.fakes.tiny_models import ragged_prompts, tiny_draft
from tests.fakes.tiny_training import load_tiny_base, tiny_run_spec, write_tiny_base, write_tiny_store
from tests.integration.test_dataset_stage import assert_same_stores, dialogue, write_rows

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


def go(workbench: Workbench, spec: RunSpec, gpus: int) -> RunPaths:
    wanted = ResourcesSpec(device="cuda", dtype="float32", num_gpus=gpus)
    run_id = workbench.submit(spec.model_copy(update={"resources": wanted})).run_id
    workbench.start(run_id)
    assert workbench.wait(run_id, PATIENCE_S) == "succeeded", workbench.show(run_id).summary.error
    return workbench.paths(run_id)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_what_one_does(workbench: Workbench, data: tuple[BaseSpec, Path], strategy: str) -> None:
    base, store = data
    settings: dict[str, Any] = {"tokens_per_batch": 36, "max_steps": 6, "save_every": 6, "eval_every": 6}
    settings |= {"algorithm": {"options": {"noise": 0.0}}}
    one = go(workbench, tiny_run_spec(base, [store], gradient_accumulation=4, **settings), 1)
    two = go(workbench, tiny_run_spec(base, [store], gradient_accumulation=2, strategy=strategy, **settings), 2)
    mine, theirs = (load_file(paths.checkpoints / "step-000006/draft/model.safetensors") for paths in (one, two))
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=5e-3, atol=1e-3)


def test_two_gpus_make_the_dataset_that_one_makes(workbench: Workbench, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows.jsonl", [dialogue(number) for number in range(24)])
    dataset = DatasetSpec(source=source, max_length=256, tokens_per_batch=512, store_dtype="float32")
    spec = RunSpec(stage="dataset", base=make_tiny_base(tmp_path / "base"), dataset=dataset)
    one, two = go(workbench, spec, 1), go(workbench, spec, 2)
    assert_same_stores(open_store([one.folder]), open_store([two.folder]))


@pytest.mark.parametrize("tree", ["4/3/9", "4/1/4"])
def test_a_base_spread_over_two_gpus_decodes_as_on_one(data: tuple[BaseSpec, Path], tree: str) -> None:
    spec, _ = data
    whole = BaseLM.load(spec, device="cuda", dtype=torch.float32)
    budget = sum(parameter.numel() * 4 for parameter in whole.model.parameters())
    layer = sum(parameter.numel() * 4 for parameter in whole.model.get_decoder().layers[0].parameters())
    memory = {"0": f"{budget - layer // 2}", "1": f"{budget}"}  # one layer has to go
    apart = BaseLM.load(spec, device="cuda", dtype=torch.float32, max_memory=memory)
    held = {parameter.device.index for parameter in apart.model.parameters()}
    assert held == {0, 1}
    decoding = DecodingSpec(tree=TreeSpec.parse(tree), max_new_tokens=24)
    prompts = ragged_prompts((5, 9, 3), vocab=whole.vocab_size)
    texts = []
    for base in (whole, apart):
        drafted = generate(base, tiny_draft(base).to(base.device), prompts, decoding)
        plain = generate(base, None, prompts, decoding.model_copy(update={"plain": True}))
        assert [each.tokens for each in drafted] == [each.tokens for each in plain]
        texts.append([each.tokens for each in plain])
    assert texts[0] == texts[1]
