"""Drafts on disk: what is saved comes back bit for bit, and what is damaged or foreign is named and refused."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetspec_core.engine.modeling import draft_files
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft, read_settings
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.errors import CheckpointError, ModelError
from hetspec_core.spec import AlgorithmSpec
from tests.conftest import shared_path
from tests.fakes.tiny_drafts import edit_config, edit_tensors, output
from tests.fakes.tiny_models import draft_spec, tiny_base, tiny_draft

ALGORITHM = AlgorithmSpec(options={"noise": 0.1})


@pytest.fixture
def base() -> BaseLM:
    return tiny_base()


@pytest.fixture
def saved(tmp_path: Path, base: BaseLM) -> Path:
    save_draft(tiny_draft(base), tmp_path / "draft", algorithm=ALGORITHM, facts={"step": 7})
    return tmp_path / "draft"


# --- round trips


@pytest.mark.parametrize("backbone", ["llama", "qwen3"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("vocab", [(), (0, 5, 6, 40)])
def test_what_is_saved_comes_back_bit_for_bit(
    tmp_path: Path, base: BaseLM, backbone: str, layers: int, vocab: tuple[int, ...]
) -> None:
    draft = tiny_draft(base, backbone, layers=layers, vocab=vocab)
    save_draft(draft, tmp_path / "draft", algorithm=ALGORITHM, facts={"base_fingerprint": "abc"})
    loaded = load_draft(tmp_path / "draft", base)
    assert loaded.state_dict().keys() == draft.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in draft.state_dict().items())
    assert torch.equal(output(draft), output(loaded))
    assert (loaded.vocab is None) == (not vocab)
    assert loaded.vocab is None or loaded.vocab.ids.tolist() == list(vocab)
    settings = read_settings(tmp_path / "draft")
    assert settings["base_fingerprint"] == "abc" and settings["algorithm"]["options"] == {"noise": 0.1}


@pytest.mark.parametrize("norms", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_way_a_draft_is_put_together_comes_back(
    tmp_path: Path, base: BaseLM, norms: tuple[bool, bool], bias: bool
) -> None:
    spec = draft_spec(base, skip_first_input_norm=norms[0], skip_output_norm=norms[1])
    draft = build_draft(spec, AlgorithmSpec(options={"fusion_bias": bias}), base, seed=3)
    save_draft(draft, tmp_path / "draft", algorithm=ALGORITHM, facts={})
    assert torch.equal(output(draft), output(load_draft(tmp_path / "draft", base)))


def test_numbers_can_be_stored_and_loaded_in_other_types(tmp_path: Path, base: BaseLM) -> None:
    draft = tiny_draft(base)
    save_draft(draft, tmp_path / "half", algorithm=ALGORITHM, facts={}, dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    rounded = load_draft(tmp_path / "half", base, dtype=torch.float32)
    for name, tensor in draft.state_dict().items():
        assert torch.equal(rounded.state_dict()[name], tensor.bfloat16().float())
    assert load_draft(tmp_path / "half", base, dtype=torch.bfloat16).head.fc.weight.dtype == torch.bfloat16


def test_saving_replaces_an_older_draft_and_leaves_nothing_else(saved: Path, base: BaseLM) -> None:
    (saved / "stale.txt").write_text("of the old one")
    other = tiny_draft(base, seed=9)
    save_draft(other, saved, algorithm=ALGORITHM, facts={})
    assert torch.equal(output(load_draft(saved, base)), output(other))
    assert [path.name for path in saved.parent.iterdir() if path.name != "home"] == ["draft"]
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_failing_to_save_keeps_the_older_draft(saved: Path, base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    before = output(load_draft(saved, base))

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(draft_files, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_draft(tiny_draft(base, seed=9), saved, algorithm=ALGORITHM, facts={})
    assert torch.equal(output(load_draft(saved, base)), before)
    assert [path.name for path in saved.parent.iterdir() if path.name != "home"] == ["draft"]


# --- new drafts


def test_seeds_make_drafts_and_leave_the_global_state_alone(base: BaseLM) -> None:
    state = torch.random.get_rng_state()
    first, same, other = (tiny_draft(base, seed=seed).head.fc.weight for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_starting_from_the_bases_last_layers() -> None:
    base = tiny_base(intermediate_size=48)
    draft = build_draft(draft_spec(base, init="base_last_layers"), AlgorithmSpec(), base)
    last, layer = base.decoder.layers[-1].state_dict(), draft.backbone.layers[0].state_dict()
    assert layer.keys() == last.keys() - {"input_layernorm.weight"}
    assert all(torch.equal(tensor, last[name]) for name, tensor in layer.items())
    embedding, features = torch.randn(1, 2, 32), torch.randn(1, 2, 32)
    assert torch.equal(draft.head(embedding, features), features)


@pytest.mark.parametrize(("backbone", "layers"), [("qwen3", 1), ("llama", 3)])
def test_the_bases_layers_must_fit(base: BaseLM, backbone: str, layers: int) -> None:
    with pytest.raises(ModelError, match="layers"):
        build_draft(draft_spec(base, backbone, layers=layers, init="base_last_layers"), AlgorithmSpec(), base)


# --- foreign layouts


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_authors_layout_is_loaded(tmp_path: Path, base: BaseLM, saved: Path, prefix: str) -> None:
    draft = load_draft(saved, base)
    folder = tmp_path / "eagle"
    folder.mkdir()
    tensors = {prefix + name: tensor for name, tensor in load_file(saved / "model.safetensors").items()}
    tensors[f"{prefix}embed_tokens.weight"] = torch.zeros(48, 32)
    torch.save(tensors, folder / "pytorch_model.bin")
    config = json.loads((saved / "config.json").read_text())
    del config["hetspec"]
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    assert torch.equal(output(load_draft(folder, base)), output(draft))


def test_the_shared_sglang_draft_fits_its_base() -> None:
    folder = shared_path("models/smollm2-135m-eagle-quick")
    base = tiny_base(vocab=49152, hidden_size=576, num_hidden_layers=1, num_attention_heads=9, num_key_value_heads=3)
    draft = load_draft(folder, base)
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(draft.head.fc.weight, stored["fc.weight"].float())
    assert len(draft.backbone.layers) == 1 and draft.backbone.config.rope_parameters["rope_theta"] == 100000.0
    assert draft.num_parameters == sum(t.numel() for name, t in stored.items() if "embed_tokens" not in name)


class Malice:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, base: BaseLM, saved: Path, how: str) -> None:
    (saved / "model.safetensors").unlink()
    edit_config(saved, hetspec="gone", architectures=["LlamaForCausalLM"])
    content = {"fc.weight": Malice(tmp_path / "owned")}
    save = torch.save if how == "torch" else partial(pickle.dump, protocol=2)
    with (saved / "pytorch_model.bin").open("wb") as file:
        save(content, file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_draft(saved, base)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02.", b"text"], ids=range(4))
def test_damaged_pickles_are_refused(base: BaseLM, saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_draft(saved, base)


def test_pickles_of_something_else_are_refused(base: BaseLM, saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    for content in ([torch.zeros(2)], {"fc.weight": "text"}, torch.zeros(3)):
        torch.save(content, saved / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="tensors by name"):
            load_draft(saved, base)


def test_other_algorithms_layouts_are_named(base: BaseLM, saved: Path) -> None:
    edit_config(saved, hetspec="gone", architectures=["LlamaForCausalLMEagle3"])
    with pytest.raises(CheckpointError, match="LlamaForCausalLMEagle3"):
        load_draft(saved, base)
    edit_config(saved, architectures=["LlamaForCausalLM"])  # a language model is no draft
    edit_tensors(saved, lambda t: t.pop("fc.weight"))
    with pytest.raises(CheckpointError, match=r"fc\.weight"):
        load_draft(saved, base)
