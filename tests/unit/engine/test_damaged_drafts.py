"""Drafts on disk that are damaged, foreign or too large: what is wrong is named, and nothing is loaded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from hetspec_core.engine.modeling import draft_files
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.stages.draft_exchange import export_draft, import_draft, inspect
from hetspec_core.errors import CheckpointError, HetSpecError, ModelError, ResourceError
from hetspec_core.spec import AlgorithmSpec
from tests.fakes.tiny_drafts import edit_config, edit_tensors
from tests.fakes.tiny_models import tiny_base, tiny_draft

ALGORITHM = AlgorithmSpec(options={"noise": 0.1})


@pytest.fixture
def base() -> BaseLM:
    return tiny_base()


@pytest.fixture
def saved(tmp_path: Path, base: BaseLM) -> Path:
    save_draft(tiny_draft(base), tmp_path / "draft", algorithm=ALGORITHM, facts={"step": 7})
    return tmp_path / "draft"


# --- damage


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_weights_are_refused(base: BaseLM, saved: Path, share: float) -> None:
    file = saved / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_draft(saved, base)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda t: t.pop("layers.0.mlp.up_proj.weight"), "up_proj.weight is missing"),
        (lambda t: t.update({"extra.weight": torch.zeros(2)}), "extra.weight has no place"),
        (lambda t: t.update({"fc.bias": torch.zeros(31)}), r"fc.bias has shape \[31\]"),
        (lambda t: t.pop("fc.weight"), "fc.weight"),
        (lambda t: t.update({"fc.weight": torch.zeros(32, 80)}), "fc.weight|feature"),
        (lambda t: t.update({"fc.weight": torch.zeros(32, 32)}), "fc.weight|feature"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    base: BaseLM, saved: Path, edit: Callable[[dict[str, torch.Tensor]], Any], named: str
) -> None:
    edit_tensors(saved, edit)
    with pytest.raises(CheckpointError, match=named):
        load_draft(saved, base)


def test_another_base_is_refused(saved: Path) -> None:
    with pytest.raises(ModelError, match="hidden size 32, base tiny-llama has 64"):
        load_draft(saved, tiny_base(hidden_size=64))
    with pytest.raises(ModelError, match="48 tokens, the base has 50"):
        load_draft(saved, tiny_base(vocab=50))


def test_a_reduced_vocabulary_of_another_base_is_refused(tmp_path: Path, base: BaseLM) -> None:
    save_draft(tiny_draft(base, vocab=(1, 47)), tmp_path / "draft", algorithm=ALGORITHM, facts={})
    with pytest.raises(ModelError, match="48 tokens, the base has 40"):
        load_draft(tmp_path / "draft", tiny_base(vocab=40))


@pytest.mark.parametrize("content", ["", "{", "[]", "42", "null", '"text"', "\x00", '{"model_type": "llama"}'])
def test_a_damaged_configuration_is_refused(base: BaseLM, saved: Path, content: str) -> None:
    (saved / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_draft(saved, base)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "no-such-family"},
        {"model_type": "bert"},
        {"model_type": 7},
        {"hidden_size": "wide"},
        {"hidden_size": 48},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 2},
        {"num_hidden_layers": "gone"},
        {"vocab_size": "many"},
        {"hetspec": "text"},
        {"hetspec": {"format_version": 99}},
        {"architectures": "gone", "hetspec": "gone"},
    ],
)
def test_a_configuration_that_does_not_hold_is_refused(base: BaseLM, saved: Path, changes: dict[str, Any]) -> None:
    edit_config(saved, **changes)
    with pytest.raises(HetSpecError):
        load_draft(saved, base)


def test_missing_files_are_named(tmp_path: Path, base: BaseLM, saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_draft(tmp_path / "nowhere", base)
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        load_draft(saved, base)


# --- numbers that no architecture has


@pytest.mark.parametrize(
    ("key", "number", "why"),
    [
        ("rms_norm_eps", "NaN", "not a finite number"),
        ("rope_parameters.rope_theta", "Infinity", "not a finite number"),
        ("rope_parameters.rope_theta", "-1e999", "not a finite number"),
        ("num_hidden_layers", "1" + "0" * 30, "beyond 64 bits"),
        ("num_hidden_layers", "1000000000", "must be from 0 to"),
        ("hidden_size", "1000000000000", "must be from 0 to"),
        ("intermediate_size", "-5", "must be from 0 to"),
        ("vocab_size", "4611686018427387904", "must be from 0 to"),
        ("hetspec.head.hidden_size", "1e300", "must be from 0 to"),
        ("hetspec.captured_layers", "[0, NaN]", "not a finite number"),
        ("rope_parameters.rope_theta", "-1", "must be above 0"),
        ("rope_theta", "0", "must be above 0"),
        ("rms_norm_eps", "-1e-6", "must not be negative"),
    ],
)
@pytest.mark.parametrize("use", [inspect, load_draft], ids=["inspect", "load"])
def test_a_number_that_no_architecture_has_is_refused_by_its_key(
    base: BaseLM, saved: Path, key: str, number: str, why: str, use: Any
) -> None:
    config = json.loads((saved / "config.json").read_text())
    *tables, last = key.split(".")
    table = config
    for name in tables:
        table = table[name]
    table[last] = "HERE"
    (saved / "config.json").write_text(json.dumps(config).replace('"HERE"', number))
    with pytest.raises(CheckpointError, match=rf"config\.json: {re.escape(key)} is .*{why}"):
        use(saved, *([base] if use is load_draft else []))


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"a":' * 200_000, '{"a": ' + "9" * 6000 + "}", "\xff"],
    ids=["list", "table", "digits", "byte"],
)
def test_a_configuration_that_no_reader_takes_is_one_sentence(base: BaseLM, saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json is not") as told:
        load_draft(saved, base)
    assert "\n" not in told.value.message and len(told.value.message) < 400


def test_a_configuration_that_is_a_pipe_is_not_waited_for(base: BaseLM, saved: Path) -> None:
    (saved / "config.json").unlink()
    os.mkfifo(saved / "config.json")
    with pytest.raises(CheckpointError, match="no regular file"):
        load_draft(saved, base)


def test_sizes_that_do_not_fit_the_tensors_are_found_before_memory_is_spent(base: BaseLM, saved: Path) -> None:
    edit_config(saved, intermediate_size=1 << 22, num_hidden_layers=64)  # some 100 GB in float32
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json"):
        load_draft(saved, base)


FOREIGN: dict[str, Any] = {"hetspec": "gone", "architectures": ["LlamaForCausalLMEagle"]}


@pytest.mark.parametrize(
    "changes",
    [
        FOREIGN | {"hidden_size": "wide"},
        FOREIGN | {"vocab_size": None},
        FOREIGN | {"vocab_size": 0},
        FOREIGN | {"architectures": "LlamaForCausalLMEagle3"},
        FOREIGN | {"architectures": {"a": 1}},
        FOREIGN | {"architectures": [7]},
        FOREIGN | {"eagle_config": 5},
        FOREIGN | {"draft_vocab_size": 9},
        FOREIGN | {"speculators_model_type": "eagle3", "transformer_layer_config": {"model_type": []}},
        FOREIGN | {"speculative_decoding_algorithm": [], "hidden_size": {}},
        {"hetspec": {"algorithm": "eagle"}},
        {"hetspec": {"head": {"base_size": "wide"}}},
        {"rope_parameters": 5},
        {"model_type": []},
    ],
)
def test_wrong_types_in_a_configuration_are_one_sentence(base: BaseLM, saved: Path, changes: dict[str, Any]) -> None:
    edit_config(saved, **changes)
    with pytest.raises(HetSpecError) as told:
        load_draft(saved, base)
    assert "\n" not in told.value.message


# --- weights that are no numbers, and files that are no weights


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_said_to_be_so(tmp_path: Path, base: BaseLM, saved: Path, bad: float) -> None:
    name = "layers.0.self_attn.q_proj.weight"
    edit_tensors(saved, lambda t: t[name].view(-1)[0].fill_(bad))
    for use in (
        lambda: load_draft(saved, base),
        lambda: import_draft(saved, tmp_path / "imported"),
        lambda: export_draft(saved, tmp_path / "exported", "eagle"),
    ):
        with pytest.raises(CheckpointError, match=rf"not finite: {name} holds NaN or infinity"):
            use()
    assert not (tmp_path / "imported").exists() and not (tmp_path / "exported").exists()
    assert name in inspect(saved)["warnings"][0]


def test_an_export_whose_numbers_do_not_fit_its_type_is_refused(tmp_path: Path, saved: Path) -> None:
    edit_tensors(saved, lambda t: t["fc.weight"].view(-1)[0].fill_(1e6))
    with pytest.raises(CheckpointError, match="as float16 are not finite"):
        export_draft(saved, tmp_path / "out", "eagle", "float16")
    export_draft(saved, tmp_path / "wider", "eagle", "bfloat16")


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": ["x"]}},
        {"weight_map": {"a": {"x": 1}}},
        {"weight_map": {"a": 5, "b": "c"}},
        {"weight_map": {"a": ""}},
        {"weight_map": {"a": ".."}},
        {"weight_map": {"a": "../../etc/passwd"}},
        {"weight_map": {"a": "x\x00y"}},
        {"weight_map": []},
        {"weight_map": None},
        {},
    ],
)
def test_an_index_with_wrong_types_is_one_sentence(base: BaseLM, saved: Path, index: dict[str, Any]) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="has no weight_map from tensors to names of files"):
        load_draft(saved, base)


@pytest.mark.parametrize("length", [1 << 62, 1 << 30, 90 << 20, 0])
def test_a_header_of_an_absurd_length_is_one_sentence(base: BaseLM, saved: Path, length: int) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    with pytest.raises(CheckpointError, match="cannot be read") as told:
        load_draft(saved, base)
    assert "\n" not in told.value.message


def test_a_full_disk_and_a_missing_place_are_told(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    (tmp_path / "file").touch()
    with pytest.raises(HetSpecError, match="the draft was not written"):
        import_draft(saved, tmp_path / "file" / "new")
    monkeypatch.setattr(draft_files, "save_file", full_disk)
    with pytest.raises(ResourceError, match="the draft was not written: the disk is full"):
        import_draft(saved, tmp_path / "new")
    assert not (tmp_path / "new").exists()
