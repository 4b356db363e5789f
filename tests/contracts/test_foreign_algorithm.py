"""An algorithm of another package: a head, a loss, options and a card are all that it takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hetspec_core.catalog import load_card, reload
from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.decoding.decoder import generate
from hetspec_core.engine.modeling.checkpoint import build_draft, load_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.errors import CheckpointError
from hetspec_core.spec import AlgorithmSpec, DecodingSpec, TreeSpec
from tests.fakes.tiny_models import MASK, draft_spec, make_batch, ragged_prompts, tiny_base

CODE = '''
import torch
from hetspec_core.catalog import Card
from hetspec_core.engine.algorithms.losses import Algorithm, LossOutput
from hetspec_core.engine.modeling.draft_lm import DraftHead
from hetspec_core.spec import Spec
from pydantic import Field


class Options(Spec):
    layer: int = Field(default=1, description="The one layer of the base that is read.")

    def captured_layers(self, base_layers):
        return (self.layer,)


class AddingHead(DraftHead):
    """Adds embedding and state instead of fusing them, and reads another layer than the last."""

    def __init__(self, base_size, layer):
        super().__init__(base_size=base_size, layer=layer)
        self.scale = torch.nn.Parameter(torch.ones(base_size))

    @classmethod
    def build(cls, options, sizes):
        return cls(sizes.base_hidden_size, options.layer)

    @property
    def captured_layers(self):
        return (self.settings["layer"],)

    def base_features(self, output):
        return output.layers[self.settings["layer"]]

    def step(self, backbone, embedding, state, **where):
        return backbone(embedding + self.scale * state, **where)


class Hinge(Algorithm):
    parts = ("token_loss",)

    def __init__(self, options):
        self.options = options

    def judge(self, draft, batch, states, *, training):
        wrong = (draft.readout(states[0]) - batch.targets)[batch.mask].abs().mean(-1).sum()
        return LossOutput(wrong, batch.mask.sum(), {"token_loss": wrong.detach()})


card = Card(
    axis="algorithms", name="adding", target="foreign_algorithm:Hinge", options="foreign_algorithm:Options",
    summary="Adds what it reads.", capabilities={"head": "foreign_algorithm:AddingHead"}, source="nowhere",
)
'''
SPEC = AlgorithmSpec(name="adding", options={"layer": 0})


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    info = tmp_path / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hetspec.cards]\nadding = foreign_algorithm:card\n")
    (tmp_path / "foreign_algorithm.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    reload()
    yield
    reload()
    sys.modules.pop("foreign_algorithm", None)


@pytest.mark.usefixtures("installed")
def test_it_is_built_trained_stored_and_decoded_like_any_other(tmp_path: Path) -> None:
    base = tiny_base()
    draft = build_draft(draft_spec(base), SPEC, base)
    batch = make_batch(MASK)
    batch.layers[0] = torch.randn(*batch.features.shape)
    output = build_algorithm(SPEC).loss(draft, batch)
    output.total.backward()
    assert all(parameter.grad is not None for parameter in draft.parameters())
    save_draft(draft, tmp_path / "draft", algorithm=SPEC, facts={})
    loaded = load_draft(tmp_path / "draft", base)
    assert loaded.captured_layers == (0,) == load_card("algorithms", "adding").captured_layers(SPEC.options, 2)
    prompts, settings = ragged_prompts((6, 2)), DecodingSpec(tree=TreeSpec.parse("3/2/7"), max_new_tokens=12)
    answers = [[c.tokens for c in generate(base, each, prompts, settings)] for each in (loaded, None)]
    assert answers[0] == answers[1]


def test_without_its_package_a_draft_says_what_is_missing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    base = tiny_base()
    request.getfixturevalue("installed")
    save_draft(build_draft(draft_spec(base), SPEC, base), tmp_path / "draft", algorithm=SPEC, facts={})
    (tmp_path / "foreign-1.0.dist-info" / "entry_points.txt").unlink()
    reload()
    with pytest.raises(CheckpointError, match="no card 'adding' on axis algorithms"):
        load_draft(tmp_path / "draft", base)
