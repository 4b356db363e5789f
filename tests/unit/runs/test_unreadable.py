"""One run that cannot be read costs no other run anything: it is a row that says why, and can be deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetspec_core.paths import RunPaths
from hetspec_core.runs.folders import run_id_of, run_paths
from tests.fakes.registries import STARTED, dump, make_run, metric, open_registry, say

BEYOND = 2**63


def events_is_a_folder(paths: RunPaths) -> None:
    paths.events.mkdir()


def events_is_a_pipe(paths: RunPaths) -> None:
    os.mkfifo(paths.events)


def desk_is_a_pipe(paths: RunPaths) -> None:
    paths.desk.unlink()
    os.mkfifo(paths.desk)


def spec_is_a_folder(paths: RunPaths) -> None:
    paths.spec.unlink()
    paths.spec.mkdir()


def name_is_not_utf8(paths: RunPaths) -> None:
    shutil.move(paths.folder, os.fsencode(paths.folder.parent) + b"/kopie-\xfc")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (events_is_a_folder, "events.jsonl is a directory"),
        (events_is_a_pipe, "events.jsonl is a named pipe"),
        (desk_is_a_pipe, "desk.jsonl is a named pipe"),
        (spec_is_a_folder, "spec.toml is a directory"),
        (name_is_not_utf8, "the name of the folder is not UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_read_is_a_row_that_says_why(
    tmp_path: Path, spoil: Callable[[RunPaths], None], why: str
) -> None:
    say(make_run(tmp_path, "good").events, STARTED, metric(1, loss=1.0))
    spoil(make_run(tmp_path, "bad"))
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        (bad,) = registry.find(["state:unreadable"])
        assert bad.error_message == why
        assert [point.value for point in registry.curve("good", "loss")] == [1.0]
        assert len(registry.find().run_ids) == 2
        assert registry.sync(bad.run_id) == bad
        before = dump(tmp_path)
        assert registry.rebuild() == 2
        assert dump(tmp_path) == before


@pytest.mark.parametrize("what", ["folder", "events.jsonl", "spec.toml"])
def test_what_another_user_does_not_let_be_read_stops_nothing_and_comes_back_when_it_does(
    stranger: Path, what: str
) -> None:
    make_run(stranger, "good")
    paths = make_run(stranger, "bad")
    say(paths.events, STARTED)
    closed = paths.folder if what == "folder" else paths.folder / what
    closed.chmod(0)
    with open_registry(stranger) as registry:
        registry.sync_all()
        (bad,) = registry.find(["state:unreadable"])
        assert bad.run_id == "bad" and "permission denied" in bad.error_message
        assert bad.created == pytest.approx(paths.folder.stat().st_mtime), "it has the date of its folder"
        assert len(registry.find().run_ids) == 2
        closed.chmod(0o755)
        registry.sync_all()
        row = registry.row("bad")
        assert row is not None and row.state != "unreadable" and row.name == "some"


def line(event: str, **values: object) -> str:
    return json.dumps({"type": event, "time": 5.0, "worker": "worker-0", **values}) + "\n"


STRANGE = st.sampled_from([BEYOND, -BEYOND - 1, 10**30, 10**400, BEYOND - 1, -BEYOND, 2**62, 1e308, -1])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(STRANGE, min_size=6, max_size=6))
def test_numbers_beyond_64_bits_in_a_journal_cost_no_run(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    home = tmp_path_factory.mktemp("home")
    make_run(home, "good")
    paths = make_run(home, "odd")
    step, tokens, attempt, pid, figure, when = numbers
    process = {"pid": pid, "host": "h", "birth": "b", "attempt": attempt}
    paths.events.write_text(
        line("run_started", stage="train", **process)
        + line("metric", step=step, tokens=tokens, values={"loss": 1.0})
        + line("metric", step=7, tokens=1, values={"loss": 2.0})
        + line("result", kind="bench", data={"accept_length": figure, "deep": [{"count": figure}]})
        + json.dumps({"type": "log", "time": when, "message": "x"})
        + "\n"
    )
    with paths.desk.open("a") as desk:
        desk.write(line("launched", **process))
    with open_registry(home) as registry:
        registry.sync_all()
        assert set(registry.find().run_ids) == {"good", "odd"}
        row = registry.row("odd")
        assert row is not None and row.state != "unreadable"
        assert registry.curve("odd", "loss", most=4)[-1].step >= 7
        assert all(abs(point.step) < 2**62 for point in registry.curve("odd", "loss"))
        registry.results("odd")
    shutil.rmtree(home)


@given(
    name=st.binary(min_size=1, max_size=12).filter(lambda raw: not set(raw) & set(b"\0/") and raw not in (b".", b".."))
)
def test_every_name_of_a_folder_has_an_id_that_leads_back_to_it(name: bytes) -> None:
    text = os.fsdecode(name)
    run_id = run_id_of(text)
    run_id.encode()
    if run_id == text or b"\\" not in name:
        assert run_paths(Path("/nowhere"), run_id).folder.name == text or run_id == text


def test_a_spec_with_an_integer_beyond_64_bits_leaves_a_row_with_its_state(tmp_path: Path) -> None:
    make_run(tmp_path, "good")
    paths = make_run(tmp_path, "odd")
    say(paths.events, STARTED)
    text = paths.spec.read_text()
    paths.spec.write_text(text.replace("seed = 0", f"seed = {BEYOND}"))
    assert paths.spec.read_text() != text
    with open_registry(tmp_path) as registry:
        registry.sync_all()
        assert {row.run_id: row.state for row in registry.rows()}.keys() == {"good", "odd"}
