"""A card: what the desk knows of one interchangeable part without importing it.

The card names its part by a string; only `load` imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hetspec_core.errors import NotFoundError, SpecError

if TYPE_CHECKING:
    from pydantic import BaseModel

AXES: dict[str, str] = {
    "algorithms": "How a draft is trained and what head it gets.",
    "backbones": "Families of decoder layers that a draft can be made of.",
    "formats": "Forms of dataset rows that can be read.",
    "layouts": "Forms of draft directories that can be read, and some written.",
    "stages": "What a worker can do in a run folder.",
    "executors": "Where workers are started.",
    "backends": "Who runs base and draft when they decode.",
}
"""Axis -> what varies along it."""

_ENGINE_PACKAGES = frozenset({"torch", "transformers", "datasets", "accelerate", "safetensors", "gguf"})


@dataclass(frozen=True)
class Card:
    """One part that a spec can name.

    Attributes:
        axis: one of `AXES`.
        name: what a spec says; unique on its axis.
        target: `module:attribute` of the part.
        summary: one line for lists.
        options: `module:attribute` of the pydantic model of its options; empty = it has none.
        capabilities: facts that validation needs, e.g. the model_type of a backbone.
        source: the paper or page it follows.
        provider: who registered it; HetSpec's own say "hetspec".
    """

    axis: str
    name: str
    target: str
    summary: str
    options: str = ""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    provider: str = "hetspec"

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise SpecError(f"card {self.name!r} is on axis {self.axis!r}; allowed: {', '.join(AXES)}")
        for what, text in (("target", self.target), ("options", self.options)):
            module, _, attribute = text.partition(":")
            if text and not (module and attribute):
                raise SpecError(f"card {self.axis}/{self.name} has {what} {text!r}; needs 'module:attribute'")
        if not self.name or not self.target:
            raise SpecError(
                f"a card on axis {self.axis} needs a name and a target; seen {self.name!r}, {self.target!r}"
            )

    def load(self) -> Any:
        """Import the part.

        Raises:
            NotFoundError: its module or attribute is not there; the hint says what to install.
        """
        return _imported(self, self.target)

    def load_capability(self, name: str) -> Any:
        """Import what a capability names as `module:attribute`, e.g. the head of an algorithm.

        Raises:
            NotFoundError: the card has no such capability, or what it names is not there.
        """
        target = self.capabilities.get(name)
        if not isinstance(target, str) or ":" not in target:
            raise NotFoundError(
                f"card {self.axis}/{self.name} of {self.provider} names no {name}",
                hint=f"its capabilities need {name} = 'module:attribute'",
            )
        return _imported(self, target)

    def options_model(self) -> type[BaseModel] | None:
        """The pydantic model of the options; None when the part has none."""
        return _imported(self, self.options) if self.options else None

    def captured_layers(self, options: Mapping[str, Any], base_layers: int) -> tuple[int, ...]:
        """Layers of the base that an algorithm reads besides the final state; its options model may say which.

        Args:
            options: as in a spec; they must hold.
            base_layers: decoder layers of the base.
        """
        model = self.options_model()
        captured = getattr(model, "captured_layers", None)
        return () if captured is None else captured(self.check_options(options), base_layers)

    def check_options(self, options: Mapping[str, Any]) -> Any:
        """The options as an instance of the options model, defaults filled in.

        Raises:
            SpecError: an option is unknown or its value not allowed; every problem is listed.
        """
        from hetspec_core.spec.decode import decode

        model = self.options_model()
        if model is None:
            if options:
                raise SpecError(f"{self.axis}/{self.name} takes no options; seen: {', '.join(options)}")
            return None
        decoded, problems = decode(model, options, prefix="options")
        if decoded is None:
            raise SpecError(
                f"options of {self.axis}/{self.name} are not valid", problems=[str(item) for item in problems]
            )
        return decoded


def _imported(card: Card, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        part = import_module(module)
        for name in attribute.split("."):
            part = getattr(part, name)
    except (ImportError, AttributeError) as error:
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        hint = "install the engine: pip install 'hetspec[engine]'" if missing in _ENGINE_PACKAGES else ""
        raise NotFoundError(
            f"{card.axis}/{card.name} of {card.provider} cannot be imported from {target}: {error}", hint=hint
        ) from error
    return part
