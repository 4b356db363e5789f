"""What programs print for terminals, made safe for one line of a screen. It knows bytes and text, no files.

Kept are letters and colours (SGR escapes); everything that would move a cursor, change a title or hide text is dropped
or made visible. A line that was written over after a carriage return, as progress bars do, is what it was in the end.
"""

from __future__ import annotations

import re

LONGEST = 4096
"""Letters of a line that are shown; the rest is counted."""

_SGR = r"\x1b\[[0-9;]*m"
_ESCAPES = re.compile(
    rf"(?P<sgr>{_SGR})"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # other control sequences: cursor, erase, modes
    r"|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # operating system commands: titles, links, clipboard
    r"|\x1b[PX^_][^\x1b\n]*(?:\x1b\\)?"  # device control and private strings
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x80-\x9f\x08\x07]"
)
_COLOURS = re.compile(_SGR)
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_SPECIAL = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def clean_line(raw: bytes, cut: int = 0) -> str:
    """One line as text with no control characters but those of SGR escapes.

    Args:
        raw: the line without its newline; need not be UTF-8.
        cut: bytes of the line that `raw` lacks at its end.
    """
    text = final(raw).decode(errors="replace")
    if _SPECIAL.search(text):
        text = _ESCAPES.sub(lambda found: found.group("sgr") or "", text)
        text = _ODD.sub(_visible, text)
        if "\t" in text:
            text = _expand_tabs(text)
    if len(text) > LONGEST:
        cut += len(text) - LONGEST
        text = re.sub(r"\x1b\[?[0-9;]*$", "", text[:LONGEST])
    if cut:
        text += f"… (+{cut:,})"
    return text


def plain(line: str) -> str:
    """A clean line without its colours."""
    return _COLOURS.sub("", line) if "\x1b" in line else line


def final(raw: bytes) -> bytes:
    """What is seen of a line after its carriage returns."""
    if b"\r" not in raw:
        return raw
    return next((part for part in reversed(raw.split(b"\r")) if part), b"")


def plain_lines(text: str) -> list[str] | None:
    """Text with newlines as lines without escapes, all at once; None when it has more to clean than escapes."""
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if _SPECIAL.search(text.replace("\n", "").replace("\t", "")):
        return None
    return text.split("\n")


def _visible(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the picture of the control character
    return "␡" if code == 0x7F else f"\\u{code:04x}"


def _expand_tabs(text: str) -> str:
    pieces, column = [], 0
    for piece in re.split(rf"({_SGR}|\t)", text):
        if piece == "\t":
            piece = " " * (8 - column % 8)
        if not piece.startswith("\x1b"):
            column += len(piece)
        pieces.append(piece)
    return "".join(pieces)
