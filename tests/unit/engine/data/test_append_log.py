"""The append log: records survive torn writes, and a damaged one is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hetspec_core.engine.data.shares import AppendLog
from hetspec_core.errors import CorruptFileError, ResourceError


def test_records_are_there_after_reopening(tmp_path: Path) -> None:
    with AppendLog(tmp_path / "log.jsonl") as log:
        log.append({"a": 1, "text": "two\nlines é"})
        log.append({"a": 2})

    with AppendLog(tmp_path / "log.jsonl") as log:
        assert log.records == [{"a": 1, "text": "two\nlines é"}, {"a": 2}]


def test_torn_last_line_is_cut_off_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2')

    with AppendLog(path) as log:
        assert log.records == [{"a": 1}]
        log.append({"a": 3})

    assert path.read_bytes() == b'{"a":1}\n{"a":3}\n'


def test_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n{"a"\n{"a":3}\n')

    with pytest.raises(CorruptFileError, match=r"line 2 of .*log\.jsonl"):
        AppendLog(path)


_FULL = """
import resource, sys
from pathlib import Path
from hetspec_core.engine.data.shares import AppendLog
from hetspec_core.errors import ResourceError
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with AppendLog(Path(sys.argv[1])) as log:
    try:
        for number in range(100):
            log.append({"number": number, "text": "x" * 20})
    except ResourceError as error:
        print(error)
        sys.exit(error.exit_code)
"""


def test_full_disk_keeps_the_records_before(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    done = subprocess.run([sys.executable, "-c", _FULL, str(path)], check=False, capture_output=True, text=True)

    assert done.returncode == ResourceError.exit_code, done.stderr
    assert "log.jsonl" in done.stdout
    with AppendLog(path) as log:
        assert [record["number"] for record in log.records] == list(range(len(log.records)))
        assert len(log.records) == 2
