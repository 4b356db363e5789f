"""One field of a form as it is shown. It knows text only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FormRow:
    """One field as it is shown.

    Attributes:
        key: by which messages name it; also searched.
        title: how it is called here.
        section: the heading that it stands under.
        kind: how it is edited: bool (toggled), pick (the owner opens a list), fixed (the owner says why it is not), or
            anything else (a line of text).
        text: its value as it would be typed.
        source: where the value comes from; `short` in a few letters.
        needs: what it takes.
        help: what it is for.
        changed: whether somebody has set it here.
        fault: what is wrong with it; empty when nothing is.
    """

    key: str
    title: str
    section: str
    kind: str = "text"
    text: str = ""
    source: str = ""
    short: str = ""
    needs: str = ""
    help: str = ""
    changed: bool = False
    fault: str = ""
