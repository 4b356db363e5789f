"""What a chat begins with: base, draft and settings, from a recipe and a few words. It starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetspec_core.catalog import list_cards
from hetspec_core.events.chat import ChatSettings
from hetspec_core.service.drafts import draft_name
from hetspec_core.service.saved import measured_draft, resolve_saved
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import BaseSpec, ResourcesSpec

DEFAULT_BACKEND = "builtin"
SERVED_DRAFT = "the server's draft"
"""What the draft of a server is called that one attaches to: it has its own, and tells no name."""


@dataclass(frozen=True)
class ChatConfig:
    """What a worker is opened with.

    Attributes:
        base: the base; it stays the same as long as the worker lives.
        resources: device, number type, threads.
        settings: of the first answer.
        backend: card on the axis `backends`.
        backend_options: as the options model of the card has them; only what is not its default.
        notes: sentences for the user, such as why this draft is taken.
    """

    base: BaseSpec
    resources: ResourcesSpec
    settings: ChatSettings
    backend: str = DEFAULT_BACKEND
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)


def chat_config(
    workbench: Workbench,
    recipe: str,
    *,
    draft: str | None = None,
    saved: str | None = None,
    plain: bool = False,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    file: Path | None = None,
    backend: str = "",
) -> ChatConfig:
    """Resolve a recipe into what a chat needs.

    Args:
        workbench: where runs are.
        recipe: recipe preset.
        draft: run or directory; when absent the one that `default_draft` takes, or the own one of a server at a URL.
        saved: run or draft directory whose configuration takes the place of the recipe.
        plain: no draft.
        overrides: KEY=VALUE as for `--set`.
        options: dotted keys of the spec, below `overrides`.
        file: TOML file in the form of a recipe.
        backend: card of the backend; what the spec says when empty.

    Raises:
        SpecError: the recipe does not hold.
        NotFoundError: there is no such recipe or draft, or no draft at all.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if backend:
        given["backend"] = backend
    spec = resolve_saved(workbench, recipe, saved, stage="generate", overrides=overrides, file=file, options=given).spec
    decoding = spec.decoding
    settings = ChatSettings(system_prompt=spec.base.system_prompt, decoding=decoding)
    notes: list[str] = []
    if not (plain or decoding.plain):
        found = measured_draft(workbench, draft, saved, spec, say=notes.append)
        settings = with_served_draft(settings, spec.sglang.url) if found is None else with_draft(settings, found)
    section = getattr(spec, spec.backend, None)  # a backend with options has a section of its name
    return ChatConfig(
        base=spec.base,
        resources=spec.resources,
        settings=settings,
        backend=spec.backend,
        backend_options={} if section is None else section.model_dump(mode="json", exclude_defaults=True),
        notes=tuple(notes),
    )


def with_draft(settings: ChatSettings, folder: Path | None) -> ChatSettings:
    """The settings with another draft; None = plain decoding."""
    if folder is None:
        return settings.model_copy(update={"draft": "", "draft_name": ""})
    return settings.model_copy(update={"draft": str(folder.absolute()), "draft_name": draft_name(folder)})


def with_served_draft(settings: ChatSettings, url: str) -> ChatSettings:
    """The settings with the draft of the server at this URL, which speculates its own way."""
    return settings.model_copy(update={"draft": url, "draft_name": SERVED_DRAFT})


def backends() -> dict[str, str]:
    """Who can run the models: name of the card -> its summary."""
    return {card.name: card.summary for card in list_cards("backends")}
