"""Reading Python's syntax in several threads. It executes nothing.

CPython 3.11 counts the depth of the syntax tree that it builds in one counter for all threads. Two threads that build a
tree at the same time can read each other's count, and one of them raises SystemError ("AST constructor recursion depth
mismatch"). Every reader of syntax in a program with threads therefore holds one lock.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Words = ParamSpec("Words")
Answer = TypeVar("Answer")

_LOCK = threading.RLock()  # reentrant: a finalizer that runs while a tree is built may read syntax itself


def one_at_a_time(read: Callable[Words, Answer]) -> Callable[Words, Answer]:
    """The function, so that no two threads are in a function of this kind at once."""

    @wraps(read)
    def locked(*words: Words.args, **options: Words.kwargs) -> Answer:
        with _LOCK:
            return read(*words, **options)

    return locked


@one_at_a_time
def parse_module(text: str) -> ast.Module:
    """The syntax tree of a file; errors as of `ast.parse`."""
    return ast.parse(text)


@one_at_a_time
def parse_expression(text: str) -> ast.expr:
    """The syntax tree of an expression; errors as of `ast.parse`."""
    return ast.parse(text, mode="eval").body
