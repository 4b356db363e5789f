"""Text from files, models, templates and servers, made safe for a terminal.

`visible` is for sentences, tables and answers: every control character becomes a visible code, and nothing is dropped.
`clean_line` is for one line of a log: it keeps colours (SGR escapes), drops sequences that move a cursor, change a
title or write the clipboard, and keeps the last version of a line that was overwritten after a carriage return, as by
a progress bar. Commands print by `say` or by the consoles of `cli.console`, which both use `visible`.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

LONGEST = 4096
"""Characters of a line that are shown; the rest is counted."""

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
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_JSON_HIDDEN = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text that is safe to print: newlines and tabs stay, other control characters are shown by their code.

    Control characters are C0, DEL, C1, marks of writing direction, and lone surrogates, which cannot be encoded.
    Joiners (U+200B to U+200D) stay, because scripts and emoji need them.
    """
    return _HIDDEN.sub(_escaped, text) if _HIDDEN.search(text) else text


def ascii_escapes(json_text: str) -> str:
    """JSON text with DEL, C1 and marks of writing direction as JSON escapes. Its value is the same."""
    return _JSON_HIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", json_text)


def say(text: str, *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print `visible` text to stdout, or to another stream."""
    (sys.stdout if file is None else file).write(visible(text) + end)


def clean_line(raw: bytes, cut: int = 0, *, longest: int | None = LONGEST) -> str:
    """One line as text without control characters, except in SGR escapes.

    Args:
        raw: the line without its newline; need not be UTF-8.
        cut: bytes of the line that `raw` lacks at its end.
        longest: characters after which it is cut; None = never.
    """
    text = final(raw).decode(errors="replace")
    if _SPECIAL.search(text):
        text = _ESCAPES.sub(lambda found: found.group("sgr") or "", text)
        text = _ODD.sub(_visible, text)
        if "\t" in text:
            text = _expand_tabs(text)
    if longest is not None and len(text) > longest:
        cut += len(text) - longest
        text = re.sub(r"\x1b\[?[0-9;]*$", "", text[:longest])
    if cut:
        text += f"… (+{cut:,})"
    return text


def plain(line: str) -> str:
    """A clean line without its colours."""
    return _COLOURS.sub("", line) if "\x1b" in line else line


def final(raw: bytes) -> bytes:
    """The part of a line that a terminal shows after its carriage returns."""
    if b"\r" not in raw:
        return raw
    return next((part for part in reversed(raw.split(b"\r")) if part), b"")


def plain_lines(text: str) -> list[str] | None:
    """The lines of a text without escapes, cleaned together; None when other control characters need `clean_line`."""
    if "\x1b" in text:
        text = _ESCAPES.sub("", text)
    if _SPECIAL.search(text.replace("\n", "").replace("\t", "")):
        return None
    return text.split("\n")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


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
