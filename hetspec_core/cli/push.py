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
    folder: Path, repository: str, card: str, *, kind: str, private: bool, dry_run: bool, card_file: Path, json: bool
) -> None:
    """Send a folder with its card; or write the card and list what would be sent.

    Raises:
        UsageError: the repository has no such form, or there is no token in the environment.
        ResourceError: the hub refuses, or a file cannot be written.
    """
    from hetspec_core.cli.engine_command import ask_engine
    from hetspec_core.quantities import format_bytes
    from hetspec_core.service.export import write_text

    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(f"the repository is {repository!r}; it needs OWNER/NAME")
    words = [str(folder), repository, "--kind", kind, *(["--private"] if private else [])]
    if dry_run:
        write_text(card_file, card)
        answer = ask_engine(_PUSH, [*words, "--list", "--card", str(card_file)], doing="listing the files")
    else:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "card.md"
            path.write_text(card, encoding="utf-8")
            answer = ask_engine(_PUSH, [*words, "--card", str(path)], doing=f"sending to {repository}")
    if json:
        print_json(answer | {"card": str(card_file) if dry_run else None})
        return
    print_table(("file", "size"), [(name, format_bytes(size)) for name, size in answer["files"].items()])
    if dry_run:
        note(f"nothing was sent; the card is in {card_file}")
    else:
        console().print(answer["url"] or f"sent to {repository}", soft_wrap=True)
