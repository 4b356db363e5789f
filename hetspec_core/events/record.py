"""What records are made of: their field types, and how a record of any version, or a damaged one, is read.

A record that is written has exactly the keys that were given. One that is read may be of another version or damaged:
missing keys have their defaults, unknown keys are kept, a number that is not finite is None, and a value of the wrong
type is left out and named as a problem.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

_MOST_PASSES = 100  # over a damaged record: each takes at least one value out
_SHOWN = 40  # characters of a value in a problem
_LONGEST_KEY = 4  # digits of the tokens that one verify step commits


def _finite(value: Any) -> Any:
    """None for a number that is not finite or beyond float64; anything else unchanged."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return value if math.isfinite(value) else None
        except OverflowError:
            return None
    return value


def _interval(value: Any) -> Any:
    """None for an interval with an end that is not finite.

    Raises:
        ValueError: it is not a pair of numbers.
    """
    if not isinstance(value, list | tuple):
        return value
    ends = [_finite(end) for end in value]
    if len(ends) != 2 or not all(end is None or isinstance(end, int | float) for end in ends):
        raise ValueError("two numbers")
    return None if None in ends else tuple(ends)


def _counts(value: Any) -> Any:
    """A histogram as it is.

    Raises:
        ValueError: a key or a count is not a whole number. The histogram is then of no use as a whole, because sums
            and means over what is left of it would be wrong.
    """
    if isinstance(value, dict):
        for key, count in value.items():
            number = _finite(count)
            whole = isinstance(number, int | float) and not isinstance(number, bool) and number >= 0 == number % 1
            if not whole or not str(key).isdecimal() or len(str(key)) > _LONGEST_KEY:
                raise ValueError("a table of whole numbers")
    return value


Real = Annotated[float | None, BeforeValidator(_finite)]
Count = Annotated[int | None, BeforeValidator(_finite)]
Interval = Annotated[tuple[float, float] | None, BeforeValidator(_interval)]
Histogram = Annotated[dict[int, int], BeforeValidator(_counts)]


class Record(BaseModel):
    """A part of a record. Keys that this version does not know are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """As JSON types, with the keys that were given."""
        return self.model_dump(mode="json", exclude_unset=True)


# --- reading ----------------------------------------------------------------------------------------------------------

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class ReadRecord(Generic[RecordT]):
    """A record that was read, and the problems that were found in it.

    Attributes:
        record: what can be read.
        problems: each value that was left out, and what it should be.
    """

    record: RecordT
    problems: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """One sentence on the problems; empty when there are none."""
        problems = list(self.problems)
        if not problems:
            return ""
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        return f"the record is damaged: {problems[0]}{more}; only what can be read is shown"


def read_record(model: type[RecordT], data: Any) -> ReadRecord[RecordT]:
    """Read a record of any version, as far as it can be read. It raises nothing, whatever JSON data is given.

    Args:
        model: the type of the record.
        data: JSON data; it is not changed.
    """
    try:
        value = _copied(data)
    except RecursionError:
        return ReadRecord(model(), ("it is nested too deeply",))
    problems: list[str] = []
    for _ in range(_MOST_PASSES):
        try:
            return ReadRecord(model.model_validate(value), tuple(problems))
        except ValidationError as error:
            faults = error.errors(include_url=False)
            problems += [_problem(one["loc"], one["input"], one["type"], one.get("ctx", {})) for one in faults]
            for fault in reversed(faults):  # from the end, so that positions in lists hold
                if not fault["loc"]:
                    return ReadRecord(model(), tuple(problems))
                _take_out(value, fault["loc"])
    return ReadRecord(model(), tuple(problems))


def _copied(value: Any) -> Any:
    """A copy of JSON data in which numbers that are not finite are None."""
    if isinstance(value, dict):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return _finite(value)


def _take_out(value: Any, location: tuple[int | str, ...]) -> None:
    """Remove what is at this place; where nothing is there (a list that is too short), remove what should hold it."""
    *way, last = location
    holders = [value]
    for step in way:
        try:
            holders.append(holders[-1][step])
        except (LookupError, TypeError):
            break
    for holder, key in zip(reversed(holders), reversed([*way, last][: len(holders)]), strict=True):
        try:
            del holder[key]
        except (LookupError, TypeError):
            continue
        return


def _problem(location: tuple[int | str, ...], value: Any, kind: str, context: dict[str, Any]) -> str:
    place = ".".join(map(str, location)) or "it"
    if kind == "value_error":
        expected = str(context.get("error", ""))
    elif kind in ("model_type", "dict_type"):
        expected = "a table"
    elif kind in ("list_type", "tuple_type"):
        expected = "a list"
    else:
        expected = "text" if kind.startswith("string") else "a number"
    shown = repr(value)
    return f"{place} is {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}, not {expected}"
