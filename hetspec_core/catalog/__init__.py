"""The catalogue: every interchangeable part by name, without importing any. See `card` for what a card says."""

from hetspec_core.catalog.card import AXES, Card
from hetspec_core.catalog.registry import BrokenEntry, broken, list_cards, load_card

__all__ = ["AXES", "BrokenEntry", "Card", "broken", "list_cards", "load_card"]
