"""Sizes as formulas: arithmetic over `base.*` and `draft.*`, such as "base.hidden_size // 2". Nothing is executed.

The text is parsed to Python's syntax tree, and this module computes the few kinds of node that it allows. A ready
evaluator (simpleeval) does not fit: the names must be known before anything is computed, to order the formulas of a
draft and to name circles, and an evaluator of strings, comparisons and attributes allows more than sizes need.

`compute_sizes` puts values in the place of a draft's formulas, in the order in which they need each other. Every size
may be a formula. Further keys (`extra`) may hold any text; such a text is a formula if it names a base.KEY or
draft.KEY. In its own formula, a size stands for the value in the layer beneath:
`router_aux_loss_coef = "draft.router_aux_loss_coef / 2"` halves what the extended preset says.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

from hetspec_core.config.origins import Key, Leaf, Table, plain
from hetspec_core.documents import parse_expression
from hetspec_core.spec import Architecture, DraftSpec
from hetspec_core.spec.decode import Problem, allowed, did_you_mean, shown
from hetspec_core.spec.run import ABSENT

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
            FormulaError: a division by zero, a result out of bounds, or a name that is not a number.
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
            raise FormulaError(f"{'.'.join(name)} is {value!r}, which is not a number")
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


# --- the sizes of a draft ---------------------------------------------------------------------------------------------

_NOT_SIZES = ("model_type", "extra")


class _UpstreamError(Exception):
    """A formula needs a size that has a problem of its own, which is reported there."""


def compute_sizes(draft: Table, base: Table) -> tuple[Table, list[Problem], set[str]]:
    """The draft's table with values for formulas.

    Args:
        draft: the merged table of the draft (not changed).
        base: the merged table of the base.

    Returns:
        The table, in which a formula that failed has no entry; a problem for every formula that failed by itself;
        and the dotted keys of these and of those that needed them.
    """
    return _Sizes(draft, base).compute()


def known_sizes(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Every name that formulas may use of an architecture: its keys, its further keys, and defaults.

    A head width that is not given is hidden_size // num_attention_heads, as Hugging Face has it.
    """
    known = {name: field.default for name, field in Architecture.model_fields.items() if not field.is_required()}
    known.update({name: value for name, value in architecture.items() if name != "extra"})
    extra = architecture.get("extra")
    known = {**(extra if isinstance(extra, Mapping) else {}), **known}
    width, heads = known.get("hidden_size"), known.get("num_attention_heads")
    if known.get("head_dim") in (None, ABSENT) and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        known["head_dim"] = width // heads
    return {name: value for name, value in known.items() if name != "extra" and value is not None and value != ABSENT}


class _Sizes:
    def __init__(self, draft: Table, base: Table) -> None:
        self._draft = draft
        architecture = draft.get("architecture")
        self._table: Table = architecture if isinstance(architecture, dict) else {}
        extra = self._table.get("extra")
        self._extra: Table = extra if isinstance(extra, dict) else {}
        sizes = base.get("architecture")
        self._base = known_sizes(plain(sizes)) if isinstance(sizes, dict) else {}
        self._values: dict[str, Value] = {}
        self._failed: dict[str, Problem | None] = {}
        self._stack: list[str] = []

    def compute(self) -> tuple[Table, list[Problem], set[str]]:
        table, extra = dict(self._table), dict(self._extra)
        for name, leaf in self._formulas():
            target, key = (
                (extra, ("architecture", "extra", name)) if name not in self._table else (table, ("architecture", name))
            )
            self._place(target, name, leaf, key)
        if self._extra:
            table["extra"] = extra
        draft = dict(self._draft)
        if self._table:
            draft["architecture"] = table
        reduced = draft.get("vocab_size")
        if isinstance(reduced, Leaf) and _is_formula(reduced.value):
            self._place(draft, "vocab_size", reduced, ("vocab_size",))
        problems = [problem for problem in self._failed.values() if problem is not None]
        return draft, problems, {f"draft.{key}" for key in self._failed}

    def _formulas(self) -> Iterator[tuple[str, Leaf]]:
        for name, item in self._table.items():
            if (
                name in Architecture.model_fields
                and name not in _NOT_SIZES
                and isinstance(item, Leaf)
                and _is_formula(item.value)
            ):
                yield name, item
        for name, item in self._extra.items():
            if (
                name not in self._table
                and isinstance(item, Leaf)
                and isinstance(item.value, str)
                and mentions_names(item.value)
            ):
                yield name, item

    def _place(self, target: Table, name: str, leaf: Leaf, key: Key) -> None:
        try:
            value = self._value_of(name, leaf, key)
        except _UpstreamError:
            del target[name]
            return
        place = replace(leaf.place, formula=f"formula {leaf.value!r} = {shown(value)}")
        target[name] = Leaf(value, place, leaf.beneath)

    def _value_of(self, name: str, leaf: Leaf, key: Key) -> Value:
        """Value of one formula, remembered; its failure is recorded once, under its key."""
        identity = ".".join(key)
        if identity in self._failed:
            raise _UpstreamError
        if identity not in self._values:
            try:
                value = self._evaluate(name, leaf, key)
                self._check_type(name, key, leaf.value, value)
            except FormulaError as error:
                text = f"formula {leaf.value!r}: {error}"
                self._failed[identity] = Problem(f"draft.{identity}", text, str(leaf.place))
                raise _UpstreamError from None
            except _UpstreamError:
                self._failed.setdefault(identity, None)
                raise
            self._values[identity] = value
        return self._values[identity]

    def _evaluate(self, name: str, leaf: Leaf, key: Key) -> Value:
        formula = parse(leaf.value)
        self._stack.append(name if len(key) > 1 else "")

        def lookup(owner: str, wanted: str) -> Value:
            if owner == "base":
                return self._known(owner, wanted, self._base)
            if len(key) > 1 and wanted == name:
                return self._beneath(name, leaf, key)
            return self._draft_value(wanted)

        try:
            return formula.evaluate(lookup)
        finally:
            self._stack.pop()

    def _beneath(self, name: str, leaf: Leaf, key: Key) -> Value:
        below = leaf.beneath
        if below is None:
            fields = Architecture.model_fields
            default = fields[name].default if name in fields and not fields[name].is_required() else None
            if default is None:
                raise FormulaError(f"draft.{name} stands for the value beneath this one, and there is none")
            return default
        if isinstance(below.value, str) and (len(key) == 2 or mentions_names(below.value)):
            self._stack.pop()  # the same size again, one layer down: no circle
            try:
                return self._evaluate(name, below, key)
            finally:
                self._stack.append(name)
        return below.value

    def _draft_value(self, wanted: str) -> Value:
        if wanted in self._stack:
            circle = [*self._stack[self._stack.index(wanted) :], wanted]
            raise FormulaError(f"it is circular: {' -> '.join(f'draft.{name}' for name in circle)}")
        for table, key in ((self._table, ("architecture", wanted)), (self._extra, ("architecture", "extra", wanted))):
            leaf = table.get(wanted)
            if isinstance(leaf, Leaf) and isinstance(leaf.value, str) and wanted not in _NOT_SIZES:
                in_extra = len(key) == 3
                if mentions_names(leaf.value) if in_extra else _is_formula(leaf.value):
                    return self._value_of(wanted, leaf, key)
        if wanted == "head_dim" and not isinstance(self._table.get("head_dim"), Leaf):
            width, heads = self._draft_value("hidden_size"), self._draft_value("num_attention_heads")
            if isinstance(width, int) and isinstance(heads, int) and heads > 0:
                return width // heads
        return self._known("draft", wanted, known_sizes(plain(self._table)))

    @staticmethod
    def _known(owner: str, wanted: str, known: Mapping[str, Any]) -> Value:
        if wanted in known:
            return known[wanted]
        if wanted in Architecture.model_fields:
            raise FormulaError(f"{owner}.{wanted} is not set; set are: {', '.join(sorted(known))}")
        near = did_you_mean(wanted, known)
        raise FormulaError(f"there is no {owner}.{wanted}{near or '; there are: ' + ', '.join(sorted(known))}")

    @staticmethod
    def _check_type(name: str, key: Key, text: str, value: Value) -> None:
        if len(key) == 3:
            return  # a further key: the Hugging Face configuration knows its type
        field = (DraftSpec if len(key) == 1 else Architecture).model_fields[name]
        annotation = field.annotation
        wanted = next(kind for kind in (bool, int, float) if kind in (annotation, *get_args(annotation)))
        numbers = int if wanted is int else int | float
        if isinstance(value, bool) if wanted is bool else isinstance(value, numbers) and not isinstance(value, bool):
            return
        halved = wanted is int and isinstance(value, float) and "/" in text
        way_out = "; // divides to a whole number" if halved else ""
        raise FormulaError(f"it gives {shown(value)}; needs {allowed(field)}{way_out}")


def _is_formula(value: object) -> bool:
    return isinstance(value, str) and value != ABSENT
