"""What a row format offers, and how the format of a dataset is found. It knows no single format."""

from __future__ import annotations

from typing import Any, Protocol

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.engine.data.conversation import Conversation

AUTO = "auto"


class RowFormat(Protocol):
    """One form of rows."""

    def matches(self, row: Any) -> bool:
        """Whether the row has the keys of this form. Cheap; the values may still be wrong."""
        ...

    def read(self, row: Any) -> Conversation:
        """The row as a conversation.

        Raises:
            RowError: it is not one; the message says why.
        """
        ...


def format_names() -> list[str]:
    """Every registered format."""
    return [card.name for card in list_cards("formats")]


def load_format(name: str) -> RowFormat:
    """The format with this name.

    Raises:
        NotFoundError: there is none.
    """
    return load_card("formats", name).load()()


def detect_format(row: Any) -> str | None:
    """Name of the first format that the row has the keys of; None when there is none."""
    return next((name for name in format_names() if load_format(name).matches(row)), None)
