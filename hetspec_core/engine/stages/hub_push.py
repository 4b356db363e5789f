"""Sending a draft or a dataset to the hub, in one commit with its card: the engine's side of `draft push|dataset push`.

The token comes from the environment, is given to the client only, and is removed from the client's error messages. The
card is not written into the folder that is sent.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from hetspec_core.engine.reporting import answer, summary
from hetspec_core.errors import ResourceError, UsageError

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CARD = "README.md"
_LEFT_OUT = (".lock", ".tmp", ".partial")


def files_of(folder: Path) -> dict[str, Path]:
    """The files of a folder that are sent, by name; hidden files, locks, links and a card of its own are left out."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.is_file() and not file.is_symlink() and not hidden and file.suffix not in _LEFT_OUT:
            found[name.as_posix()] = file
    found.pop(CARD, None)
    return found


def push(
    folder: Path, repository: str, card: str, *, kind: str, private: bool, api: Any = None, token: str | None = None
) -> dict[str, Any]:
    """Make the repository if it is not there, and commit the files and the card.

    Args:
        folder: is sent.
        repository: owner/name.
        card: text of its README.md.
        kind: model or dataset.
        private: whether a new repository is private.
        api: a client like `huggingface_hub.HfApi`; that one when absent.
        token: the environment's when absent.

    Raises:
        UsageError: there is no token, or nothing to send.
        ResourceError: the hub refuses, or cannot be reached.
    """
    token = token or next((os.environ[name] for name in TOKENS if os.environ.get(name)), None)
    if not token:
        raise UsageError(
            "there is no token for the hub in the environment",
            hint=f"set {TOKENS[0]} for this command; it is not stored. --dry-run needs none",
        )
    files = files_of(folder)
    if not files:
        raise UsageError(f"{folder} has no files to send")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = api or HfApi(token=token)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in files.items()]
    operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()))
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        done = api.create_commit(repository, operations, commit_message=f"Add {folder.name} by HetSpec", repo_type=kind)
    except Exception as error:  # network, rights, quotas: all of their own kinds
        reason = summary(error).replace(token, "(token)")
        raise ResourceError(
            f"{repository} could not be written: {reason}",
            hint="check the name, the network, and that the token may write there",
        ) from None
    return {"repository": repository, "url": str(getattr(done, "commit_url", "")), "files": _sizes(files)}


def _sizes(files: dict[str, Path]) -> dict[str, int]:
    return {name: file.stat().st_size for name, file in files.items()}


def main(arguments: list[str] | None = None) -> int:
    """Command line of the module."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.stages.hub_push")
    parser.add_argument("folder", type=Path)
    parser.add_argument("repository")
    parser.add_argument("--kind", choices=("model", "dataset"), required=True)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--list", action="store_true", help="only say what would be sent")
    given = parser.parse_args(arguments)

    def run() -> dict[str, Any]:
        if given.list:
            return {"repository": given.repository, "url": "", "files": _sizes(files_of(given.folder))}
        text = given.card.read_text(encoding="utf-8")
        return push(given.folder, given.repository, text, kind=given.kind, private=given.private)

    return answer(run)


if __name__ == "__main__":
    sys.exit(main())
