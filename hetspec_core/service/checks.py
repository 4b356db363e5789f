"""The checks of files for the doctor: roots, registry, runs, locks and leftovers, presets, bases."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hetspec_core.config import library, load_base, resolve
from hetspec_core.errors import HetSpecError
from hetspec_core.events.state import UNREADABLE
from hetspec_core.files import is_locked
from hetspec_core.paths import Roots
from hetspec_core.quantities import gigabytes
from hetspec_core.runs import Registry
from hetspec_core.service.planning.facts import existing_parent, find_base
from hetspec_core.spec import Stage

Status = Literal["ok", "warning", "error"]

LITTLE_DISK_BYTES = 10_000_000_000
NO_DISK_BYTES = 1_000_000_000
LEFTOVER_AGE_S = 3600.0  # younger ones may belong to something that is being written now
LOCK_PATIENCE_S = 2.0
_MOST_NAMED = 5
_LEFTOVERS = (
    ".new-*",
    "*/.draft.*",
    "*/hidden_states/.writing-*",
    "*/hidden_states/.tokenizer-*",
    "*/checkpoints/.step-*",
)


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: of what was checked.
        status: ok, warning (something is missing or slow) or error (something will not work).
        message: what was found.
        hint: what to do; empty when nothing is to be done.
        facts: the same as data.
    """

    name: str
    status: Status
    message: str
    hint: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_roots(roots: Roots) -> Iterator[Check]:
    """Whether each root is writable and has free space."""
    for name, folder in (("data", roots.data), ("config", roots.config), ("cache", roots.cache)):
        place = existing_parent(folder)
        facts = {"path": str(folder), "exists": folder.is_dir()}
        try:
            with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=place):
                pass
        except OSError as error:
            yield Check(
                f"{name} folder",
                "error",
                f"{folder} cannot be written: {error.strerror or error}",
                "change its permissions, or set HETSPEC_HOME to a folder of yours",
                facts,
            )
            continue
        free = shutil.disk_usage(place).free
        facts |= {"free_bytes": free}
        status: Status = "error" if free < NO_DISK_BYTES else "warning" if free < LITTLE_DISK_BYTES else "ok"
        hint = "" if status == "ok" else "make room, or set HETSPEC_HOME to a larger disk"
        yield Check(f"{name} folder", status, f"{folder}, {gigabytes(free)} free", hint, facts)


def check_registry(roots: Roots) -> Check:
    """Whether the registry is whole and opens. One of another version is set aside, as by any command."""
    path = roots.registry
    if not path.is_file():
        return Check("registry", "ok", f"none yet; {path} is made with the first run")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        try:
            verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        return Check(
            "registry", "error", f"{path} cannot be opened: {error}", "`hetspec-core runs rebuild` replaces it"
        )
    except sqlite3.DatabaseError as error:
        verdict, runs = str(error), 0
    if verdict != "ok":
        return Check("registry", "error", f"{path} is damaged: {verdict}", "`hetspec-core runs rebuild` replaces it")
    try:
        Registry(path, roots.runs).close()
    except HetSpecError as error:
        return Check("registry", "error", error.message, error.hint)
    return Check("registry", "ok", f"{path}, {runs} runs", facts={"path": str(path), "runs": runs})


def check_runs(roots: Roots) -> Check:
    """Whether every run can be read; unreadable ones are named. The registry is brought up to date first."""
    if not roots.runs.is_dir():
        return Check("runs", "ok", "none yet", facts={"runs": 0, "unreadable": {}})
    try:
        with Registry(roots.registry, roots.runs) as registry:
            registry.sync_all()
            rows = registry.find([f"state:{UNREADABLE}"], archived=True)
            unreadable = {row.run_id: row.error_message for row in rows}
            runs = len(registry.find(archived=True).run_ids)
    except (HetSpecError, OSError, sqlite3.Error) as error:
        return Check("runs", "error", f"the runs in {roots.runs} cannot be listed: {error}", "see the registry above")
    facts = {"runs": runs, "unreadable": unreadable}
    if not unreadable:
        return Check("runs", "ok", f"{runs} runs, all readable", facts=facts)
    named = "; ".join(f"{run_id}: {why}" for run_id, why in list(unreadable.items())[:_MOST_NAMED])
    more = f"; and {len(unreadable) - _MOST_NAMED} more" if len(unreadable) > _MOST_NAMED else ""
    return Check(
        "runs",
        "warning",
        f"{len(unreadable)} of {runs} runs cannot be read: {named}{more}",
        "`hetspec-core runs delete RUN` moves one into the trash",
        facts,
    )


def check_locks(roots: Roots) -> Iterator[Check]:
    """Locks that are held now, and unfinished files of killed processes."""
    files = [*roots.data.glob("*.lock"), *roots.models.glob(".*.lock")]
    limit = time.monotonic() + LOCK_PATIENCE_S
    held = [path for path in files if _is_held(path)]
    while held and time.monotonic() < limit:  # everyday work holds them for moments
        time.sleep(0.1)
        held = [path for path in held if _is_held(path)]
    if held:
        yield Check(
            "locks",
            "warning",
            f"held by a process: {', '.join(map(str, held))}",
            "another HetSpec works there; the kernel frees a lock when its process ends",
            {"held": [str(path) for path in held]},
        )
    else:
        yield Check("locks", "ok", "none is held for long", facts={"held": []})
    left = [path for pattern in _LEFTOVERS for path in roots.runs.glob(pattern) if _is_old(path)]
    left += [path for path in roots.models.glob(".*") if path.is_dir() and _is_old(path)]
    if left:
        yield Check(
            "leftovers",
            "warning",
            f"{len(left)} unfinished files of processes that were killed: {', '.join(map(str, left[:3]))}",
            "resuming the run clears its own; the others can be deleted",
            {"paths": [str(path) for path in left]},
        )
    else:
        yield Check("leftovers", "ok", "none", facts={"paths": []})


def _is_held(path: Path) -> bool:
    try:
        return is_locked(path)
    except OSError:  # a lock that cannot be opened belongs to another user
        return False


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > LEFTOVER_AGE_S
    except OSError:  # it was finished meanwhile
        return False


def check_presets() -> Check:
    """Whether every preset can be read, and every recipe resolves for every stage."""
    problems: dict[str, str] = {}
    listed = library.list_presets()
    for item in listed:
        if item.problem:
            problems[item.file.reference] = item.problem
        elif item.file.kind == "recipe":
            for stage in get_args(Stage):
                try:
                    resolve(item.file.name, stage=stage)
                except HetSpecError as error:
                    problems[item.file.reference] = str(error)
                    break
    if not problems:
        return Check("presets", "ok", f"{len(listed)} presets; every recipe resolves", facts={"presets": len(listed)})
    first = next(iter(problems.items()))
    return Check(
        "presets",
        "error",
        f"{len(problems)} of {len(listed)} presets do not hold; {first[0]}: {first[1]}",
        "`hetspec-core presets show NAME` says more",
        {"presets": len(listed), "problems": problems},
    )


def check_bases(roots: Roots) -> Check:
    """Which bases of the presets are on this machine."""
    found: dict[str, dict[str, str]] = {}
    for item in library.list_presets("base"):
        if not item.problem:
            files = find_base(load_base(item.file.name).source, roots)
            found[item.file.name] = {"presence": files.presence, "where": files.where, "hint": files.hint}
    here = [name for name, about in found.items() if about["presence"] != "absent"]
    away = [name for name in found if name not in here]
    facts = {"bases": found}
    if not here:
        hints = "; ".join(about["hint"] for about in found.values() if about["hint"].startswith("pip"))
        return Check("bases", "warning", f"none is on this machine ({', '.join(away)})", hints, facts)
    shown = ", ".join(f"{name} ({found[name]['presence']})" for name in here)
    rest = f"; not here: {', '.join(away)}" if away else ""
    return Check("bases", "ok", shown + rest, facts=facts)
