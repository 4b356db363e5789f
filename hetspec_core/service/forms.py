"""Specs as forms: a field for every key that can be set; it turns typed text into a value, with the spec's errors.

`set_text` writes a value as the right side of `--set`, so that a form and a command line agree.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.config.formulas import FormulaError, parse
from hetspec_core.config.resolve import toml_value
from hetspec_core.errors import NotFoundError
from hetspec_core.spec import AlgorithmSpec, RunSpec, TreeSpec
from hetspec_core.spec.decode import allowed, decode, did_you_mean
from hetspec_core.spec.run import ABSENT, SECTIONS, spec_class

FieldKind = Literal["bool", "integer", "number", "text", "choice", "list"]

COMMON: dict[str, tuple[str, ...]] = {
    "dataset": (
        "dataset.source",
        "dataset.answers",
        "dataset.limit",
        "dataset.max_length",
        "dataset.max_new_tokens",
    ),
    "train": (
        "training.max_steps",
        "training.epochs",
        "training.max_minutes",
        "training.optimizer.lr",
        "training.tokens_per_batch",
        "training.gradient_accumulation",
        "training.max_length",
        "training.seed",
        "draft.vocab_size",
        "draft.architecture.num_hidden_layers",
    ),
    "bench": (
        "bench.prompts",
        "bench.limit",
        "bench.trees",
        "bench.repeats",
        "decoding.max_new_tokens",
        "decoding.sampling.temperature",
    ),
}
"""Stage -> the keys that users change most, in the order of the form."""

STAGE_SECTIONS: dict[str, tuple[str, ...]] = {
    "dataset": ("dataset", "base", "resources"),
    "train": ("training", "draft", "algorithm", "base", "resources"),
    "bench": ("bench", "decoding", "base", "resources"),
}
"""Stage -> the sections that it reads."""

_CARDS = {"draft.backbone": "backbones", "dataset.format": "formats", "algorithm.name": "algorithms"}
_DEFAULT_ALGORITHM = AlgorithmSpec().name
_FROM_THE_FILE = ("name", "summary")  # a preset's name is its file's
_BY_PRESET = ("base.architecture", "base.license", "base.parameters")  # facts about weights, not settings of a run


@dataclass(frozen=True)
class Field:
    """One key of a spec as a line of a form.

    Attributes:
        key: dotted, as after `--set`.
        section: its first part.
        kind: how it is typed.
        needs: what it takes, in words.
        help: its description.
        default: the spec's own; None for an optional one, or one that has none.
        choices: all values, if they are a short list; else empty.
        optional: whether it may be absent.
        formula: whether arithmetic over `base.*` and `draft.*` is allowed too.
        owner, name: the spec that has it, and its key there.
    """

    key: str
    section: str
    kind: FieldKind
    needs: str
    help: str
    default: Any
    choices: tuple[str, ...]
    optional: bool
    formula: bool
    owner: type[BaseModel]
    name: str

    def to_text(self, value: Any) -> str:
        """A value as it is typed."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list | tuple):
            words = [_item_text(item) for item in value]
            plain = all(word == word.strip() and word and "," not in word and word[0] not in "[\"'" for word in words)
            return ", ".join(words) if plain else set_text(list(value))
        return str(value)

    def typed(self, words: str) -> str:
        """The right side of a `--set` as it is typed."""
        try:
            value = toml_value(words)
        except ValueError:
            return words
        return self.to_text(None if value == ABSENT and self.optional else value)

    def read(self, text: str) -> tuple[Any, str]:
        """(value, "") of typed text, or (None, what is wrong with it). An empty text removes the value."""
        words = text.strip()
        if words in ("", ABSENT) and self.optional:
            return None, ""
        value: Any
        if self.kind == "list":
            value, problem = self._read_list(words)
            if problem:
                return None, problem
        elif self.kind in ("text", "choice"):
            value = text.strip() if self.kind == "choice" else text
        elif not words:
            return None, f"needs {self.needs}"
        else:
            try:
                value = toml_value(words)
            except ValueError:
                value = words
            if self.formula and isinstance(value, str):
                return self._read_formula(value)
        return self._check(value)

    def _read_list(self, words: str) -> tuple[Any, str]:
        if words.startswith("["):
            try:
                return toml_value(words), ""
            except ValueError as error:
                return None, f"is no list: {error}"
        items = [item.strip() for item in words.split(",") if item.strip()]
        item_type = _item_type(self.owner.model_fields[self.name].annotation)
        if item_type in (int, float) or _number_or_words(item_type):
            return [toml_value(item) if item[0] not in "[{\"'" else item for item in items], ""
        return list(items), ""

    def _read_formula(self, text: str) -> tuple[Any, str]:
        try:
            parse(text)
        except FormulaError as error:
            return None, f"needs {self.needs}, or a formula: {error}"
        return text, ""

    def _check(self, value: Any) -> tuple[Any, str]:
        if self.choices and value not in self.choices:
            listed = ", ".join(self.choices)
            return None, f"is {value!r}; needs one of {listed}{did_you_mean(str(value), self.choices)}"
        for problem in decode(self.owner, {self.name: value})[1]:
            if problem.key == self.name or problem.key.startswith(f"{self.name}."):
                return None, problem.text
        return value, ""


def fields(*, algorithm: str = _DEFAULT_ALGORITHM, sections: tuple[str, ...] = SECTIONS) -> tuple[Field, ...]:
    """The fields of a recipe, in the order of the spec; a table with free keys has none.

    Args:
        algorithm: card whose options are among them.
        sections: only these.
    """
    return tuple(field for field in _all_fields(algorithm) if field.section in sections)


def launch_fields(stages: tuple[str, ...], *, algorithm: str = _DEFAULT_ALGORITHM) -> tuple[Field, ...]:
    """The fields that some stages read, those changed most first, without the facts about a base's weights."""
    wanted = [section for stage in stages for section in STAGE_SECTIONS[stage]]
    found = {
        field.key: field
        for field in fields(algorithm=algorithm, sections=tuple(dict.fromkeys(wanted)))
        if not field.key.startswith(_BY_PRESET) and field.key not in ("algorithm.name", "training.datasets")
    }
    first = [key for stage in stages for key in COMMON[stage] if key in found]
    rest = [key for section in dict.fromkeys(wanted) for key in found if found[key].section == section]
    return tuple(found[key] for key in dict.fromkeys([*first, *rest]))


def set_text(value: Any) -> str:
    """The right side of `--set` for a value: TOML, or a bare word where that means the same."""
    if value is None:
        return ABSENT
    if isinstance(value, str):
        with_quotes = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if value == ABSENT:
            return value
        try:
            bare = toml_value(value) == value and value == value.strip() and value.isprintable() and value != ""
        except ValueError:
            bare = False
        return value if bare else with_quotes
    if isinstance(value, list | tuple):
        return f"[{', '.join(_quoted(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _quoted(item: Any) -> str:
    if isinstance(item, Mapping):
        item = _item_text(item)
    if isinstance(item, str):
        return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")
    return set_text(item)


def _item_text(item: Any) -> str:
    if isinstance(item, TreeSpec):
        return item.label
    if isinstance(item, Mapping) and set(item) == set(TreeSpec.model_fields):
        return TreeSpec.model_validate(dict(item)).label
    return str(item)


@lru_cache(maxsize=16)
def _all_fields(algorithm: str) -> tuple[Field, ...]:
    found: list[Field] = []
    for section in SECTIONS:
        model = spec_class(RunSpec.model_fields[section].annotation)
        assert model is not None, f"section {section} has no spec"
        found += _of_model(model, section, section, algorithm)
    return tuple(found)


def _of_model(model: type[BaseModel], prefix: str, section: str, algorithm: str) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        key = f"{prefix}.{name}"
        if prefix == section and section in ("base", "draft", "algorithm") and name in _FROM_THE_FILE:
            if key == "algorithm.name":
                yield _field(model, name, info, key, section)
            continue
        inner = spec_class(info.annotation)
        if key == "algorithm.options":
            options = _options_of(algorithm)
            if options is not None:
                yield from _of_model(options, key, section, algorithm)
        elif inner is not None:
            yield from _of_model(inner, key, section, algorithm)
        elif _kind(info) is not None:
            yield _field(model, name, info, key, section)


def _options_of(algorithm: str) -> type[BaseModel] | None:
    try:
        return load_card("algorithms", algorithm).options_model()
    except NotFoundError:
        return None


def _field(model: type[BaseModel], name: str, info: FieldInfo, key: str, section: str) -> Field:
    kind = _kind(info)
    assert kind is not None, f"{key} is no field"
    annotation, optional = _without_none(info.annotation)
    choices = tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()
    if key in _CARDS:
        names = tuple(card.name for card in list_cards(_CARDS[key]))
        choices = ("auto", *names) if key == "dataset.format" else names
    formula = kind in ("integer", "number") and (key.startswith("draft.architecture.") or key == "draft.vocab_size")
    return Field(
        key=key,
        section=section,
        kind="choice" if choices else kind,
        needs=allowed(info),
        help=info.description or "",
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        choices=choices,
        optional=optional,
        formula=formula,
        owner=model,
        name=name,
    )


def _kind(info: FieldInfo) -> FieldKind | None:
    """How a field is typed; None for tables with free keys and for sources, which do not fit in one line."""
    annotation, _ = _without_none(info.annotation)
    simple: dict[Any, FieldKind] = {bool: "bool", int: "integer", float: "number", str: "text"}
    if annotation in simple:
        return simple[annotation]
    if _number_or_words(annotation):
        return "integer"
    origin = get_origin(annotation)
    return "choice" if origin is Literal else "list" if origin is tuple else None


def _number_or_words(annotation: Any) -> bool:
    """Whether a value is a whole number or one of a few words."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation) in (Union, types.UnionType) and int in get_args(annotation)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        branches = [item for item in get_args(annotation) if item is not type(None)]
        if len(branches) == 1:
            return branches[0], True
    return annotation, False


def _item_type(annotation: Any) -> Any:
    plain, _ = _without_none(annotation)
    return get_args(plain)[0] if get_origin(plain) is tuple else None
