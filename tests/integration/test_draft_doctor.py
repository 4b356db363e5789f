"""The doctor of drafts: each property is broken on purpose, and the first that is wrong is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hetspec_core.catalog import list_cards
from hetspec_core.cli.main import main
from hetspec_core.engine.algorithms.eagle import FusionHead
from hetspec_core.engine.data.chat import ChatTemplate, tokenizer_hash
from hetspec_core.engine.data.hidden_states import HiddenStateWriter, Sample
from hetspec_core.engine.data.manifest import StoreIdentity
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.stages.draft_doctor import examine
from hetspec_core.engine.stages.draft_exchange import export_draft, import_draft, inspect
from hetspec_core.spec import AlgorithmSpec, DraftSpec
from tests.fakes.presets import write_preset
from tests.fakes.tiny_base import make_tiny_base

ALGORITHMS = [card.name for card in list_cards("algorithms")]
LAYERS = (0, 1)


class Ward:
    """A healthy pair and its dataset, from which copies are made to be broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = make_tiny_base(folder / "base", layers=3)
        self.base = BaseLM.load(self.spec, device="cpu", dtype=torch.float32)
        self.template = ChatTemplate.for_tokenizer(self.base.tokenizer)
        self.store = self.write_store(folder / "store", self.base)

    @torch.no_grad()
    def write_store(self, folder: Path, base: BaseLM, *, final_norm: bool = True, **identity: Any) -> Path:
        about = {
            "base_fingerprint": base.fingerprint,
            "tokenizer_hash": tokenizer_hash(base.tokenizer),
            "template_hash": self.template.hash,
            "hidden_size": base.hidden_size,
            "vocab_size": base.vocab_size,
            "layers": LAYERS,
            "norm": "after_final_norm",
            "dtype": "float32",
        }
        with HiddenStateWriter(folder, StoreIdentity(**about | identity), about={}, shard_bytes=1 << 20) as writer:
            for number in range(2):
                ids = torch.randint(3, base.vocab_size, (1, 14 + number))
                output = base.forward(ids, layers=(*LAYERS, base.num_layers - 1))
                hidden = output.hidden if final_norm else output.layers[base.num_layers - 1]
                mask = torch.arange(ids.shape[1]) > 4
                layers = {layer: output.layers[layer][0].clone() for layer in writer.manifest.identity.layers}
                writer.add(Sample(f"s{number}", ids[0].int(), mask, hidden[0].clone(), layers))
        return folder

    def draft(self, folder: Path, algorithm: str = "eagle", *, vocab: torch.Tensor | None = None, **facts: Any) -> Path:
        sizes = self.spec.architecture.model_copy(update={"num_hidden_layers": 1})
        size = None if vocab is None else len(vocab)
        spec = DraftSpec(name="tiny", architecture=sizes, vocab_size=size)
        options = {"layers": "0,1"} if algorithm == "eagle3" else {}
        chosen = AlgorithmSpec(name=algorithm, options=options)
        made = build_draft(spec, chosen, self.base, vocab=vocab)
        known = {
            "base": self.base.name,
            "base_fingerprint": self.base.fingerprint,
            "tokenizer_hash": tokenizer_hash(self.base.tokenizer),
            "template_hash": self.template.hash,
        }
        save_draft(made, folder, algorithm=chosen, facts=known | facts)
        return folder


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("ward"))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {finding["name"]: finding["state"] for finding in answer["findings"]}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_healthy_draft_has_nothing_wrong(ward: Ward, tmp_path: Path, algorithm: str) -> None:
    answer = examine(ward.draft(tmp_path / "draft", algorithm), ward.spec, ward.store)
    assert answer["first"] is None and answer["ok"]
    assert set(states(answer).values()) == {"ok"}
    without = examine(tmp_path / "draft", ward.spec, None)
    assert without["ok"] and states(without)["hidden states"] == "not checked"
    if algorithm == "eagle3":
        assert any("own step 3" in finding["seen"] for finding in answer["findings"])


BROKEN: dict[str, tuple[str, Callable[[Ward, Path], object], str]] = {
    "nan": (
        "numbers",
        lambda ward, folder: change_tensors(folder, lambda t: t["fc.weight"].__setitem__((0, 0), float("nan"))),
        "fc.weight holds NaN",
    ),
    "another base": (
        "base",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(base_fingerprint="beef")),
        "fingerprint beef",
    ),
    "another tokenizer": (
        "tokenizer",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(tokenizer_hash="beef")),
        "the draft's is beef",
    ),
    "another template": (
        "chat template",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(template_hash="beef")),
        "the draft's is beef",
    ),
    "a vocabulary of another size": (
        "vocabulary",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(base_vocab_size=999)),
        "a vocabulary of 999",
    ),
    "layers outside the base": (
        "captured layers",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(captured_layers=[0, 3])),
        "reads layers [3]",
    ),
    "layers that were not stored": (
        "captured layers",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(captured_layers=[0, 2])),
        "without [2]",
    ),
    "a norm that is not there": (
        "norms",
        lambda ward, folder: change_config(folder, lambda c: c["hetspec"].update(skip_first_input_norm=False)),
        "skip_first_input_norm is False, and layers.0.input_layernorm.weight is not there",
    ),
    "a norm too many": (
        "norms",
        lambda ward, folder: change_tensors(folder, lambda t: t.update({"norm.weight": torch.ones(16)})),
        "skip_output_norm is True, and norm.weight is there",
    ),
    "a tensor of another shape": (
        "tensors",
        lambda ward, folder: change_tensors(folder, lambda t: t.update({"fc.weight": torch.zeros(16, 16)})),
        "fc.weight has shape [16, 16]",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named_first_with_what_to_do(ward: Ward, tmp_path: Path, name: str) -> None:
    wanted, break_it, seen = BROKEN[name]
    folder = ward.draft(tmp_path / "draft")
    break_it(ward, folder)
    first = examine(folder, ward.spec, ward.store)["first"]
    assert first is not None and first["name"] == wanted
    assert seen in first["seen"] and first["advice"]


def test_a_map_of_tokens_out_of_order_is_found_and_a_map_without_an_end_is_doubted(ward: Ward, tmp_path: Path) -> None:
    folder = ward.draft(tmp_path / "draft", vocab=torch.tensor([0, 5, 9, 40]))
    answer = examine(folder, ward.spec, ward.store)
    assert answer["ok"] and states(answer)["vocabulary"] == "doubtful"
    change_tensors(
        folder,
        lambda t: t.update(
            {k: v.flip(0).contiguous() for k, v in t.items() if v.ndim == 1 and not v.is_floating_point()}
        ),
    )
    first = examine(folder, ward.spec, ward.store)["first"]
    assert first["name"] == "vocabulary" and "not in order" in first["seen"]


def test_states_stored_before_the_final_norm_are_found(ward: Ward, tmp_path: Path) -> None:
    store = ward.write_store(tmp_path / "store", ward.base, final_norm=False)
    first = examine(ward.draft(tmp_path / "draft"), ward.spec, store)["first"]
    assert first["name"] == "hidden states" and "stored final state" in first["seen"]


def test_states_of_another_base_are_found(ward: Ward, tmp_path: Path) -> None:
    other = BaseLM.load(make_tiny_base(tmp_path / "base", seed=1, layers=3), device="cpu", dtype=torch.float32)
    store = ward.write_store(tmp_path / "store", other)
    first = examine(ward.draft(tmp_path / "draft"), ward.spec, store)["first"]
    assert first["name"] == "hidden states" and "fingerprint" in first["seen"]
    store = ward.write_store(tmp_path / "disguised", other, base_fingerprint=ward.base.fingerprint)
    first = examine(tmp_path / "draft", ward.spec, store)["first"]
    assert first["name"] == "hidden states" and "cosine" in first["seen"]


def test_a_training_forward_that_is_shifted_is_found(
    ward: Ward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, step = ward.draft(tmp_path / "draft"), FusionHead.step

    def unroll(self: FusionHead, backbone: Any, embedding: Any, features: Any, positions: Any, how: Any) -> Any:
        late = torch.roll(features, 1, dims=1)  # the feature of the token before: the usual mistake
        return (step(self, backbone, embedding, self.first_state(late), positions=positions),)

    monkeypatch.setattr(FusionHead, "unroll", unroll)
    first = examine(folder, ward.spec, ward.store)["first"]
    assert first["name"] == "training against decoding" and "first step" in first["seen"]


def test_a_copy_of_another_embedding_is_found(ward: Ward, tmp_path: Path) -> None:
    export_draft(ward.draft(tmp_path / "draft"), tmp_path / "theirs", "eagle")
    shutil.copytree(tmp_path / "theirs", tmp_path / "wrong")
    own = ward.base.ends.embedding.weight.detach().clone()
    change_tensors(tmp_path / "theirs", lambda t: t.update({"embed_tokens.weight": own.half()}))
    answer = examine(tmp_path / "theirs", ward.spec, ward.store)
    assert answer["ok"] and states(answer)["embedding copies"] == "ok"
    assert any("embed_tokens.weight is the base's" in finding["seen"] for finding in answer["findings"])
    change_tensors(tmp_path / "wrong", lambda t: t.update({"embed_tokens.weight": own.flip(0).contiguous()}))
    first = examine(tmp_path / "wrong", ward.spec, ward.store)["first"]
    assert first["name"] == "embedding copies" and "differs from the base's" in first["seen"]


def test_a_copy_that_differs_in_a_few_rows_is_doubted_and_told_at_import(ward: Ward, tmp_path: Path) -> None:
    export_draft(ward.draft(tmp_path / "draft"), tmp_path / "theirs", "eagle")
    own = ward.base.ends.embedding.weight.detach().clone()
    own[3] *= 1.5
    rows = len(own)
    change_tensors(tmp_path / "theirs", lambda t: t.update({"embed_tokens.weight": own}))
    told = import_draft(tmp_path / "theirs", tmp_path / "ours", ward.spec)
    assert (
        f"in 1 of {rows} rows" in told["warnings"][0]
        and f"in 1 of {rows} rows" in told["dropped"]["embed_tokens.weight"]
    )
    assert inspect(tmp_path / "theirs", ward.spec)["warnings"] == told["warnings"]
    assert "no base is named" in inspect(tmp_path / "theirs")["dropped"]["embed_tokens.weight"]
    answer = examine(tmp_path / "theirs", ward.spec, ward.store)
    few = rows >= 100
    assert states(answer)["embedding copies"] == ("doubtful" if few else "wrong") and answer["ok"] == few


def test_a_copy_that_is_the_bases_is_said_to_be_so(ward: Ward, tmp_path: Path) -> None:
    export_draft(ward.draft(tmp_path / "draft"), tmp_path / "theirs", "eagle")
    own = ward.base.ends.embedding.weight.detach().clone().bfloat16()
    change_tensors(tmp_path / "theirs", lambda t: t.update({"embed_tokens.weight": own}))
    told = import_draft(tmp_path / "theirs", tmp_path / "ours", ward.spec)
    assert told["warnings"] == [] and "is the base's (up to" in told["dropped"]["embed_tokens.weight"]


def test_the_command_says_the_first_fault_and_fails(
    ward: Ward, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    sizes = "\n".join(
        f"{key} = {json.dumps(value)}"
        for key, value in ward.spec.architecture.model_dump(exclude_none=True, exclude={"extra"}).items()
    )
    source = ward.spec.source.model_dump()
    write_preset(
        "base/tiny",
        f'summary = "tiny"\n[source]\nkind = "path"\npath = "{source["path"]}"\n[architecture]\n{sizes}\n'.replace(
            "True", "true"
        ),
    )
    folder = ward.draft(tmp_path / "draft")
    words = ["draft", "doctor", str(folder), "--base", "tiny", "--dataset", str(ward.store)]
    assert main(words) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    request.getfixturevalue("engine_here")  # one command by a process of its own is enough
    change_config(folder, lambda c: c["hetspec"].update(tokenizer_hash="beef"))
    assert main(words) != 0
    shown = capsys.readouterr().out
    assert "wrong first: tokenizer" in shown and "do this: use the tokenizer" in shown
    assert main([*words, "--json"]) != 0
    assert json.loads(capsys.readouterr().out)["first"]["name"] == "tokenizer"
