"""Reading Python's syntax in several threads at once."""

from __future__ import annotations

import gc
import sys
import threading
import time

import pytest

from hetspec_core import documents


class Slow:
    """Something whose end lets other threads in."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(100):
            pass


def test_threads_that_read_at_the_same_moment_all_get_their_trees() -> None:
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(5, 1, 1)
    failed: list[BaseException] = []

    def read(text: str) -> None:
        for _ in range(300):
            Slow()
            try:
                documents.parse_expression(text)
            except SystemError as error:
                failed.append(error)

    threads = [threading.Thread(target=read, args=(text,)) for text in ("(1, (2, (3, [4])))", "('a',)", "[1, (3, 4)]")]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
    assert failed == []


def test_a_text_that_is_no_python_is_refused_at_once() -> None:
    with pytest.raises(SyntaxError):
        documents.parse_expression("1 +")
    with pytest.raises(SyntaxError):
        documents.parse_module("def")


def test_no_two_threads_are_in_functions_of_this_kind_at_once() -> None:
    inside, most = 0, 0

    def read() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1

    threads = [threading.Thread(target=documents.one_at_a_time(read)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_function_may_read_syntax_while_it_reads_syntax() -> None:
    assert documents.one_at_a_time(documents.parse_expression)("1 + 1") is not None
