"""`hetspec-core draft push` and `dataset push`: the card, the list of files, and sending them. It knows no hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hetspec_core.cli.console import console, note, print_json
from hetspec_core.cli.tables import print_table
from hetspec_core.errors import UsageError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PUSH = "hetspec_core.engine.stages.hub_push"


def push(
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
    from hetspec_core.cli.engine_command import ask_engine
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
        console().print(answer["url"] or f"sent to {repository}", soft_wrap=True)
    elif card_file is not None:
        note(f"nothing was sent; the card is in {card_file}")
    else:
        note("nothing was sent; this would be the card:")
        console().print(card, soft_wrap=True, end="")
