"""The identity of a process outlives its number."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from hetspec_core.process import ProcessIdentity


def test_a_process_is_alive_until_it_ends_even_before_it_is_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(child.pid)
    assert identity.is_alive() is True
    child.kill()
    child.stdin.close()  # type: ignore[union-attr]
    for _ in range(1000):
        if not identity.is_alive():
            break
    assert identity.is_alive() is False  # a zombie still
    child.wait()
    assert identity.is_alive() is False


def test_a_reused_number_is_another_process() -> None:
    me = ProcessIdentity.of()
    assert me.is_alive()
    assert dataclasses.replace(me, birth=me.birth + "1").is_alive() is False


def test_nothing_is_said_of_another_host() -> None:
    assert dataclasses.replace(ProcessIdentity.of(), host="elsewhere.example").is_alive() is None


def test_a_number_that_nobody_has_is_an_error() -> None:
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(2**22 + 1)
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(0)
