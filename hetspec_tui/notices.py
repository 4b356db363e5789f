"""Notices that reach beyond the terminal: escape sequences that make many terminals show a desktop notification."""

from __future__ import annotations

from collections.abc import Mapping

from hetspec_tui.formatting import safe

_WITH_777 = ("rxvt", "foot")  # the others that know 777 know 9 as well, and would show both


def desktop_notice(title: str, body: str, environment: Mapping[str, str]) -> str:
    """The sequence for this terminal: OSC 777 or OSC 9, wrapped so that tmux lets it through.

    Args:
        title: one line.
        body: one line.
        environment: of the process: TERM and TMUX.
    """
    title, body = safe(title).replace(";", ","), safe(body).replace(";", ",")
    if environment.get("TERM", "").startswith(_WITH_777):
        sequence = f"\x1b]777;notify;{title};{body}\x1b\\"
    else:
        sequence = f"\x1b]9;{title}: {body}\x1b\\"
    if environment.get("TMUX"):
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence
