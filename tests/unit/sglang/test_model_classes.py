"""HetSpec's model classes for SGLang, their attention faked: they compute what the built-in engine computes."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from hetspec_core.catalog import load_card
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.errors import ModelError
from hetspec_core.sglang import export
from hetspec_core.sglang.export import served_draft
from hetspec_core.sglang.versions import Installed
from hetspec_core.spec import AlgorithmSpec, BaseSpec, DraftSpec
from tests.fakes.sglang_modules import Batch, install_modules
from tests.fakes.tiny_base import make_tiny_base

PREFIX, CHAIN = 5, 3
TREE = ((0, 0, 0), (1, 3), (2, 5))  # the parent of every node, by level; 0 is the last of the chain


@pytest.fixture(scope="module")
def base_spec(tmp_path_factory: pytest.TempPathFactory) -> BaseSpec:
    return make_tiny_base(tmp_path_factory.mktemp("base") / "base")


def make(folder: Path, base_spec: BaseSpec, family: str, options: dict[str, Any] | None, **more: Any) -> DraftLM:
    """A draft of random weights, saved; `options` None = EAGLE."""
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "model_type": family, "head_dim": 8}
    if options is not None:
        sizes |= {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40}
    architecture = base_spec.architecture.model_copy(update=sizes)
    spec = DraftSpec.model_validate({"name": "d", "backbone": family, "architecture": architecture, **more})
    algorithm = AlgorithmSpec() if options is None else AlgorithmSpec(name="latent", options=options)
    draft = build_draft(spec, algorithm, base)
    torch.manual_seed(1)
    for parameter in draft.trainable_parameters():
        parameter.data.normal_(std=0.2)
    save_draft(draft, folder, algorithm=algorithm, facts={})
    return load_draft(folder, base)


def serve(source: Path, base_spec: BaseSpec, exports: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> Any:
    """The class as SGLang would make it, out of the exported files, with the base's ends."""
    install_modules(monkeypatch)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    served = served_draft(source, base_spec, exports, Installed("0.5.17"))
    assert served.needs_package
    entry = importlib.import_module(f"hetspec_core.sglang.models.{module}").EntryClass
    assert entry.__name__ == served.architecture
    model = entry(AutoConfig.from_pretrained(served.folder))
    model.load_weights(load_file(served.folder / "model.safetensors").items())
    ends = BaseLM.load(base_spec, device="cpu", dtype=torch.float32).ends
    head = torch.nn.Parameter(ends.head.weight.detach())
    model.set_embed_and_head(torch.nn.Parameter(ends.embed(torch.arange(base_spec.architecture.vocab_size))), head)
    return model


def compare(draft: DraftLM, model: Any) -> dict[int, Any]:
    """A prefix at once, a chain token by token, then a tree level by level, each fed its parent's state."""
    generator = torch.Generator().manual_seed(2)
    width, vocabulary = draft.base_hidden_size, draft.config.vocab_size
    parents = [*range(-1, PREFIX + CHAIN - 1)]
    stages = [list(range(PREFIX)), *([PREFIX + number] for number in range(CHAIN))]
    for level in TREE:
        stages.append([*range(len(parents), len(parents) + len(level))])
        parents += [PREFIX + CHAIN - 1 + parent for parent in level]
    total = len(parents)
    mask = torch.eye(total, dtype=torch.bool)
    depth = [0] * total
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
            depth[node] = depth[parent] + 1
    tokens = torch.randint(vocabulary, (total,), generator=generator)
    positions = torch.tensor(depth)
    fed = torch.randn(total, width, generator=generator)
    found: dict[int, Tensor] = {}
    pool: dict[int, Any] = {}
    for stage in stages:
        if stage[0] >= PREFIX:
            fed[stage] = torch.stack([found[parents[node]] for node in stage])
        batch = Batch(fed[stage], mask[stage][:, : stage[-1] + 1], pool)
        _, states = model(tokens[stage], positions[stage], batch)
        found |= dict(zip(stage, states))
    with torch.no_grad():
        wanted = draft(tokens[None], fed[None], positions=positions[None], mask=mask[None, None])[0]
        # Rounding of sixteen layers and nine steps; states are of size 1, and a wrong neighbour moves them by as much.
        torch.testing.assert_close(torch.stack([found[node] for node in range(total)]), wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(wanted @ model.lm_head.weight.T, draft.logits(wanted), rtol=1e-4, atol=1e-4)
    return pool


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@pytest.mark.parametrize(
    ("options", "norms"),
    [
        ({"refinements": 2, "recurrences": 2, "repeats": 2, "latent_init": "learned"}, True),
        ({"refinements": 1, "recurrences": 3, "latent_init": "zeros"}, False),
    ],
)
def test_a_latent_draft_computes_in_sglang_what_it_computes_here(
    base_spec: BaseSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    options: dict[str, Any],
    norms: bool,
) -> None:
    draft = make(
        tmp_path / "d", base_spec, family, options, skip_first_input_norm=not norms, skip_output_norm=not norms
    )
    model = serve(tmp_path / "d", base_spec, tmp_path / "exports", monkeypatch, "latent_eagle")
    pool = compare(draft, model)
    passes = options["refinements"] * options["recurrences"] * options.get("repeats", 1)
    assert sorted(pool) == list(range(2 * passes))  # as many places as the exported configuration promises
    assert model.config.num_hidden_layers == 2 * passes
    # SGLang takes the attention of a captured prefill from this list, by the number of its layer.
    assert [layer.self_attn.attn.layer_id for layer in model.model.layers] == list(range(2 * passes))
    names = [name for name, _ in model.named_parameters() if "o_proj.weight" in name]
    assert names == [f"model.layers.{number}.self_attn.o_proj.weight" for number in range(2)]


def test_a_qwen3_draft_computes_in_sglang_what_it_computes_here(
    base_spec: BaseSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = make(tmp_path / "d", base_spec, "qwen3", None)
    compare(draft, serve(tmp_path / "d", base_spec, tmp_path / "exports", monkeypatch, "qwen3_eagle"))


def test_a_checkpoint_that_lacks_a_tensor_of_the_recurrence_is_an_error(
    base_spec: BaseSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "d", base_spec, "llama", {"latent_init": "learned"})
    model = serve(tmp_path / "d", base_spec, tmp_path / "exports", monkeypatch, "latent_eagle")
    file = next((tmp_path / "exports").glob("draft-*/model.safetensors"))
    tensors = load_file(file)
    with pytest.raises(ValueError, match=r"lacks model\.fc_init\.bias"):
        model.load_weights((name, tensor) for name, tensor in tensors.items() if name != "fc_init.bias")
    with pytest.raises(ValueError, match=r"has model\.layers\.2\.mlp"):
        model.load_weights([("layers.2.mlp.down_proj.weight", torch.zeros(1))])


def test_the_exported_configuration_is_as_wide_as_the_state_and_as_deep_as_the_passes(
    base_spec: BaseSpec, tmp_path: Path
) -> None:
    make(tmp_path / "d", base_spec, "llama", {"refinements": 2, "recurrences": 2})
    served = served_draft(tmp_path / "d", base_spec, tmp_path / "exports", Installed("0.5.17"))
    config = json.loads((served.folder / "config.json").read_text())
    assert config["hidden_size"] == base_spec.architecture.hidden_size
    assert config["hetspec_latent"]["hidden_size"] == 24
    assert (config["num_hidden_layers"], config["head_dim"]) == (8, 8)
    assert AutoConfig.from_pretrained(served.folder).hetspec_latent == config["hetspec_latent"]


@pytest.mark.parametrize(
    ("family", "options", "reason", "instead"),
    [
        ("llama", {"shift_latent": True}, "shifted latent", "shift_latent = false"),
        ("qwen2", {}, "no latent class for qwen2", "llama, mistral, qwen3"),
    ],
)
def test_a_latent_draft_that_cannot_be_served_is_refused_with_what_would_work(
    base_spec: BaseSpec, tmp_path: Path, family: str, options: dict[str, Any], reason: str, instead: str
) -> None:
    make(tmp_path / "d", base_spec, family, options)
    with pytest.raises(ModelError, match=f"SGLang cannot serve this draft: .*{reason}") as failure:
        served_draft(tmp_path / "d", base_spec, tmp_path / "exports", Installed("0.5.17"))
    assert instead in failure.value.hint


def test_the_card_of_the_algorithm_says_whether_and_how_its_drafts_are_exported(
    base_spec: BaseSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "d", base_spec, "qwen3", None)
    monkeypatch.setattr(export, "load_card", lambda axis, name: replace(load_card(axis, name), capabilities={}))
    with pytest.raises(ModelError, match="no class for drafts of algorithm eagle") as failure:
        served_draft(tmp_path / "d", base_spec, tmp_path / "exports", Installed("0.5.17"))
    assert failure.value.hint.endswith("drafts of eagle, eagle3, latent")
