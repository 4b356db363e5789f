"""Formulas: Python's own arithmetic for what is allowed, a clear refusal for everything else."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hetspec_core.config.formulas import MAX_MAGNITUDE, FormulaError, mentions_names, parse

VALUES = {
    ("base", "hidden_size"): 576,
    ("base", "heads"): 9,
    ("base", "coef"): 0.001,
    ("base", "tied"): True,
    ("base", "act"): "silu",
    ("draft", "experts"): 8,
}


def evaluate(text: str) -> object:
    return parse(text).evaluate(lambda owner, key: VALUES[owner, key])


atoms = st.one_of(
    st.integers(0, 50).map(str),
    st.floats(0.01, 50).map(repr),
    st.sampled_from(["base.hidden_size", "base.heads", "base.coef", "draft.experts"]),
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        inner.map("round({})".format),
    )


class _Names:
    def __init__(self, owner: str) -> None:
        self.__dict__.update({key: value for (holder, key), value in VALUES.items() if holder == owner})


@given(st.recursive(atoms, grown, max_leaves=8))
def test_results_are_those_of_python(text: str) -> None:
    assume(len(text) <= 200)
    try:
        ours = evaluate(text)
    except FormulaError as error:
        assert str(error)
        return
    theirs = eval(
        text, {"__builtins__": {}, "min": min, "max": max, "round": round}, {n: _Names(n) for n in ("base", "draft")}
    )
    assert type(ours) is type(theirs)
    assert ours == theirs
    assert abs(theirs) <= MAX_MAGNITUDE


@given(st.recursive(atoms, grown, max_leaves=4))
def test_small_formulas_without_powers_and_divisions_are_never_refused(text: str) -> None:
    assume(len(text) <= 200 and not set("/%").intersection(text) and "**" not in text)
    assert isinstance(evaluate(text), int | float)


@given(st.text(max_size=60))
def test_any_text_is_computed_or_refused(text: str) -> None:
    try:
        formula = parse(text)
        formula.evaluate(lambda owner, key: 3)
    except FormulaError:
        pass


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("base.hidden_size // draft.experts", 72),
        ("base.coef / 2", 0.0005),
        ("  base.hidden_size  ", 576),
        ("base.tied", True),
        ("base.act", "silu"),
        ("round(base.hidden_size / 7)", 82),
        ("max(base.heads, 16, 4)", 16),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("7 % 4", 3),
        ("+3", 3),
    ],
)
def test_values(text: str, value: object) -> None:
    result = evaluate(text)
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "base.__class__.__init__",
        "base.hidden_size.real",
        "base",
        "other.hidden_size",
        "open('x')",
        "(lambda: 1)()",
        "[1][0]",
        "1 if 2 else 3",
        "1 < 2",
        "1 and 2",
        "~1",
        "1 << 2",
        "'a' * 3",
        "True + 1",
        "1j",
        "f'{1}'",
        "x := 1",
        "min(*[1, 2])",
        "round(1.5, ndigits=1)",
        "round(1.5, 1)",
        "min(1)",
        "base.hidden_size()",
        "1,2",
        "import os",
        "",
        "1 +",
        "\x00",
        "(" * 150,
        "1" * 201,
        "9" * 30,
        "1e999",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(FormulaError):
        evaluate(text)


def test_a_refusal_says_what_is_allowed() -> None:
    with pytest.raises(FormulaError, match=r"'open\(1\)' is not allowed; allowed: numbers, base\.KEY, draft\.KEY, \+"):
        parse("open(1)")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9 ** 9 ** 9", "exponent"),
        ("9 ** 64", "larger than"),
        ("1e15 * 10", "larger than"),
        ("1 // 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("(-8) ** 0.5", "not a real number"),
        ("base.act * 2", "base.act is 'silu', which is not a number"),
        ("base.tied + 1", "base.tied is True, which is not a number"),
    ],
)
def test_what_cannot_be_computed_says_why(text: str, said: str) -> None:
    with pytest.raises(FormulaError, match=said):
        evaluate(text)


def test_names_are_known_before_anything_is_computed() -> None:
    assert parse("base.a // (draft.b + base.a)").names == (("base", "a"), ("draft", "b"), ("base", "a"))


@pytest.mark.parametrize(
    ("text", "formula"),
    [("silu", False), ("3", False), ("base.x", True), ("draft.x / 2", True), ("data.base.x", False)],
)
def test_only_texts_that_name_a_size_are_formulas_where_texts_may_mean_anything(text: str, formula: bool) -> None:
    assert mentions_names(text) is formula
