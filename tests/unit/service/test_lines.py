"""Result lines of many processes in one file."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from hetspec_core.errors import ResourceError
from hetspec_core.service.export import append_line


def _append(path: Path, worker: int) -> None:
    for number in range(20):
        append_line(path, {"worker": worker, "number": number, "text": "x" * 5000})


def test_lines_of_processes_at_the_same_time_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    workers = [multiprocessing.Process(target=_append, args=(path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted((row["worker"], row["number"]) for row in rows) == [(w, n) for w in range(3) for n in range(20)]


def test_a_torn_line_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"torn": ')
    append_line(path, {"whole": float("nan")})
    assert path.read_text().splitlines()[1:] == ['{"whole":null}']


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match=f"{tmp_path / 'folder'}"):
        append_line(tmp_path / "folder", {})


def test_a_line_goes_into_a_pipe_as_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()))
    reader.start()
    append_line(tmp_path / "pipe", {"a": 1})
    reader.join(10)
    assert heard == ['{"a":1}\n']


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the disk is full"):
        append_line(Path("/dev/full"), {"a": 1})
