"""Where the dashboard keeps its files.

It imports nothing heavy, because a dashboard reads its settings before it draws its first line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hetspec_core.paths import Roots, roots


@dataclass(frozen=True)
class DashboardFiles:
    """The dashboard's files.

    Attributes:
        settings, keys: TOML of the user, who may have neither.
        themes: folder of the user's themes, one TOML file each.
        state: what the dashboard found last time; it may be deleted at any time.
        log: what went wrong, in words.
        screenshots: folder of the pictures that were taken.
    """

    settings: Path
    keys: Path
    themes: Path
    state: Path
    log: Path
    screenshots: Path


def dashboard_files(home: Path | None = None) -> DashboardFiles:
    """The files below a home, as HETSPEC_HOME; below the roots in force when absent."""
    top = roots() if home is None else Roots.below(home)
    own = top.data / "dashboard"
    return DashboardFiles(
        settings=top.config / "dashboard.toml",
        keys=top.config / "keys.toml",
        themes=top.config / "themes",
        state=own / "state.json",
        log=own / "hetspec.log",
        screenshots=own / "screenshots",
    )
