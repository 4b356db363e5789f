"""Layouts of other programs: what is written comes back as it was, what is read accounts for every tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hetspec_core.catalog import list_cards
from hetspec_core.engine.modeling.backbones import with_older_keys, without_older_keys
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft, read_draft
from hetspec_core.engine.stages.draft_exchange import export_draft, import_draft, inspect
from hetspec_core.errors import CheckpointError, ModelError, UsageError
from hetspec_core.spec import AlgorithmSpec
from tests.conftest import shared_path
from tests.fakes.tiny_drafts import VOCAB, edit, made, output, saved
from tests.fakes.tiny_models import draft_spec, tiny_base

FLAGS: dict[str, Any] = {"fc_norm": True, "norm_output": True, "norm_before_residual": True}


@pytest.fixture(scope="module")
def base() -> BaseLM:
    return tiny_base(num_hidden_layers=6)


WRITTEN = [
    ("eagle", "eagle", {}),
    ("eagle", "eagle", {"fusion_bias": False}),
    ("eagle3", "eagle3", {}),
    ("eagle3", "eagle3", FLAGS),
    ("speculators", "eagle3", {}),
    ("speculators", "eagle3", FLAGS),
]


def test_every_layout_that_can_be_written_is_tested() -> None:
    cards = {card.name for card in list_cards("layouts") if card.capabilities.get("writes")}
    assert cards == {layout for layout, _, _ in WRITTEN}


@pytest.mark.parametrize("vocab", [(), VOCAB])
@pytest.mark.parametrize(("layout", "algorithm", "options"), WRITTEN)
def test_what_is_exported_says_the_same_when_it_is_imported(
    tmp_path: Path, base: BaseLM, layout: str, algorithm: str, options: dict[str, Any], vocab: tuple[int, ...]
) -> None:
    draft = made(base, algorithm, vocab=vocab, options=options)
    source = saved(draft, tmp_path / "draft", algorithm, options)
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    told = export_draft(source, tmp_path / "out", layout)
    assert told["architecture"] and told["parameters"] >= draft.num_parameters
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    back = import_draft(tmp_path / "out", tmp_path / "back")
    assert back["layout"] == layout and back["algorithm"] == algorithm
    if layout == "eagle" and vocab:  # the layout keeps the tokens in a file of their own, for the server
        assert torch.load(tmp_path / "out" / "hot_token_ids.pt", weights_only=True).tolist() == list(vocab)
    again = load_draft(tmp_path / "back", base)
    assert torch.equal(output(again), output(draft))
    assert again.captured_layers == draft.captured_layers and again.vocab_size == draft.vocab_size
    loaded = load_draft(tmp_path / "out", base)  # without an import in between
    assert torch.equal(output(loaded), output(draft))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_export_in_another_type_is_rounded_and_nothing_else(tmp_path: Path, base: BaseLM, dtype: str) -> None:
    draft = made(base, "eagle3", vocab=VOCAB)
    export_draft(saved(draft, tmp_path / "draft", "eagle3"), tmp_path / "out", "eagle3", dtype)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    kinds = {name: tensor.dtype for name, tensor in stored.items()}
    assert kinds.pop("d2t") == torch.int64 and kinds.pop("t2d") == torch.bool
    assert set(kinds.values()) == {getattr(torch, dtype)}


# --- round trips


ROPES: list[dict[str, Any]] = [
    {"rope_theta": 500000.0},
    {"rope_theta": 10000.0},
    {
        "rope_theta": 250000.0,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_theta": 20000.0, "rope_type": "linear", "factor": 2.0},
]


@settings(deadline=None, max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    written=st.sampled_from(WRITTEN),
    family=st.sampled_from(["llama", "qwen3"]),
    rope=st.sampled_from(ROPES),
    vocab=st.sets(st.integers(0, 47), max_size=48),
    layers=st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True).map(sorted),
    seed=st.integers(0, 3),
)
def test_a_draft_comes_back_from_every_layout_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    base: BaseLM,
    written: tuple[str, str, dict[str, Any]],
    family: str,
    rope: dict[str, Any],
    vocab: set[int],
    layers: list[int],
    seed: int,
) -> None:
    layout, algorithm, options = written
    if algorithm == "eagle3":
        options = options | {"layers": ",".join(map(str, layers))}
    folder = tmp_path_factory.mktemp("trip")
    spec = draft_spec(base, family)
    table = {"rope_type": "default"} | rope
    sizes = spec.architecture.model_copy(
        update={"rope_theta": rope["rope_theta"], "extra": {**spec.architecture.extra, "rope_parameters": table}}
    )
    spec = spec.model_copy(update={"architecture": sizes})
    ids = torch.tensor(sorted(vocab)) if vocab and len(vocab) < 48 else None
    draft = build_draft(spec, AlgorithmSpec(name=algorithm, options=options), base, seed=seed, vocab=ids)
    saved(draft, folder / "own", algorithm, options)
    export_draft(folder / "own", folder / "out", layout)
    told = import_draft(folder / "out", folder / "back")
    for place in ("own", "out", "back"):
        again = load_draft(folder / place, base)
        assert again.captured_layers == draft.captured_layers
        assert again.vocab_size == draft.vocab_size
        assert (again.vocab is None) == (ids is None) and (ids is None or torch.equal(again.vocab.ids, ids))  # type: ignore[union-attr]
        assert again.config.rope_parameters == draft.config.rope_parameters
        assert torch.equal(output(again), output(draft))
        config = json.loads((folder / place / "config.json").read_text())
        assert older_rope(config.get("transformer_layer_config", config)) == rope | {"rope_type": table["rope_type"]}
    assert told["draft_vocab_size"] == draft.vocab_size == inspect(folder / "out")["draft_vocab_size"]
    before, after = (read_draft(folder / place).stored for place in ("own", "back"))
    assert before.tensors.keys() - {"fc.bias"} == after.tensors.keys() - {"fc.bias"}
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


def older_rope(config: dict[str, Any]) -> dict[str, Any]:
    """What a reader with transformers 4 takes the rotary embedding for."""
    scaling = config["rope_scaling"] or {"rope_type": "default"}
    return {"rope_theta": config["rope_theta"]} | scaling


@pytest.mark.parametrize("family", ["gemma3_text", "phi"])
def test_families_with_more_rotary_keys_have_them_too(family: str) -> None:
    from transformers import AutoConfig

    extra = {"partial_rotary_factor": 0.5} if family == "phi" else {"rope_theta": 5e5, "rope_local_base_freq": 7e3}
    config = AutoConfig.for_model(family, num_hidden_layers=1, **extra)
    written = with_older_keys(config.to_dict())
    assert {key: written[key] for key in extra} == extra
    assert AutoConfig.for_model(**written).rope_parameters == config.rope_parameters
    assert AutoConfig.for_model(**without_older_keys(written)).rope_parameters == config.rope_parameters


def test_a_configuration_of_transformers_4_keeps_its_rotary_keys(tmp_path: Path, base: BaseLM) -> None:
    export_draft(saved(made(base, "eagle"), tmp_path / "own", "eagle"), tmp_path / "out", "eagle")
    scaling = {"type": "linear", "factor": 4.0}

    def older(config: dict[str, Any]) -> None:
        del config["rope_parameters"]
        config.update(rope_theta=750000.0, rope_scaling=scaling)

    edit(tmp_path / "out", config=older)
    assert load_draft(tmp_path / "out", base).config.rope_parameters["rope_theta"] == 750000.0
    export_draft(tmp_path / "out", tmp_path / "again", "eagle")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["rope_theta"] == 750000.0 and config["rope_scaling"] == scaling


def test_rotary_keys_that_contradict_each_other_are_told(tmp_path: Path, base: BaseLM) -> None:
    export_draft(saved(made(base, "eagle"), tmp_path / "own", "eagle"), tmp_path / "out", "eagle")
    edit(tmp_path / "out", config=lambda config: config.update(rope_theta=1.5))
    assert "rope_theta says 1.5" in inspect(tmp_path / "out")["inferred"]["rope_theta"]


def test_an_export_under_a_name_of_hetspecs_own_class_is_read_back(tmp_path: Path, base: BaseLM) -> None:
    draft = build_draft(draft_spec(base, "qwen3"), AlgorithmSpec(name="eagle"), base, seed=1)
    export_draft(saved(draft, tmp_path / "own", "eagle"), tmp_path / "out", "eagle")
    assert inspect(tmp_path / "out")["layout"] == "eagle"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04 cut", "cannot be read"),
        (torch.tensor([3, 3]), "different tokens"),
        (torch.tensor([1, 48]), "different tokens"),
        (torch.tensor([-1, 4]), "different tokens"),
        (torch.tensor([1.5]), "no list of token ids"),
        (torch.zeros(2, 2, dtype=torch.int64), "no list of token ids"),
        (["text"], "cannot be read"),
        (Path("/"), "cannot be read"),
    ],
)
def test_a_broken_file_of_tokens_is_refused(tmp_path: Path, base: BaseLM, content: Any, word: str) -> None:
    export_draft(saved(made(base, "eagle", vocab=VOCAB), tmp_path / "own", "eagle"), tmp_path / "out", "eagle")
    file = tmp_path / "out" / "hot_token_ids.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(CheckpointError, match=word):
        read_draft(tmp_path / "out")


def test_a_list_of_tokens_by_frequency_is_a_vocabulary_too(tmp_path: Path, base: BaseLM) -> None:
    draft = made(base, "eagle", vocab=VOCAB)
    export_draft(saved(draft, tmp_path / "own", "eagle"), tmp_path / "out", "eagle")
    torch.save(list(reversed(VOCAB)), tmp_path / "out" / "hot_token_ids.pt")
    assert torch.equal(output(load_draft(tmp_path / "out", base)), output(draft))


# --- refusals


def test_a_target_is_never_overwritten_nor_inside_the_draft(tmp_path: Path, base: BaseLM) -> None:
    source = saved(made(base, "eagle"), tmp_path / "draft", "eagle")
    with pytest.raises(UsageError, match="exists"):
        export_draft(source, source, "eagle")
    with pytest.raises(UsageError, match="inside"):
        export_draft(source, source / "out", "eagle")


@pytest.mark.parametrize(
    ("algorithm", "changes", "layout", "word"),
    [
        ("latent", {}, "eagle", "latent"),
        ("eagle", {}, "eagle3", "algorithm eagle"),
        ("eagle3", {}, "eagle", "algorithm eagle3"),
        ("eagle", {"skip_output_norm": False}, "eagle", "norm behind"),
        ("eagle", {"skip_first_input_norm": False}, "eagle", "input norm"),
    ],
)
def test_what_a_layout_has_no_words_for_is_refused(
    tmp_path: Path, base: BaseLM, algorithm: str, changes: dict[str, Any], layout: str, word: str
) -> None:
    draft = build_draft(draft_spec(base, **changes), AlgorithmSpec(name=algorithm), base)
    with pytest.raises(ModelError, match=word):
        export_draft(saved(draft, tmp_path / "draft", algorithm), tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_a_layout_that_is_only_read_is_refused(tmp_path: Path, base: BaseLM) -> None:
    with pytest.raises(UsageError, match="origin"):
        export_draft(saved(made(base, "eagle"), tmp_path / "draft", "eagle"), tmp_path / "out", "origin")


def test_the_shared_draft_goes_in_and_out_unchanged(tmp_path: Path) -> None:
    folder = shared_path("models/smollm2-135m-eagle-quick")
    import_draft(folder, tmp_path / "own")
    export_draft(tmp_path / "own", tmp_path / "out", "eagle")
    first, last = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert first.keys() == last.keys() and all(torch.equal(first[name], last[name]) for name in first)
