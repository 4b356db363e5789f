"""Sizes as formulas: arithmetic over `base.*` and `draft.*`, such as "base.hidden_size // 2". Nothing is executed.

The text is parsed to Python's syntax tree and the few kinds of node allowed here are computed by this module. A ready
evaluator (simpleeval) was turned down: the names must be known before anything is computed, to order the formulas of a
draft and to name circles, and an evaluator of strings, comparisons and attributes allows more than sizes need.
It knows arithmetic, not models.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from hetspec_core.documents import parse_expression

Number = int | float
Value = bool | int | float | str
Lookup = Callable[[str, str], Value]
"""(owner, key) -> value, e.g. ("base", "hidden_size")."""

OWNERS = ("base", "draft")
ALLOWED = "numbers, base.KEY, draft.KEY, + - * / // % **, parentheses, min, max, round"
MAX_LENGTH = 200  # characters; also keeps the parser's recursion small
MAX_MAGNITUDE = 10**15  # far above any size, below the integers that a float holds exactly
_MAX_EXPONENT = 64

_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {  # name -> function, fewest and most arguments
    "min": (min, 2, 16),
    "max": (max, 2, 16),
    "round": (round, 1, 1),
}


class FormulaError(ValueError):
    """A formula that is not allowed or cannot be computed; the text says why, without naming the formula."""


@dataclass(frozen=True)
class Formula:
    """A formula that has been read and found to hold only what is allowed.

    Attributes:
        text: as it was written.
        tree: its syntax tree.
        names: (owner, key) of every name, in order of appearance.
    """

    text: str
    tree: ast.expr
    names: tuple[tuple[str, str], ...]

    def evaluate(self, lookup: Lookup) -> Value:
        """Compute the formula.

        A formula that is one name alone gives that value as it is, of whatever type; arithmetic takes numbers only.

        Raises:
            FormulaError: a division by zero, a result out of bounds, or a name that is no number.
        """
        name = _name(self.tree)
        return lookup(*name) if name is not None else _compute(self.tree, lookup)


@lru_cache(maxsize=512)
def parse(text: str) -> Formula:
    """Read a formula.

    Raises:
        FormulaError: it is too long, not an expression, or holds something that is not allowed.
    """
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"it has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        tree = parse_expression(text.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise FormulaError(f"it is not an arithmetic expression; allowed: {ALLOWED}") from None
    names: list[tuple[str, str]] = []
    _check(tree, names)
    return Formula(text=text, tree=tree, names=tuple(names))


def mentions_names(text: str) -> bool:
    """Whether a text that may be anything is meant as a formula: it parses as one and uses base.* or draft.*."""
    try:
        return bool(parse(text).names)
    except FormulaError:
        return False


def _name(node: ast.expr) -> tuple[str, str] | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OWNERS:
        return node.value.id, node.attr
    return None


def _check(node: ast.expr, names: list[tuple[str, str]]) -> None:
    name = _name(node)
    if name is not None:
        names.append(name)
        return
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            _check(left, names)
            _check(right, names)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            _check(operand, names)
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            _bounded(value)
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in _FUNCTIONS:
            _, fewest, most = _FUNCTIONS[function]
            if not fewest <= len(arguments) <= most:
                wants = str(fewest) if fewest == most else f"{fewest} to {most}"
                raise FormulaError(f"{function} is given {len(arguments)} values; it takes {wants}")
            for argument in arguments:
                _check(argument, names)
        case _:
            raise FormulaError(f"{_quoted(node)} is not allowed; allowed: {ALLOWED}")


def _quoted(node: ast.AST) -> str:
    text = ast.unparse(node)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _compute(node: ast.expr, lookup: Lookup) -> Number:
    name = _name(node)
    if name is not None:
        value = lookup(*name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FormulaError(f"{'.'.join(name)} is {value!r}, which is no number")
        return _bounded(value)
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _apply(op, _compute(left, lookup), _compute(right, lookup))
        case ast.UnaryOp(op=op, operand=operand):
            value = _compute(operand, lookup)
            return -value if isinstance(op, ast.USub) else value
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return _bounded(_FUNCTIONS[function][0](*(_compute(argument, lookup) for argument in arguments)))
        case ast.Constant(value=value) if isinstance(value, int | float):
            return value
    raise FormulaError(f"{_quoted(node)} is not allowed; allowed: {ALLOWED}")  # `parse` lets nothing else through


def _apply(op: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(op, ast.Pow):
        # Checked before it is computed: 9**9**9 would take the machine's memory first.
        if abs(right) > _MAX_EXPONENT:
            raise FormulaError(f"the exponent {right} is out of bounds; at most {_MAX_EXPONENT} is allowed")
        if abs(left) > 1 and right * math.log10(abs(left)) > math.log10(MAX_MAGNITUDE) + 1:
            raise FormulaError(f"{left} ** {right} is larger than {MAX_MAGNITUDE:.0e}")
    try:
        value = _OPERATORS[type(op)](left, right)
    except ZeroDivisionError:
        raise FormulaError("it divides by zero") from None
    except OverflowError:
        raise FormulaError(f"a value in it is larger than {MAX_MAGNITUDE:.0e}") from None
    if isinstance(value, complex):
        raise FormulaError(f"{left} ** {right} is not a real number")
    return _bounded(value)


def _bounded(value: Number) -> Number:
    if not abs(value) <= MAX_MAGNITUDE:  # also true for nan
        raise FormulaError(f"a value in it is larger than {MAX_MAGNITUDE:.0e}")
    return value
