"""What every spec is, and strict decoding of plain data into specs.

Decoding reports every fault at once, each in one sentence with its dotted key. It makes no number from a text and no
text from a number.
"""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from hetspec_core.documents import INT64

Scalar = bool | int | float | str


class Spec(BaseModel):
    """A frozen record that refuses unknown keys, and integers beyond 64 bits, which neither TOML nor the registry has.

    Field descriptions are the help of forms and of `presets show`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=False, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_integers(self) -> Spec:
        for name, value in self:
            if not _fits(value):
                raise ValueError(f"{name} has an integer beyond 64 bits")
        return self


def _fits(value: Any) -> bool:
    if isinstance(value, int):
        return -INT64 <= value < INT64
    if isinstance(value, tuple | list):
        return all(map(_fits, value))
    return all(map(_fits, value.values())) if isinstance(value, dict) else True


Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 80  # characters of a value that are shown in an error


@dataclass(frozen=True)
class Problem:
    """One fault.

    Attributes:
        key: dotted key.
        text: what was seen there and what is allowed.
        place: where it was written, if that is known.
    """

    key: str
    text: str
    place: str = ""

    def __str__(self) -> str:
        where = f" [{self.place}]" if self.place else ""
        return f"{self.key}: {self.text}{where}"


def near_word(word: str, allowed: Iterable[str]) -> str | None:
    """The allowed word that is nearest to `word`: alike in letters, or else the one that begins with it."""
    words = list(allowed)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    longer = [other for other in words if word and other.startswith(word)]
    return near[0] if near else longer[0] if len(longer) == 1 else None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest allowed word, or nothing when none is near."""
    near = near_word(word, allowed)
    return f"; did you mean '{near}'?" if near is not None else ""


def shown(value: object) -> str:
    """A value as TOML would write it, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def decode(model: type[Model], data: Mapping[str, Any], *, prefix: str = "") -> tuple[Model | None, list[Problem]]:
    """Decode `data` strictly.

    Args:
        model: the spec.
        data: plain values as TOML gives them (lists for tuples).
        prefix: dotted key of `data` itself, put before every problem's key.

    Returns:
        The spec and no problems, or None and every problem found.
    """
    found = _not_json(data, prefix)
    if found:
        return None, found
    try:
        # JSON is the strict form in which a list may stand for a tuple.
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        problems: dict[str, Problem] = {}  # a union reports once per branch: one sentence per key is enough
        for fault in error.errors(include_url=False):
            problem = _problem(model, fault, prefix)
            problems.setdefault(problem.key, problem)
        return None, list(problems.values())


def _not_json(value: object, key: str) -> list[Problem]:
    """Values that TOML has and specs have not: dates, times, and integers beyond 64 bits."""
    if isinstance(value, Mapping):
        return [problem for name, item in value.items() for problem in _not_json(item, _join(key, str(name)))]
    if isinstance(value, list | tuple):
        return [problem for index, item in enumerate(value) for problem in _not_json(item, f"{key}.{index}")]
    if isinstance(value, int) and not -INT64 <= value < INT64:
        about = str(value) if abs(value) < 10**24 else f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
        return [Problem(key, f"is {about}; a whole number needs at least -2^63 and less than 2^63")]
    if value is None or isinstance(value, bool | int | float | str):
        return []
    return [Problem(key, f"is {value} ({type(value).__name__}); no key takes a date or time, write it as text")]


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix and key else prefix or key


def _problem(model: type[BaseModel], fault: Any, prefix: str) -> Problem:
    keys, field, owner = _locate(model, fault["loc"])
    key = _join(prefix, ".".join(keys))
    value, kind = fault["input"], fault["type"]
    needs = allowed(field) if field is not None else ""
    if kind == "missing":
        about = f"; it is {field.description}" if field is not None and field.description else ""
        return Problem(key, f"is missing; needs {needs or 'a value'}{about}".rstrip("."))
    if kind == "extra_forbidden":
        known = tuple(owner.model_fields) if owner is not None else ()
        return Problem(key, f"unknown key{did_you_mean(keys[-1], known) or '; known: ' + ', '.join(known)}")
    if kind in ("value_error", "assertion_error"):
        return Problem(key, str(fault["ctx"]["error"]))
    if kind.startswith("union_tag"):
        kinds = fault["ctx"].get("expected_tags", "'hub', 'package', 'path'")
        return Problem(
            _join(key, "kind"), f"is {shown(value.get('kind') if isinstance(value, dict) else value)}; needs {kinds}"
        )
    if not needs:
        return Problem(key, f"is {shown(value)}; {fault['msg'][:1].lower()}{fault['msg'][1:]}")
    near = did_you_mean(value, _choices(field)) if isinstance(value, str) else ""
    return Problem(key, f"is {shown(value)}; needs {needs}{near}")


def _locate(
    model: type[BaseModel], location: Sequence[str | int]
) -> tuple[list[str], FieldInfo | None, type[BaseModel] | None]:
    """Dotted keys of a pydantic location (union branches in it are no keys), its field, and the spec with that key."""
    keys: list[str] = []
    field: FieldInfo | None = None
    owner: type[BaseModel] | None = None
    current: Any = model
    for step in location:
        if isinstance(current, tuple):  # a tagged union: the step is the tag
            current = next((branch for branch in current if _tag(branch) == step), None)
        elif isinstance(current, type) and issubclass(current, BaseModel):
            owner, field = current, current.model_fields.get(str(step))
            keys.append(str(step))
            current = _inner(field.annotation) if field is not None else None
        elif get_origin(current) in (dict, tuple, list):
            arguments = get_args(current)
            keys.append(str(step))
            item = arguments[-1] if get_origin(current) is dict else arguments[0]
            field, owner, current = FieldInfo(annotation=item), None, _inner(item)
    return keys, field, owner


def _inner(annotation: Any) -> Any:
    """An annotation without None and metadata; a tuple of specs for a tagged union."""
    if get_origin(annotation) is Annotated:
        return _inner(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        branches = tuple(branch for branch in get_args(annotation) if branch is not type(None))
        if len(branches) == 1:
            return branches[0]
        if all(isinstance(branch, type) and issubclass(branch, BaseModel) for branch in branches):
            return branches
    return annotation


def _tag(branch: type[BaseModel]) -> object:
    field = branch.model_fields.get("kind")
    return field.default if field is not None else None


def _choices(field: FieldInfo | None) -> tuple[str, ...]:
    annotation = _inner(field.annotation) if field is not None else None
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def allowed(field: FieldInfo) -> str:
    """What a field takes, in words: `a whole number > 0`, `one of 'a', 'b'`, `a list of text`."""
    bounds = []
    for item in field.metadata:
        bounds += [
            f"{sign} {getattr(item, name)}"
            for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
            if getattr(item, name, None) is not None
        ]
        if getattr(item, "min_length", None):
            bounds.append(f"(at least {item.min_length})")
    return " ".join([_words(_inner(field.annotation)), " and ".join(bounds)]).strip()


def _words(annotation: Any) -> str:
    simple = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
    if annotation in simple:
        return simple[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(repr(choice) for choice in arguments)}"
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is not Ellipsis:
            return f"a list of two: {_words(arguments[0])}, {_words(arguments[1])}"
        return f"a list of {_words(_inner(arguments[0]))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(item) for item in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a table with {', '.join(annotation.model_fields)}"
    return "a table" if isinstance(annotation, tuple) or origin is dict else "another type"
