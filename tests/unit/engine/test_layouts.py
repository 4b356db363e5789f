"""Layouts of other programs: what is written comes back as it was, what is read accounts for every tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hetspec_core.catalog import list_cards
from hetspec_core.engine.modeling.backbones import with_older_keys, without_older_keys
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft, read_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.stages.draft_exchange import export_draft, import_draft, inspect
from hetspec_core.errors import CheckpointError, HetSpecError, ModelError, UsageError
from hetspec_core.spec import AlgorithmSpec
from tests.conftest import shared_path
from tests.fakes.tiny_models import draft_spec, ragged_prompts, tiny_base

VOCAB = (0, 3, 5, 6, 11, 40)
FLAGS: dict[str, Any] = {"fc_norm": True, "norm_output": True, "norm_before_residual": True}


@pytest.fixture(scope="module")
def base() -> BaseLM:
    return tiny_base(num_hidden_layers=6)


def made(
    base: BaseLM, algorithm: str, *, vocab: tuple[int, ...] = (), options: dict[str, Any] | None = None
) -> DraftLM:
    ids = torch.tensor(vocab) if vocab else None
    return build_draft(draft_spec(base), AlgorithmSpec(name=algorithm, options=options or {}), base, seed=5, vocab=ids)


def saved(draft: DraftLM, folder: Path, algorithm: str, options: dict[str, Any] | None = None) -> Path:
    save_draft(draft, folder, algorithm=AlgorithmSpec(name=algorithm, options=options or {}), facts={"base": "tiny"})
    return folder


@torch.no_grad()
def output(draft: DraftLM) -> torch.Tensor:
    tokens = torch.tensor(ragged_prompts((9,)))
    width = draft.base_hidden_size * max(1, len(draft.captured_layers))
    features = torch.randn(1, 9, width, generator=torch.Generator().manual_seed(0))
    return draft.logits(draft(tokens, draft.first_state(features)))


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


# --- EAGLE-3 by hand


@pytest.fixture
def eagle3(tmp_path: Path, base: BaseLM) -> Path:
    export_draft(saved(made(base, "eagle3", vocab=VOCAB), tmp_path / "own", "eagle3"), tmp_path / "foreign", "eagle3")
    return tmp_path / "foreign"


def edit(folder: Path, *, config: Any = None, tensors: Any = None) -> None:
    if config:
        file = folder / "config.json"
        record = json.loads(file.read_text())
        config(record)
        file.write_text(json.dumps(record))
    if tensors:
        stored = load_file(folder / "model.safetensors")
        tensors(stored)
        save_file(stored, folder / "model.safetensors")


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
