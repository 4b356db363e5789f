"""Errors of the file system in one sentence, and -o, which replaces nothing but a regular file."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from hetspec_core.errors import HetSpecError, NotFoundError, ResourceError, UsageError
from hetspec_core.files import explain, is_full, write_output


@pytest.mark.parametrize(
    ("number", "kind", "word"),
    [
        (errno.ENOSPC, ResourceError, "full"),
        (errno.EDQUOT, ResourceError, "quota"),
        (errno.EROFS, ResourceError, "read-only"),
        (errno.EACCES, ResourceError, "permission"),
        (errno.ENOENT, NotFoundError, "no such file"),
        (errno.ENAMETOOLONG, NotFoundError, "name too long"),
    ],
)
def test_an_error_of_the_system_is_a_sentence_with_the_place(number: int, kind: type[HetSpecError], word: str) -> None:
    told = explain(OSError(number, os.strerror(number), "/some/place"), doing="the draft was not written")
    assert isinstance(told, kind)
    assert word in told.message and "/some/place" in told.message and told.hint


def test_a_full_disk_is_known_through_a_library_of_another_language() -> None:
    inner = RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)")
    try:
        raise ValueError("could not save") from inner
    except ValueError as error:
        assert is_full(error)
    assert is_full(RuntimeError("Error while serializing: I/O error: File too large (os error 27)"))
    assert not is_full(ValueError("28"))


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_output(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_output(tmp_path / "pipe", "row\n")
    reader.join(10)
    assert heard == ["row\n"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_pipe_that_has_no_name_is_written_into() -> None:
    reading, writing = os.pipe()
    try:
        write_output(Path(f"/dev/fd/{writing}"), "row\n")
        assert os.read(reading, 100) == b"row\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_a_full_device_is_told_and_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="full"):
        write_output(tmp_path / "link", "row\n" * 10_000)
    assert Path("/dev/full").is_char_device()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder"):
        write_output(tmp_path, "x")


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_output(tmp_path / "picture.png", b"\x89PNG\xff")
    assert (tmp_path / "picture.png").read_bytes() == b"\x89PNG\xff"
