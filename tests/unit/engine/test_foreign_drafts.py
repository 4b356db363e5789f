"""Drafts of other programs: every tensor, vocabulary and layer id is accounted for, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft, read_draft
from hetspec_core.engine.stages.draft_exchange import export_draft, import_draft, inspect
from hetspec_core.errors import CheckpointError, HetSpecError, ModelError
from hetspec_core.spec import AlgorithmSpec
from tests.fakes.tiny_drafts import VOCAB, edit, made, output, saved
from tests.fakes.tiny_models import draft_spec, tiny_base


@pytest.fixture(scope="module")
def base() -> BaseLM:
    return tiny_base(num_hidden_layers=6)


@pytest.fixture
def eagle3(tmp_path: Path, base: BaseLM) -> Path:
    export_draft(saved(made(base, "eagle3", vocab=VOCAB), tmp_path / "own", "eagle3"), tmp_path / "foreign", "eagle3")
    return tmp_path / "foreign"


# --- EAGLE-3 by hand


def test_maps_hold_offsets_and_layers_count_outputs(eagle3: Path) -> None:
    stored = load_file(eagle3 / "model.safetensors")
    assert (torch.arange(len(VOCAB)) + stored["d2t"]).tolist() == list(VOCAB)
    assert stored["t2d"].nonzero().flatten().tolist() == list(VOCAB)
    config = json.loads((eagle3 / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"] and config["draft_vocab_size"] == len(VOCAB)
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 2, 2]  # 2, N/2 and N-3 of six layers
    assert {"midlayer.hidden_norm.weight", "midlayer.self_attn.q_proj.weight", "norm.weight"} <= stored.keys()
    assert stored["midlayer.self_attn.q_proj.weight"].shape[1] == 2 * config["hidden_size"]


def test_layers_that_are_not_named_follow_from_the_depth_of_the_base(eagle3: Path, base: BaseLM) -> None:
    edit(eagle3, config=lambda c: c.pop("eagle_config"))
    with pytest.raises(ModelError, match="does not say which layers"):
        read_draft(eagle3)
    assert load_draft(eagle3, base).captured_layers == (2, 3, 3)


def test_names_of_modelopt_and_a_copy_of_the_embedding_are_taken(eagle3: Path, base: BaseLM) -> None:
    before = output(load_draft(eagle3, base))

    def as_modelopt(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("midlayer.")]:
            tensors[name.replace("midlayer.", "layers.0.")] = tensors.pop(name)
        del tensors["t2d"]
        tensors["embed_tokens.weight"] = torch.zeros(48, 32)

    edit(eagle3, tensors=as_modelopt)
    reading = read_draft(eagle3)
    assert "embedding" in reading.dropped["embed_tokens.weight"]
    assert torch.equal(output(load_draft(eagle3, base)), before)


def test_an_unsorted_vocabulary_is_sorted_with_its_rows(eagle3: Path, base: BaseLM) -> None:
    before = output(load_draft(eagle3, base))
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def shuffle(tensors: dict[str, torch.Tensor]) -> None:
        ids = (torch.arange(len(VOCAB)) + tensors["d2t"])[order]
        tensors["d2t"] = ids - torch.arange(len(VOCAB))
        tensors["lm_head.weight"] = tensors["lm_head.weight"][order].contiguous()

    edit(eagle3, tensors=shuffle)
    assert torch.equal(output(load_draft(eagle3, base)), before)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t.update(d2t=t["d2t"] + 48), "d2t"),
        (lambda t: t.update(d2t=torch.zeros(4, dtype=torch.int64)), "d2t"),
        (lambda t: t.update(t2d=~t["t2d"]), "contradict"),
        (lambda t: t.pop("d2t"), "no d2t"),
        (lambda t: t.pop("lm_head.weight"), "lm_head"),
        (lambda t: t.pop("midlayer.hidden_norm.weight"), "hidden_norm"),
        (lambda t: t.update({"midlayer.odd.weight": torch.zeros(2)}), r"layers\.0\.odd\.weight has no place"),
        (lambda t: t.update({"fc.weight": torch.zeros(32, 80)}), "fc.weight"),
        (lambda t: t.update({"embed_tokens.weight": torch.zeros(48, 16)}), "embedding of its own"),
    ],
)
def test_tensors_that_do_not_fit_are_named(eagle3: Path, base: BaseLM, change: Any, word: str) -> None:
    edit(eagle3, tensors=change)
    with pytest.raises(HetSpecError, match=word):
        load_draft(eagle3, base)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"speculators_model_type": "dflash"}, "dflash"),
        ({"norm_before_fc": True}, "norm_before_fc"),
        ({"embed_requires_grad": True}, "embedding"),
        ({"transformer_layer_config": None}, "transformer_layer_config"),
    ],
)
def test_speculators_that_need_more_than_there_is_are_refused(
    tmp_path: Path, base: BaseLM, change: dict[str, Any], word: str
) -> None:
    export_draft(saved(made(base, "eagle3"), tmp_path / "own", "eagle3"), tmp_path / "out", "speculators")
    edit(tmp_path / "out", config=lambda config: config.update(change))
    with pytest.raises(HetSpecError, match=word):
        read_draft(tmp_path / "out")


# --- what published configurations say in other ways


@pytest.mark.parametrize("layout", ["eagle", "eagle3", "speculators"])
def test_the_number_of_layers_follows_from_the_tensors(tmp_path: Path, base: BaseLM, layout: str) -> None:
    draft = made(base, "eagle" if layout == "eagle" else "eagle3")
    own = saved(draft, tmp_path / "own", "eagle" if layout == "eagle" else "eagle3")
    export_draft(own, tmp_path / "out", layout)

    def as_the_base(config: dict[str, Any]) -> None:
        config.get("transformer_layer_config", config).update(num_hidden_layers=40, layer_types=["full_attention"] * 40)

    edit(tmp_path / "out", config=as_the_base)
    told = import_draft(tmp_path / "out", tmp_path / "back")
    assert told["layers"] == 1 and "config.json says 40" in told["inferred"]["num_hidden_layers"]
    for place in ("out", "back"):
        assert torch.equal(output(load_draft(tmp_path / place, base)), output(draft))


@pytest.mark.parametrize(
    ("place", "shift"),
    [
        ("eagle_config.eagle_aux_hidden_state_layer_ids", 1),
        ("eagle_config.aux_hidden_state_layer_ids", 1),
        ("eagle_config.target_layer_ids", 1),
        ("eagle_aux_hidden_state_layer_ids", 0),
        ("aux_hidden_state_layer_ids", 0),
        ("target_layer_ids", 1),
    ],
)
@pytest.mark.parametrize("layout", ["eagle3", "speculators"])
def test_layer_ids_are_found_under_every_key(tmp_path: Path, base: BaseLM, layout: str, place: str, shift: int) -> None:
    draft = made(base, "eagle3", options={"layers": "1,3,5"})
    export_draft(saved(draft, tmp_path / "own", "eagle3", {"layers": "1,3,5"}), tmp_path / "out", layout)

    def move(config: dict[str, Any]) -> None:
        for key in ("eagle_config", "eagle_aux_hidden_state_layer_ids"):
            config.pop(key, None)
        table, name = (config.setdefault("eagle_config", {}), place[13:]) if "." in place else (config, place)
        table[name] = [layer - shift for layer in (1, 3, 5)]

    edit(tmp_path / "out", config=move)
    reading = read_draft(tmp_path / "out")
    assert reading.stored.settings["captured_layers"] == [1, 3, 5]
    assert place in reading.inferred["captured_layers"]
    assert torch.equal(output(load_draft(tmp_path / "out", base)), output(draft))


def test_empty_layer_ids_are_none_and_contradicting_ones_are_told(eagle3: Path, base: BaseLM) -> None:
    edit(eagle3, config=lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[]))
    assert load_draft(eagle3, base).captured_layers == (2, 3, 3)
    edit(eagle3, config=lambda c: c.update(target_layer_ids=[0, 1, 2], eagle_aux_hidden_state_layer_ids=[3, 4, 5]))
    told = inspect(eagle3)["inferred"]["captured_layers"]
    assert told.startswith("3, 4, 5") and "target_layer_ids would give 1, 2, 3" in told


@pytest.mark.parametrize("ids", ["1,2,3", [1, 2.5, 3], [1, -1, 3], [True, 1, 2], [[1]], 5, {"a": 1}, [1, 10**6, 2]])
def test_layer_ids_that_are_none_are_refused_by_name(eagle3: Path, ids: Any) -> None:
    edit(eagle3, config=lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=ids))
    with pytest.raises(CheckpointError, match=r"eagle_config\.eagle_aux_hidden_state_layer_ids"):
        read_draft(eagle3)


def test_a_layer_that_the_base_does_not_have_is_refused_before_it_is_read(eagle3: Path, base: BaseLM) -> None:
    edit(eagle3, config=lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[0, 1, 99]))
    with pytest.raises(ModelError, match=rf"reads layer 100 of its base; base .* has layers 0 .* to {base.num_layers}"):
        load_draft(eagle3, base)


def test_layer_ids_that_are_usual_in_the_other_count_are_doubted(eagle3: Path) -> None:
    edit(eagle3, config=lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[2, 16, 29]))
    reading = read_draft(eagle3, base_layers=32)
    assert reading.stored.settings["captured_layers"] == [3, 17, 30]
    assert "counted the other way they are the usual 2, 16, 29" in reading.warnings[0]
    assert not read_draft(eagle3, base_layers=40).warnings and not read_draft(eagle3).warnings
    edit(eagle3, config=lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[1, 15, 28]))
    assert not read_draft(eagle3, base_layers=32).warnings


def test_offsets_of_zero_are_a_whole_vocabulary(tmp_path: Path, base: BaseLM) -> None:
    draft = made(base, "eagle3")
    export_draft(saved(draft, tmp_path / "own", "eagle3"), tmp_path / "out", "eagle3")
    assert not load_file(tmp_path / "out" / "model.safetensors")["d2t"].any()
    for change in (lambda t: None, lambda t: t.pop("t2d")):
        edit(tmp_path / "out", tensors=change)
        told = inspect(tmp_path / "out")
        assert told["draft_vocab_size"] == told["base_vocab_size"] == 48 and "d2t" in told["dropped"]
        assert torch.equal(output(load_draft(tmp_path / "out", base)), output(draft))


def test_offsets_of_zero_for_a_reduced_vocabulary_need_a_second_witness(tmp_path: Path, base: BaseLM) -> None:
    first = tuple(range(6))  # a vocabulary that really is the first tokens
    draft = made(base, "eagle3", vocab=first)
    export_draft(saved(draft, tmp_path / "own", "eagle3"), tmp_path / "out", "eagle3")
    assert torch.equal(output(load_draft(tmp_path / "out", base)), output(draft))
    edit(tmp_path / "out", tensors=lambda t: t.pop("t2d"))
    with pytest.raises(CheckpointError, match=r"d2t in .* is all zeros, for 6 of 48 tokens"):
        read_draft(tmp_path / "out")


# --- the origin


def origin_model(draft: Path, folder: Path, *, algorithm: str = "EagleV2") -> Path:
    """A combined model as the origin saves it, from one of ours."""
    config = json.loads((draft / "config.json").read_text())
    del config["hetspec"]
    (folder / "draft_model").mkdir(parents=True)
    (folder / "draft_model" / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaDrafter"]}))
    tensors = {
        ("eagle_" + name if name.startswith("fc.") else name): tensor
        for name, tensor in load_file(draft / "model.safetensors").items()
    }
    torch.save(tensors, folder / "draft_model" / "states.pt")
    root = {
        "model_type": "llama",
        "hidden_size": 32,
        "vocab_size": 48,
        "speculative_decoding_base_model_path": "meta-llama/Llama-2-7b-chat-hf",
        "speculative_decoding_algorithm": algorithm,
        "speculative_decoding_draft_model": "draft_model",
        "draft_layers": 1,
        "skip_first_input_layernorm": True,
        "skip_output_norm": True,
        "auto_map": {"AutoModel": "remote.Code"},
    }
    (folder / "config.json").write_text(json.dumps(root))
    return folder


@pytest.mark.parametrize("place", [".", "draft_model"])
def test_the_origins_combined_models_are_read(tmp_path: Path, base: BaseLM, place: str) -> None:
    draft = made(base, "eagle")
    folder = origin_model(saved(draft, tmp_path / "own", "eagle"), tmp_path / "combined")
    told = inspect(folder / place)
    assert told["layout"] == "origin" and told["base"] == "meta-llama/Llama-2-7b-chat-hf"
    assert {each["from"] for each in told["tensors"]} >= {"eagle_fc.weight", "eagle_fc.bias"}
    assert torch.equal(output(load_draft(folder / place, base)), output(draft))


def test_a_checkpoint_of_the_origin_is_read_with_its_runs_file(tmp_path: Path, base: BaseLM) -> None:
    draft = made(base, "eagle")
    origin_model(saved(draft, tmp_path / "own", "eagle"), tmp_path / "combined")
    checkpoint = tmp_path / "stellar-monkey-97" / "checkpoint-500"
    checkpoint.mkdir(parents=True)
    (tmp_path / "combined" / "draft_model").rename(checkpoint / "draft_model")
    run = {
        "modeling.model_path": "some/base",
        "modeling.init_speculative_algorithm": "'EagleV2','dict(draft_layers=1)'",
    }
    (checkpoint.parent / "specforge_het.json").write_text(json.dumps(run))
    assert inspect(checkpoint / "draft_model")["base"] == "some/base"
    assert torch.equal(output(load_draft(checkpoint / "draft_model", base)), output(draft))


def test_what_the_origin_says_and_holds_must_agree(tmp_path: Path, base: BaseLM) -> None:
    folder = origin_model(saved(made(base, "eagle"), tmp_path / "own", "eagle"), tmp_path / "combined")
    edit(folder, config=lambda config: config.update(skip_output_norm=False))
    with pytest.raises(CheckpointError, match="skip_output_norm"):
        read_draft(folder)
    edit(folder, config=lambda config: config.update(speculative_decoding_algorithm="Experimental"))
    with pytest.raises(ModelError, match="Experimental"):
        read_draft(folder)


def test_experts_written_one_by_one_are_joined(tmp_path: Path, base: BaseLM) -> None:
    spec = draft_spec(base, "qwen3-moe")
    plain = spec.architecture.model_copy(update={"extra": {"initializer_range": 0.3}})  # experts as anybody's
    spec = spec.model_copy(update={"architecture": plain})
    draft = build_draft(spec, AlgorithmSpec(name="eagle"), base, seed=1)
    own = saved(draft, tmp_path / "own", "eagle")

    def apart(tensors: dict[str, torch.Tensor]) -> None:
        place = "layers.0.mlp.experts"
        joined, down = tensors.pop(f"{place}.gate_up_proj"), tensors.pop(f"{place}.down_proj")
        for number in range(6):
            gate, up = joined[number].chunk(2)
            tensors[f"{place}.{number}.gate_proj.weight"] = gate.contiguous()
            tensors[f"{place}.{number}.up_proj.weight"] = up.contiguous()
            tensors[f"{place}.{number}.down_proj.weight"] = down[number].contiguous()

    edit(own, tensors=apart)
    folder = origin_model(own, tmp_path / "combined")
    assert torch.equal(output(load_draft(folder, base)), output(draft))
