"""Drafts whose layers share their norms, and drafts with the base's final norm: what every draft owes, they owe too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hetspec_core.config import resolve
from hetspec_core.engine.data.batches import Batch, make_batch
from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.stages.draft_doctor import examine
from hetspec_core.engine.stages.draft_exchange import export_draft, import_draft
from hetspec_core.engine.stages.train import run
from hetspec_core.errors import CheckpointError, ModelError, SpecError
from hetspec_core.paths import RunPaths
from hetspec_core.service.planning.parameters import count_draft
from hetspec_core.spec import BaseSpec, DecodingSpec, TreeSpec
from tests.fakes.tiny_base import make_tiny_base
from tests.fakes.tiny_models import algorithm_spec, draft_spec, ragged_prompts, tiny_base
from tests.fakes.tiny_training import (
    LAYERS,
    learn,
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    series,
    states_of,
    tiny_architecture,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)

TIES: dict[str, Any] = {"tie_layer_norms": True, "tie_output_norm": True, "skip_output_norm": False}
KINDS = [("eagle", "llama"), ("eagle", "gemma3"), ("eagle3", "qwen3"), ("latent", "qwen3-moe")]
every_kind = pytest.mark.parametrize(("algorithm", "backbone"), KINDS)


@pytest.fixture(scope="module")
def base_spec(tmp_path_factory: pytest.TempPathFactory) -> BaseSpec:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(base_spec: BaseSpec) -> BaseLM:
    base = load_tiny_base(base_spec)
    with torch.no_grad():  # a norm of ones would be tied to anything
        base.decoder.norm.weight.mul_(1 + torch.arange(base.hidden_size) / base.hidden_size)
    return base


@pytest.fixture(scope="module")
def batch(base: BaseLM, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    store = open_store([write_tiny_store(tmp_path_factory.mktemp("data") / "store", base, samples=4, layers=LAYERS)])
    return make_batch([store[index] for index in range(len(store))])


def tied(base: BaseLM, algorithm: str, backbone: str, *, layers: int = 3, **options: Any) -> DraftLM:
    spec = draft_spec(base, backbone, layers=layers, **(TIES | options))
    return build_draft(spec, algorithm_spec(algorithm), base, seed=3)


@every_kind
def test_it_learns_a_tiny_set_by_heart_and_its_ties_hold(
    base: BaseLM, batch: Batch, algorithm: str, backbone: str
) -> None:
    draft = tied(base, algorithm, backbone).train()
    final = draft.output_norm.weight.clone()
    probe = torch.randn(5, base.hidden_size)
    torch.testing.assert_close(draft.output_norm(probe), base.decoder.norm(probe), rtol=1e-4, atol=1e-4)
    history = learn(draft, batch, algorithm)
    assert history[-1] > 0.5 and history[-1] > history[0] + 0.2
    assert all(parameter.grad is not None for parameter in draft.trainable_parameters())
    assert torch.equal(draft.output_norm.weight, final)
    first, *others = draft.backbone.layers
    assert all(layer.post_attention_layernorm is first.post_attention_layernorm for layer in others)
    assert not torch.equal(first.post_attention_layernorm.weight, torch.ones_like(final))


@every_kind
def test_what_is_saved_is_loaded_with_its_ties(
    base: BaseLM, batch: Batch, tmp_path: Path, algorithm: str, backbone: str
) -> None:
    draft = tied(base, algorithm, backbone)
    save_draft(draft, tmp_path / "draft", algorithm=algorithm_spec(algorithm), facts={})
    again = load_draft(tmp_path / "draft", base)
    with torch.no_grad():
        mine, theirs = (each.logits(each(batch.tokens, states_of(each, batch))) for each in (draft, again))
    assert torch.equal(mine, theirs) and again.ties == draft.ties
    assert again.num_parameters == draft.num_parameters
    assert not again.output_norm.weight.requires_grad
    stored = load_file(tmp_path / "draft" / "model.safetensors")
    stored["layers.2.post_attention_layernorm.weight"] += 1
    save_file(stored, tmp_path / "draft" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.2\.post_attention_layernorm\.weight is tied to layers\.0"):
        load_draft(tmp_path / "draft", base)


@every_kind
def test_parameters_that_are_shared_are_counted_once(base: BaseLM, algorithm: str, backbone: str) -> None:
    for skip in (True, False):
        spec = draft_spec(base, backbone, layers=3, **(TIES | {"skip_first_input_norm": skip}))
        draft = build_draft(spec, algorithm_spec(algorithm), base)
        assert count_draft(spec, algorithm_spec(algorithm), base.hidden_size).total == draft.num_parameters
        own = build_draft(spec.model_copy(update={"tie_layer_norms": False}), algorithm_spec(algorithm), base)
        assert draft.num_parameters < own.num_parameters


@every_kind
def test_answers_are_the_bases_own(base: BaseLM, algorithm: str, backbone: str) -> None:
    prompts = ragged_prompts((5, 1, 9), vocab=base.vocab_size)
    settings: dict[str, Any] = {"max_new_tokens": 12, "ignore_eos": True}
    expected = [answer.tokens for answer in generate(base, None, prompts, DecodingSpec(**settings))]
    draft = tied(base, algorithm, backbone).eval().requires_grad_(False)
    answers = generate(base, draft, prompts, DecodingSpec(tree=TreeSpec.parse("4/3/20"), **settings))
    assert [answer.tokens for answer in answers] == expected


@pytest.mark.parametrize("algorithm", ["eagle", "eagle3"])
def test_a_stopped_training_goes_on_as_if_it_had_not_been_stopped(
    base_spec: BaseSpec, tmp_path: Path, algorithm: str
) -> None:
    store = write_tiny_store(tmp_path / "store", load_tiny_base(base_spec), samples=14, layers=LAYERS)
    draft = {"architecture": tiny_architecture(layers=2), **TIES}
    spec = tiny_run_spec(base_spec, [store], draft=draft, algorithm={"name": algorithm}, max_steps=8, save_every=3)

    def train(paths: RunPaths, *, until: int = 0) -> RunPaths:
        with open_tiny_context(paths) as context:
            steps, check = 0, context.check_cancelled

            def count() -> None:
                nonlocal steps
                steps += 1
                if steps == until:
                    raise KeyboardInterrupt
                check()

            context.check_cancelled = count  # type: ignore[method-assign]
            if until:
                with pytest.raises(KeyboardInterrupt):
                    run(context)
            else:
                run(context)
        return paths

    whole = train(make_run_folder(tmp_path / "whole", spec))
    parts = make_run_folder(tmp_path / "parts", spec)
    train(parts, until=5)
    train(parts)
    assert series(parts) == series(whole)
    mine, theirs = (load_file(paths.draft / "model.safetensors") for paths in (parts, whole))
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    name = "layers.{}.post_attention_layernorm.weight"
    assert torch.equal(mine[name.format(0)], mine[name.format(1)])


@pytest.mark.parametrize(
    ("layout", "algorithm", "ties"),
    [
        ("eagle", "eagle", {"tie_layer_norms": True}),
        ("eagle3", "eagle3", {"tie_output_norm": True}),
        ("speculators", "eagle3", {"tie_output_norm": True}),
    ],
)
def test_other_programs_read_it_because_every_norm_has_its_tensor(
    tmp_path: Path, layout: str, algorithm: str, ties: dict[str, Any]
) -> None:
    layers, base = 1 if algorithm == "eagle3" else 2, tiny_base(num_hidden_layers=6)
    draft = build_draft(draft_spec(base, layers=layers, **ties), algorithm_spec(algorithm), base, seed=3)
    save_draft(draft, tmp_path / "own", algorithm=algorithm_spec(algorithm), facts={})
    export_draft(tmp_path / "own", tmp_path / "out", layout)
    import_draft(tmp_path / "out", tmp_path / "back")
    again = load_draft(tmp_path / "back", base)
    assert not again.ties.layers and not again.ties.output  # the layout has no words for that
    tokens = torch.tensor(ragged_prompts((9,)))
    features = torch.randn(1, 9, base.hidden_size * max(1, len(draft.captured_layers)))
    with torch.no_grad():
        mine, theirs = (each.logits(each(tokens, each.first_state(features))) for each in (draft, again))
    assert torch.equal(mine, theirs)


def test_the_doctor_names_a_tie_to_another_base(tmp_path: Path) -> None:
    spec = make_tiny_base(tmp_path / "base")
    base = load_tiny_base(spec)
    draft = tied(base, "eagle", "llama", layers=2)
    save_draft(draft, tmp_path / "draft", algorithm=algorithm_spec("eagle"), facts={})
    assert examine(tmp_path / "draft", spec, None)["ok"]
    stored = load_file(tmp_path / "draft" / "model.safetensors")
    stored["norm.weight"] *= 2
    save_file(stored, tmp_path / "draft" / "model.safetensors")
    first = examine(tmp_path / "draft", spec, None)["first"]
    assert first is not None and "final norm, and this base has another" in first["seen"]
    record = json.loads((tmp_path / "draft" / "config.json").read_text())["hetspec"]
    assert record["tie_layer_norms"] is record["tie_output_norm"] is True


def test_a_norm_of_another_kind_is_not_put_in_its_place(base: BaseLM) -> None:
    for family in ("gpt2", "cohere"):
        with pytest.raises(ModelError, match=r"does not do what the base's .*Norm does"):
            tied(tiny_base(family), "eagle", "llama")
    tied(tiny_base("gemma"), "eagle", "llama")  # the same norm, written in another way
    with pytest.raises(ModelError, match="24 wide, the base's 32"):
        tied(base, "eagle", "llama", hidden=24)
    with pytest.raises(ModelError, match="no norm behind its last layer"):
        tied(base, "eagle", "llama", skip_output_norm=True)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"draft.tie_layer_norms": True}, "needs at least 2"),
        ({"draft.tie_output_norm": True}, "needs draft.skip_output_norm = false"),
        (
            {"draft.tie_output_norm": True, "draft.skip_output_norm": False, "draft.architecture.hidden_size": 192},
            "needs the base's hidden_size 576",
        ),
        (
            {
                "draft.tie_layer_norms": True,
                "draft.architecture.num_hidden_layers": 2,
                "training.strategy": "fsdp",
                "resources.num_gpus": 2,
            },
            "cuts up layer by layer",
        ),
    ],
)
def test_what_cannot_be_tied_is_said_before_anything_starts(options: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError) as error:
        resolve("smollm2-llama-eagle", stage="train", options=options)
    assert any("tie_" in problem and word in problem for problem in error.value.problems)
