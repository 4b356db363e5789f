"""What a chat begins with: base, draft and settings, from a recipe; and the checks of later settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.errors import UsageError
from hetspec_core.events.chat import BaseFacts
from hetspec_core.events.chat_settings import SHORT_KEYS, ChatSettings
from hetspec_core.service.drafts import draft_name
from hetspec_core.service.saved import measured_draft, resolve_saved
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import BaseSpec, ResourcesSpec

DEFAULT_BACKEND = "builtin"
SERVED_DRAFT = "the server's draft"
"""Name of the draft of a running server, which reports none."""


@dataclass(frozen=True)
class ChatConfig:
    """The configuration of a worker.

    Attributes:
        base: the base; it stays loaded until the worker ends.
        resources: device, number type, threads.
        settings: of the first answer.
        backend: card on the axis `backends`.
        backend_options: options of the card that differ from its defaults.
        notes: sentences for the user, such as why this draft is used.
    """

    base: BaseSpec
    resources: ResourcesSpec
    settings: ChatSettings
    backend: str = DEFAULT_BACKEND
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def check_can(self, capability: str, what: str, base: BaseFacts | None) -> None:
        """Check that the backend can do what is asked, by its facts, or by its card while it loads.

        Raises:
            UsageError: it cannot.
        """
        card = load_card("backends", self.backend)
        known = base.capabilities if base is not None else card.capabilities.get("decoding", ())
        if known and capability not in known:
            where = f" at {url}" if (url := self.backend_options.get("url")) else ""
            raise UsageError(
                f"the backend {card.name}{where} cannot {what}",
                hint="the built-in one can: leave --backend and --url out",
            )


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
    """Resolve a recipe into the configuration of a chat.

    Args:
        workbench: of the runs.
        recipe: recipe preset.
        draft: run or directory; when absent that of `default_draft`, or the own one of a server at a URL.
        saved: run or draft directory whose configuration replaces the recipe.
        plain: no draft.
        overrides: KEY=VALUE as for `--set`.
        options: dotted keys of the spec, below `overrides`.
        file: TOML file in the form of a recipe.
        backend: card of the backend; that of the spec when empty.

    Raises:
        SpecError: the recipe is not valid.
        NotFoundError: there is no such recipe or draft, or there is no draft.
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


def change_settings(settings: ChatSettings, values: Mapping[str, Any], base: BaseFacts | None) -> ChatSettings:
    """The settings with other values, by the keys of `ChatSettings` or `SHORT_KEYS`.

    Raises:
        UsageError: there is no such key, its value is not allowed, or the base is of a server with another tree.
    """
    known = (*ChatSettings.model_fields, *SHORT_KEYS)
    unknown = [key for key in values if key not in known]
    if unknown:
        raise UsageError(f"there is no setting {', '.join(unknown)}", hint=f"there are: {', '.join(known)}")
    try:
        changed = settings.changed(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    check_tree(changed.tree, base)
    return changed


def check_tree(tree: str, base: BaseFacts | None) -> None:
    """Check a tree (depth/top_k/num_draft_tokens; "" = plain decoding) against the only one of a running server.

    Raises:
        UsageError: the server has another tree.
    """
    if base is not None and base.tree and tree not in ("", base.tree):
        raise UsageError(
            f"the running server drafts trees of {base.tree}, not {tree}",
            hint="leave the URL out, so that a server is started for every tree",
        )


def backends() -> dict[str, str]:
    """The backends by the name of their card, each with its summary."""
    return {card.name: card.summary for card in list_cards("backends")}
