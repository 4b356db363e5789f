"""The catalogue: every interchangeable part by name, without importing any. `card` says what a card holds.

The cards are the shipped ones and those that other packages register. Another package registers by an entry point of
the group `hetspec.cards` whose value is a Card, an iterable of Cards, or a function that returns one of these. A
package whose entry point fails is reported by `broken`; the others are listed all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from hetspec_core.catalog.card import AXES, Card
from hetspec_core.catalog.shipped import SHIPPED
from hetspec_core.errors import NotFoundError

__all__ = ["AXES", "GROUP", "BrokenEntry", "Card", "broken", "list_cards", "load_card", "reload"]

GROUP = "hetspec.cards"
_SHIPPED = {(card.axis, card.name): card for card in SHIPPED}


@dataclass(frozen=True)
class BrokenEntry:
    """An entry point that gave no usable card.

    Attributes:
        entry: `name = module:attribute` of the entry point.
        provider: the package it is in.
        reason: what went wrong.
    """

    entry: str
    provider: str
    reason: str


def list_cards(axis: str | None = None) -> tuple[Card, ...]:
    """Every card, or those of one axis, in the order of `AXES`, shipped ones first.

    Raises:
        NotFoundError: there is no such axis.
    """
    if axis is not None:
        _check_axis(axis)
    everything = (*SHIPPED, *_third_party()[0])
    return tuple(card for name in AXES if axis in (None, name) for card in everything if card.axis == name)


def load_card(axis: str, name: str) -> Card:
    """The card of this name. Nothing is imported for a shipped one, which is the common case.

    Raises:
        NotFoundError: no such axis, or no such card on it; says which is meant, if one is near.
    """
    _check_axis(axis)
    shipped = _SHIPPED.get((axis, name))
    if shipped is not None:
        return shipped
    cards = {card.name: card for card in list_cards(axis)}
    if name in cards:
        return cards[name]
    from hetspec_core.spec.decode import did_you_mean

    silent = "; ".join(f"{item.provider}: {item.reason}" for item in broken())
    raise NotFoundError(
        f"no card {name!r} on axis {axis}{did_you_mean(name, cards) or '; there are: ' + ', '.join(cards)}",
        hint=f"some registered packages could not be read: {silent}"
        if silent
        else f"see `hetspec-core catalog {axis}`",
    )


def broken() -> tuple[BrokenEntry, ...]:
    """Entry points of other packages that gave no usable card."""
    return _third_party()[1]


def reload() -> None:
    """Forget what other packages registered, so that the next question asks them again."""
    _third_party.cache_clear()


def _check_axis(axis: str) -> None:
    if axis not in AXES:
        from hetspec_core.spec.decode import did_you_mean

        raise NotFoundError(f"no axis {axis!r}{did_you_mean(axis, AXES) or '; there are: ' + ', '.join(AXES)}")


@cache
def _third_party() -> tuple[tuple[Card, ...], tuple[BrokenEntry, ...]]:
    cards: dict[tuple[str, str], Card] = {}
    faults: list[BrokenEntry] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda item: (item.name, item.value)):
        provider = entry.dist.name if entry.dist is not None else entry.module
        try:
            for card in _cards_of(entry):
                key = (card.axis, card.name)
                owner = _SHIPPED.get(key) or cards.get(key)
                if owner is not None:
                    raise ValueError(f"{card.axis}/{card.name} is registered by {owner.provider} already")
                cards[key] = replace(card, provider=provider)
        except Exception as error:  # code of others: whatever it raises may not stop the rest
            reason = f"{type(error).__name__}: {error}"
            faults.append(BrokenEntry(entry=f"{entry.name} = {entry.value}", provider=provider, reason=reason))
    return tuple(cards.values()), tuple(faults)


def _cards_of(entry: EntryPoint) -> tuple[Card, ...]:
    value = entry.load()
    if callable(value):
        value = value()
    cards = (value,) if isinstance(value, Card) else tuple(value) if isinstance(value, Iterable) else ()
    wrong = [type(card).__name__ for card in cards if not isinstance(card, Card)]
    if wrong or not cards:
        raise TypeError(f"gives {', '.join(wrong) or type(value).__name__}; needs one Card or several")
    return cards
