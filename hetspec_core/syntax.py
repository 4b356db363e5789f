"""Reading Python's syntax in threads. It executes nothing.

CPython 3.11 counts the depth of a tree that it builds in one place for all threads, so that two that build one at the
same moment may find the count of the other and raise SystemError ("AST constructor recursion depth mismatch"). The text
is sound then, and the next attempt nearly always alone.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

ATTEMPTS = 50


def parse_module(text: str) -> ast.Module:
    """The syntax tree of a file; errors as of `ast.parse`."""
    return _patiently(lambda: ast.parse(text))


def parse_expression(text: str) -> ast.expr:
    """The syntax tree of an expression; errors as of `ast.parse`."""
    return _patiently(lambda: ast.parse(text, mode="eval")).body


def _patiently(read: Callable[[], Answer]) -> Answer:
    for _ in range(ATTEMPTS - 1):
        try:
            return read()
        except SystemError:
            continue
    return read()
