"""Loading the ends of a base: the same as from the whole base, and without reading anything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3Config

from hetspec_core.engine.modeling import base_lm
from hetspec_core.engine.modeling.base_lm import BaseLM, FrozenEnds, load_frozen_ends
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.partial_base import FINAL_NORMS
from hetspec_core.errors import ModelError
from hetspec_core.spec import Architecture, BaseSpec, PathSource
from tests.fakes.tiny_base import make_tiny_base, make_word_tokenizer
from tests.fakes.tiny_models import FAMILIES, HIDDEN, VOCAB, algorithm_spec, draft_spec, tiny_model

_IDS = torch.arange(VOCAB)
_PICTURES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


@pytest.fixture(autouse=True)
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokenizer for every family; transformers would convert a saved one into the family's own class."""
    monkeypatch.setattr(base_lm, "load_tokenizer", lambda _: make_word_tokenizer())


class _Slice:
    """A tensor of a file that notes when it is read."""

    def __init__(self, inner: Any, name: str, read: list[str]) -> None:
        self._inner, self._name, self._read = inner, name, read

    def __getitem__(self, index: Any) -> torch.Tensor:
        self._read.append(self._name)
        return self._inner[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that transformers reads from safetensors files, in their order."""
    from transformers import modeling_utils

    names: list[str] = []
    real = modeling_utils.safe_open

    class Spy:
        def __init__(self, *args: Any, **options: Any) -> None:
            self._file = real(*args, **options)

        def get_slice(self, name: str) -> _Slice:
            return _Slice(self._file.get_slice(name), name, names)

        def get_tensor(self, name: str) -> torch.Tensor:
            names.append(name)
            return self._file.get_tensor(name)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Spy:
            self._file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self._file.__exit__(*error)

    monkeypatch.setattr(modeling_utils, "safe_open", Spy)
    return names


def saved(model: Any, folder: Path, **options: Any) -> BaseSpec:
    """Save a model; the spec has its sizes."""
    model.save_pretrained(folder, **options)
    text = model.config.get_text_config()
    architecture = Architecture(
        model_type=text.model_type,
        hidden_size=text.hidden_size,
        intermediate_size=48,
        num_hidden_layers=text.num_hidden_layers,
        num_attention_heads=text.num_attention_heads,
        num_key_value_heads=2,
        vocab_size=text.vocab_size,
        max_position_embeddings=256,
    )
    return BaseSpec(name="tiny", source=PathSource(path=str(folder)), architecture=architecture)


def gemma3_with_pictures() -> Any:
    """A random Gemma 3 that reads pictures: its text model is two levels down, its head is tied."""
    text = FAMILIES["gemma3_text"] | {"vocab_size": VOCAB, "max_position_embeddings": 256, "sliding_window": 16}
    config = Gemma3Config(
        text_config=text | {"final_logit_softcapping": 3.0}, vision_config=_PICTURES, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def assert_same_ends(mine: FrozenEnds, theirs: FrozenEnds) -> None:
    hidden = torch.randn(3, theirs.hidden_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine.embed(_IDS), theirs.embed(_IDS))
    assert torch.equal(mine.logits(hidden), theirs.logits(hidden))
    assert (mine.softcap, mine.scale) == (theirs.softcap, theirs.scale)


def assert_same_layers(mine: nn.ModuleList, theirs: list[nn.Module]) -> None:
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        wanted = other.state_dict()
        assert one.state_dict().keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES])
def test_ends_and_last_layer_are_those_of_the_whole_base(
    family: str, tied: bool, tmp_path: Path, read: list[str]
) -> None:
    spec = saved(tiny_model(family, tied=tied), tmp_path)
    base, ends = load_frozen_ends(spec, device="cpu", dtype=torch.float32, last_layers=1)
    assert read and not any(re.search(r"\b(layers|h)\.0\.", name) for name in read)
    whole = BaseLM.load(spec, device="cpu", dtype=torch.float32)
    assert_same_ends(ends, whole.ends)
    assert (ends.embedding.weight is ends.head.weight) == tied
    assert (base.fingerprint, base.stop_ids, base.num_layers) == (whole.fingerprint, whole.stop_ids, whole.num_layers)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in base.model.parameters())
    if family != "gpt2":  # its layers have another name
        assert_same_layers(base.decoder.layers, list(whole.decoder.layers)[-1:])
    norm = next(name for name in FINAL_NORMS if hasattr(whole.decoder, name))
    assert torch.equal(getattr(base.decoder, norm).weight, getattr(whole.decoder, norm).weight)


def test_no_tensor_but_the_ends_and_the_final_norm_is_read_from_shards(tmp_path: Path, read: list[str]) -> None:
    spec = saved(tiny_model("llama", num_hidden_layers=6), tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    base, _ = load_frozen_ends(spec, device="cpu", dtype=torch.float32)
    assert sorted(read) == ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
    assert len(base.decoder.layers) == 0 and base.num_layers == 6


def test_a_base_that_reads_pictures_is_read_by_the_names_of_its_wrapper(tmp_path: Path, read: list[str]) -> None:
    spec = saved(gemma3_with_pictures(), tmp_path)
    _, ends = load_frozen_ends(spec, device="cpu", dtype=torch.float32)
    assert len(read) == 2 and {name.rpartition("language_model.")[2].removeprefix("model.") for name in read} == {
        "embed_tokens.weight",
        "norm.weight",
    }
    assert ends.softcap == 3.0
    assert_same_ends(ends, BaseLM.load(spec, device="cpu", dtype=torch.float32).ends)


def test_a_draft_cannot_start_from_layers_that_the_family_calls_otherwise(tmp_path: Path) -> None:
    base, _ = load_frozen_ends(saved(tiny_model("gpt2"), tmp_path), device="cpu", dtype=torch.float32, last_layers=1)
    with pytest.raises(ModelError, match="GPT2Model has no `layers`"):
        build_draft(draft_spec(base, init="base_last_layers"), algorithm_spec(), base)


def test_ends_are_read_in_the_type_that_is_asked_for(tmp_path: Path) -> None:
    spec = saved(tiny_model("qwen3").to(torch.bfloat16), tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        base, ends = load_frozen_ends(spec, device="cpu", dtype=dtype, last_layers=2)
        assert {parameter.dtype for parameter in base.model.parameters()} == {dtype}
        assert_same_layers(base.decoder.layers, list(BaseLM.load(spec, device="cpu", dtype=dtype).decoder.layers))
        assert ends.head.weight.dtype == dtype


def test_a_family_that_only_its_weights_can_survey_is_loaded_whole(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_tiny_base(tmp_path)
    monkeypatch.setattr(base_lm, "survey_config", lambda *_: None)
    base, ends = load_frozen_ends(spec, device="cpu", dtype=torch.float32, last_layers=1)
    assert any("layers.0" in name for name in read) and len(base.decoder.layers) == 1
    assert_same_ends(ends, BaseLM.load(spec, device="cpu", dtype=torch.float32).ends)


def test_a_damaged_file_is_refused_with_the_folder(tmp_path: Path) -> None:
    spec = make_tiny_base(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_frozen_ends(spec, device="cpu", dtype=torch.float32)


def test_an_error_without_a_message_is_reported_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    spec = make_tiny_base(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"could not be loaded: AssertionError \("):
        BaseLM.load(spec, device="cpu", dtype=torch.float32)
