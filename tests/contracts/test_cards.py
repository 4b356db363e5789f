"""Every card of every axis: what it names is there and can be used as its axis promises."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from hetspec_core.catalog import AXES, Card, list_cards
from hetspec_core.spec.decode import decode

CARDS = [pytest.param(card, id=f"{card.axis}/{card.name}") for card in list_cards()]
METHODS = {
    "formats": ("matches", "read"),
    "algorithms": ("loss",),
    "executors": ("with_variables", "launch", "look", "request_stop", "kill", "clear"),
    "backends": ("open", "facts", "use_draft", "encode", "text", "answer", "calibrate", "close"),
}


@pytest.mark.parametrize("card", CARDS)
def test_it_says_what_it_is(card: Card) -> None:
    assert card.summary.endswith(".") and 10 < len(card.summary) <= 110
    assert card.source or card.axis not in ("algorithms", "backbones"), "a method has a source"


@pytest.mark.parametrize("card", CARDS)
def test_its_part_can_be_imported_and_called(card: Card) -> None:
    part: Any = card.load()
    assert callable(part)
    missing = [name for name in METHODS.get(card.axis, ()) if not hasattr(part, name)]
    assert not missing, f"{card.target} lacks {missing}"


@pytest.mark.parametrize("card", [param for param in CARDS if param.values[0].options])
def test_its_options_describe_every_key_and_have_defaults(card: Card) -> None:
    model = card.options_model()
    assert model is not None and issubclass(model, BaseModel)
    options, problems = decode(model, {})
    assert options is not None, problems
    assert not [name for name, field in model.model_fields.items() if not field.description and not _is_spec(field)]


def _is_spec(field: Any) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def test_every_axis_has_a_card() -> None:
    assert {card.axis for card in list_cards()} == set(AXES)
