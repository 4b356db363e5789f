"""What a worker reads before it imports torch: its share, the products of other runs, and the versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import hetspec_core
from hetspec_core.errors import NotFoundError
from hetspec_core.paths import RunPaths, roots

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "safetensors")


@dataclass(frozen=True)
class Share:
    """The part of a run's work that a worker does: share `number` (from 0) of `count`."""

    number: int = 0
    count: int = 1

    @property
    def is_whole(self) -> bool:
        return self.count == 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `number/count`.

        Raises:
            ValueError: it has another form, or the number is not below the count.
        """
        number, _, count = text.partition("/")
        share = cls(int(number), int(count))
        if not 0 <= share.number < share.count:
            raise ValueError(f"share {text!r} needs K/N with 0 <= K < N")
        return share

    def pick(self, content_ids: Iterable[str]) -> frozenset[str]:
        """The samples of the share. Sorted ids are dealt out in turn, so shares have one size and do not overlap."""
        return frozenset(sorted(set(content_ids))[self.number :: self.count])


def find_product(word: str, kind: Literal["hidden_states", "draft"]) -> Path:
    """The folder that a run id or a path names; of a run folder, its product of this kind.

    Raises:
        NotFoundError: there is no such run or directory.
    """
    for folder in (Path(word).expanduser(), roots().runs / word):
        if folder.is_dir():
            inside: Path = getattr(RunPaths(folder), kind)
            return inside if inside.is_dir() else folder
    raise NotFoundError(f"there is no run or directory {word}", hint="`hetspec-core runs list` shows all runs")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result may depend on (those that are installed)."""
    found = {"hetspec": hetspec_core.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
