"""Every path that HetSpec uses: its roots, and the file names inside a run folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hetspec_core.errors import ResourceError

HOME_VARIABLE = "HETSPEC_HOME"
_SHOWN = 120  # characters of a home that an error repeats


class _Entry:
    """An attribute that is the path of a name inside a folder, which is another attribute of the same object."""

    def __init__(self, folder: str, name: str) -> None:
        self.folder = folder
        self.name = name

    def __get__(self, owner: object, _: type | None = None) -> Path:
        return getattr(owner, self.folder) / self.name


@dataclass(frozen=True)
class Roots:
    """The three roots. With `HETSPEC_HOME` set, all three live below it, which is how tests stay apart.

    Attributes:
        data: runs and the registry; worth backing up.
        config: the user's own presets and settings.
        cache: files that can be made again (the dequantised default base).
    """

    data: Path
    config: Path
    cache: Path

    runs = _Entry("data", "runs")
    trash = _Entry("data", "trash")
    registry = _Entry("data", "registry.db")
    conversations = _Entry("data", "conversations")
    traces = _Entry("data", "traces")
    user_presets = _Entry("config", "presets")
    chat_logs = _Entry("cache", "chat")
    models = _Entry("cache", "models")

    @classmethod
    def below(cls, home: Path) -> Roots:
        """All three roots in one folder, as `HETSPEC_HOME` asks for."""
        top = home.expanduser().absolute()
        return cls(data=top, config=top / "config", cache=top / "cache")


def roots() -> Roots:
    """The roots in use: below `HETSPEC_HOME` if it is set, else the platform's folders.

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
    """Make the folder that `HETSPEC_HOME` names, if it is set, to learn whether it can be used.

    Raises:
        ResourceError: it cannot be used; the message says why.
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
    """Why the folder cannot be a home, empty when it may be one; nothing is written."""
    try:
        home.encode()
        top = Path(home).expanduser()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    except RuntimeError:
        return "begins with a user that this machine does not have"
    for folder, of in ((top, ""), (top / "runs", "has the entry runs, which ")):
        try:
            if folder.is_dir():
                continue
            is_link = folder.is_symlink()
            is_there = is_link or folder.exists()
        except OSError as error:
            return f"{of}cannot be looked at: {(error.strerror or str(error)).lower()}"
        if is_there:
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

    spec = _Entry("folder", "spec.toml")
    origins = _Entry("folder", "origins.json")
    resolved = _Entry("folder", "resolved.json")
    events = _Entry("folder", "events.jsonl")
    desk = _Entry("folder", "desk.jsonl")
    supervisor_lock = _Entry("folder", ".supervisor.lock")
    result = _Entry("folder", "result.json")
    logs = _Entry("folder", "logs")
    checkpoints = _Entry("folder", "checkpoints")
    draft = _Entry("folder", "draft")
    hidden_states = _Entry("folder", "hidden_states")
    shares = _Entry("folder", "shares")
    traces = _Entry("folder", "traces")

    @property
    def run_id(self) -> str:
        return self.folder.name

    def log(self, worker: str) -> Path:
        return self.logs / f"{worker}.log"


def make_folders(folder: Path, places: Roots | None = None) -> None:
    """Make a folder and its missing parents. A root of HetSpec is made for this user alone (mode 0700).

    Args:
        folder: the folder to make.
        places: the roots; those in use when absent.
    """
    if folder.is_dir():
        return
    places = places or roots()
    for root in (places.data, places.config, places.cache):
        if folder.is_relative_to(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
