"""Commands that the engine carries out in a child process, which prints one JSON object.

The desk never imports the engine: it names the engine's modules by string.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetspec_core import errors
from hetspec_core.cli.console import console, error_console, note, print_json, print_line, print_table
from hetspec_core.documents import DocumentError, parse_json
from hetspec_core.errors import Cancelled, HetSpecError, StageFailed, UsageError, recognise
from hetspec_core.process import python_command, python_environment

_LONGEST_SENTENCE = 400


def ask_engine(module: str, arguments: Sequence[str], *, doing: str) -> dict[str, Any]:
    """Run `python -m module arguments...` and return its answer.

    Args:
        module: a module of the engine that prints one JSON object.
        arguments: its command line.
        doing: the status shown on a terminal meanwhile.

    Raises:
        HetSpecError: the command's own error, of the same kind.
        StageFailed: it ended without an answer.
    """
    command, variables = python_command("-m", module, *arguments), python_environment()
    out = error_console()
    try:
        if out.is_terminal:
            with out.status(doing):
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        else:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    except KeyboardInterrupt:
        raise Cancelled(f"{doing} was stopped") from None
    try:
        answer = parse_json(done.stdout, limit_bytes=None)
    except DocumentError:
        said = last_error(done.stderr) or "it printed nothing"
        known = recognise(said)
        raise StageFailed(
            f"{doing} failed (status {done.returncode}): {said}",
            hint=known.hint if known is not None else "",
        ) from None
    if "error" in answer:
        raise _error(answer["error"])
    return answer


def last_error(text: str) -> str:
    """The sentence of the last exception that a child process printed; its last line where there is no traceback."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    begins = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if begins:  # its frames are indented, and the exception may have several lines
        after = [line for line in lines[begins[-1] + 1 :] if not line[0].isspace()]
        lines = after[:1] or lines
    said = lines[-1].strip() if lines else ""
    return said if len(said) <= _LONGEST_SENTENCE else f"{said[:_LONGEST_SENTENCE]}..."


def _error(about: dict[str, Any]) -> HetSpecError:
    kind = getattr(errors, str(about["kind"]), None)
    if isinstance(kind, type) and issubclass(kind, HetSpecError):
        return kind(about["message"], hint=about["hint"])
    return StageFailed(about["message"], hint=about["hint"])


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PUSH = "hetspec_core.engine.stages.hub_push"


def push_folder(
    folder: Path,
    repository: str,
    card: str,
    *,
    kind: str,
    private: bool,
    dry_run: bool,
    card_file: Path | None,
    json: bool,
) -> None:
    """Send a folder with its card; or list what would be sent and print the card.

    Args:
        folder: what is sent.
        repository: OWNER/NAME on the hub.
        card: Markdown for its README.md.
        kind: model or dataset.
        private: whether a new repository is private.
        dry_run: send nothing.
        card_file: file for the card of a dry run instead of stdout; one that exists is refused.
        json: print JSON.

    Raises:
        UsageError: the repository has no such form, there is no token in the environment, or `card_file` exists.
        ResourceError: the hub refuses, or a file cannot be written.
    """
    from hetspec_core.files import write_output
    from hetspec_core.quantities import format_bytes

    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"the repository is {repository!r}; it needs OWNER/NAME")
    card_file = card_file if dry_run else None
    if card_file is not None and (card_file.is_file() or card_file.is_dir()):
        raise UsageError(f"{card_file} exists already, and is not overwritten", hint="choose another name for --card")
    words = [str(folder), repository, "--kind", kind, *(["--private"] if private else [])]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "card.md"
        path.write_text(card, encoding="utf-8")
        doing = "listing the files" if dry_run else f"sending to {repository}"
        answer = ask_engine(_PUSH, [*words, *(["--list"] if dry_run else []), "--card", str(path)], doing=doing)
    if card_file is not None:
        write_output(card_file, card)
    if json:
        written = {"card": str(card_file) if card_file is not None else None}
        print_json(answer | written | ({"card_text": card} if dry_run else {}))
        return
    print_table(("file", "size"), [(name, format_bytes(size)) for name, size in answer["files"].items()])
    if not dry_run:
        print_line(answer["url"] or f"sent to {repository}")
    elif card_file is not None:
        note(f"nothing was sent; the card is in {card_file}")
    else:
        note("nothing was sent; this would be the card:")
        console().print(card, soft_wrap=True, end="")
