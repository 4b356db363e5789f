"""A JSON-lines file that records are appended to, one write each, and that survives a kill in the middle of a write.

It knows lines; what is in them is the business of who writes them.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from hetspec_core.engine.data.manifest import disk_error
from hetspec_core.errors import CorruptFileError
from hetspec_core.files import append_line

_SYNC_PERIOD_S = 1.0


class AppendLog:
    """Records of an unfinished task, to go on from after any kill.

    Opening reads what is there; half a line at the end (a kill during a write) is cut off. A record is in the kernel's
    hands when `append` returns, and on the disk a second later at most.

    Args:
        path: the file; made when missing, its folder must exist.

    Attributes:
        records: what was there when it was opened, and what was appended since.

    Raises:
        CorruptFileError: a line that is not the last is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self.records = self._read()
        except BaseException:
            os.close(self._handle)
            raise
        self._synced_s = time.monotonic()

    def _read(self) -> list[dict[str, Any]]:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._handle, whole)
        return _parse(self.path, content[:whole])

    def append(self, record: dict[str, Any]) -> None:
        """Add one record.

        Raises:
            ResourceError: the disk is full; the records before are intact.
        """
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
        before = os.fstat(self._handle).st_size
        try:
            append_line(self._handle, line)
            if time.monotonic() - self._synced_s > _SYNC_PERIOD_S:
                self.sync()
        except OSError as error:
            os.ftruncate(self._handle, before)
            raise disk_error(error, self.path) from error
        self.records.append(record)

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._handle)
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            os.close(self._handle)

    def __enter__(self) -> AppendLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Whole records of a log that somebody else may be writing; none when there is no such file.

    Raises:
        CorruptFileError: a whole line is no JSON object.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return _parse(path, content[: content.rfind(b"\n") + 1])


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise CorruptFileError(
                f"line {number} of {path} is not what was written", hint="delete the line, then resume the run"
            )
        records.append(record)
    return records
