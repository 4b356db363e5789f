"""Every place on disk that HetSpec uses: its roots, and the file names inside a run folder.

It knows names only; `files` writes, and `events`, `runs` and the engine know what is in the files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.errors import ResourceError

HOME_VARIABLE = "HETSPEC_HOME"
_SHOWN = 120  # characters of a home that an error repeats


@dataclass(frozen=True)
class Roots:
    """The three roots. With `HETSPEC_HOME` set, all three live below it, which is how tests stay apart.

    Attributes:
        data: runs and the registry; worth backing up.
        config: the user's own presets and settings.
        cache: what can be made again (the dequantised default base).
    """

    data: Path
    config: Path
    cache: Path

    @classmethod
    def below(cls, home: Path) -> Roots:
        """All three roots in one folder, as `HETSPEC_HOME` asks for."""
        top = home.expanduser().absolute()
        return cls(data=top, config=top / "config", cache=top / "cache")

    @property
    def runs(self) -> Path:
        return self.data / "runs"

    @property
    def trash(self) -> Path:
        return self.data / "trash"

    @property
    def registry(self) -> Path:
        return self.data / "registry.db"

    @property
    def conversations(self) -> Path:
        return self.data / "conversations"

    @property
    def traces(self) -> Path:
        return self.data / "traces"

    @property
    def chat_logs(self) -> Path:
        return self.cache / "chat"

    @property
    def user_presets(self) -> Path:
        return self.config / "presets"

    @property
    def models(self) -> Path:
        return self.cache / "models"


def roots() -> Roots:
    """The roots in force now: `HETSPEC_HOME` if set, else the platform's own places.

    Raises:
        ResourceError: `HETSPEC_HOME` cannot be a folder; see `check_home`, which also tries to make it.
    """
    home = os.environ.get(HOME_VARIABLE)
    if home:
        fault = _fault_of(home)
        if fault:
            raise _unusable(home, fault)
        return Roots.below(Path(home))
    import platformdirs  # 10 ms that `--help` does not need

    dirs = platformdirs.PlatformDirs("hetspec", appauthor=False)
    return Roots(data=Path(dirs.user_data_dir), config=Path(dirs.user_config_dir), cache=Path(dirs.user_cache_dir))


def check_home() -> None:
    """Make the folder that `HETSPEC_HOME` names, if it is set, to find out whether it can be used.

    Raises:
        ResourceError: it cannot; the sentence says what is there instead.
    """
    home = os.environ.get(HOME_VARIABLE)
    if not home:
        return
    top = roots().data
    try:
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(home, f"cannot be made: {(error.strerror or str(error)).lower()}") from error


def _fault_of(home: str) -> str:
    """What keeps the folder from being a home, without making anything; empty when nothing is seen."""
    try:
        home.encode()
        top = Path(home).expanduser()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    except RuntimeError:
        return "begins with a user that this machine does not have"
    for folder, of in ((top, ""), (top / "runs", "has the entry runs, which ")):
        try:
            is_folder, is_link = folder.is_dir(), folder.is_symlink()
            is_there = is_link or folder.exists()
        except OSError as error:
            return f"{of}cannot be looked at: {(error.strerror or str(error)).lower()}"
        if is_there and not is_folder:
            return of + ("is a link to a folder that does not exist" if is_link else "is a file, not a folder")
    return ""


def _unusable(home: str, fault: str) -> ResourceError:
    shown = home if len(home) <= _SHOWN else f"{home[:_SHOWN]}... ({len(home):,} characters)"
    name = shown if fault != "is not UTF-8 text" else ascii(shown)
    return ResourceError(
        f"{HOME_VARIABLE} is {name}, which {fault}", hint=f"let {HOME_VARIABLE} name a folder of yours"
    )


@dataclass(frozen=True)
class RunPaths:
    """Names of everything inside one run folder."""

    folder: Path

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def spec(self) -> Path:
        return self.folder / "spec.toml"

    @property
    def origins(self) -> Path:
        return self.folder / "origins.json"

    @property
    def resolved(self) -> Path:
        return self.folder / "resolved.json"

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def desk(self) -> Path:
        return self.folder / "desk.jsonl"

    @property
    def supervisor_lock(self) -> Path:
        return self.folder / ".supervisor.lock"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def draft(self) -> Path:
        return self.folder / "draft"

    @property
    def hidden_states(self) -> Path:
        return self.folder / "hidden_states"

    @property
    def shares(self) -> Path:
        return self.folder / "shares"

    @property
    def traces(self) -> Path:
        return self.folder / "traces"

    def log(self, worker: str) -> Path:
        return self.logs / f"{worker}.log"


def make_folders(folder: Path, places: Roots | None = None) -> None:
    """Make a folder and what is missing above it. A root of HetSpec is made for this user alone (mode 0700).

    Args:
        folder: what is to be there.
        places: whose roots; those in force when absent.
    """
    if folder.is_dir():
        return
    places = places or roots()
    for root in (places.data, places.config, places.cache):
        if folder.is_relative_to(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
