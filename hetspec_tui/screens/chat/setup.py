"""What a chat is set up with, as it is kept from one start to the next, and what each part of it can be.

It asks the service, in the desk's threads; it draws nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetspec_core.errors import NotFoundError, UsageError
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.service.chat.setup import SERVED_DRAFT, ChatConfig, backends, chat_config
from hetspec_core.service.drafts import checkpoint_choices, draft_choices
from hetspec_core.service.launch import names
from hetspec_tui.dialogs import Choice

if TYPE_CHECKING:
    from hetspec_core.service.workbench import Workbench

RECIPE = "smollm2-llama-eagle"
SGLANG = "sglang"
NONE, NEWEST, SERVED, OTHER, CHECKPOINT = "none", "", "server", "…", "checkpoint"
SERVER_KEYS = {"url": "", "plain_url": ""}
"""What is told of servers that one attaches to -> when nothing is."""
TREES = {
    "6/10/60": "wide: the usual one of EAGLE-2",
    "5/8/32": "half as many nodes",
    "4/4/12": "small",
    "3/2/6": "very small",
    "4/1/4": "a chain of four",
    "6/1/6": "a chain of six",
    "1/1/1": "one guess",
}


@dataclass(frozen=True)
class Setup:
    """What is loaded, and how answers begin. Empty words leave it to the recipe.

    Attributes:
        recipe, base: presets.
        draft: a run, a directory, `none`, `server`, or empty for the newest one trained on the base.
        backend: a card.
        url, plain_url: servers to attach to, with and without a draft; empty = SGLang is started here.
        settings: of the chat settings those that were changed here.
    """

    recipe: str = RECIPE
    base: str = ""
    draft: str = NEWEST
    backend: str = "builtin"
    url: str = ""
    plain_url: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, kept: dict[str, Any]) -> Setup:
        """From `to_json`, of this version or another; what does not fit is left out."""
        words = {key: kept[key] for key in _WORDS if isinstance(kept.get(key), str)}
        settings = kept.get("settings")
        known = {key: settings[key] for key in _CHANGEABLE if key in settings} if isinstance(settings, dict) else {}
        return cls(**words, settings=known)

    def changed(self, **settings: Any) -> Setup:
        return dataclasses.replace(self, settings={**self.settings, **settings})

    def config(self, workbench: Workbench) -> ChatConfig:
        """What a session begins with. Without any draft there is plain decoding.

        Raises:
            HetSpecError: the recipe, or a draft that was named, is not there.
        """
        options = {"base.preset": self.base or None, "backend": self.backend}
        if self.backend == SGLANG:
            options |= {"sglang.url": self.url or None, "sglang.plain_url": (self.url and self.plain_url) or None}
        word = None if self.draft in (NONE, NEWEST, SERVED) else self.draft
        try:
            made = chat_config(workbench, self.recipe, draft=word, plain=self.draft == NONE, options=options)
        except NotFoundError:
            if word is not None:
                raise
            made = chat_config(workbench, self.recipe, plain=True, options=options)  # none trained yet
        try:
            settings = made.settings.changed(**self.settings)
        except ValueError:  # kept by another version
            settings = made.settings
        return dataclasses.replace(made, settings=settings)


_WORDS = ("recipe", "base", "draft", "backend", *SERVER_KEYS)
_CHANGEABLE = ("tree", "temperature", "top_k", "top_p", "seed", "max_new_tokens", "system_prompt")


def draft_list(workbench: Workbench, base: str, url: str = "") -> list[Choice]:
    """Drafts for a base, as choices: none, a server's own, those of runs, a checkpoint, another directory."""
    found = [Choice(NONE, "none", "plain decoding")]
    if url:
        found.append(Choice(SERVED, SERVED_DRAFT, url))
    found += [Choice(str(one.folder), one.name, f"run {one.run_id}") for one in draft_choices(workbench, base)]
    found.append(Choice(CHECKPOINT, "a checkpoint…", "of any run on this base"))
    return [*found, Choice(OTHER, "a directory or run…", "an imported draft, for instance")]


def checkpoint_list(workbench: Workbench, base: str) -> list[Choice]:
    """Checkpoints of runs on a base, as choices."""
    return [Choice(f"{one.folder}", one.name, f"run {one.run_id}") for one in checkpoint_choices(workbench, base)]


def recipe_list() -> list[Choice]:
    """Recipes, as choices."""
    return [Choice(name, name, about) for name, about in names("recipe").items()]


def base_list() -> list[Choice]:
    """Bases, as choices."""
    return [Choice(name, name, about) for name, about in names("base").items()]


def backend_list() -> list[Choice]:
    """Backends, as choices."""
    return [Choice(name, name, about) for name, about in backends().items()]


def tree_list(present: str) -> list[Choice]:
    """Tree shapes, as choices: depth/top_k/nodes."""
    shapes = TREES if present in TREES else {present: "the present one", **TREES}
    return [
        *(Choice(tree, tree, about) for tree, about in shapes.items()),
        Choice(OTHER, "another…", "depth/top_k/nodes"),
    ]


def setting_list(settings: ChatSettings, setup: Setup, base: str) -> list[Choice]:
    """What can be set, with what it is now."""
    system = settings.system_prompt
    listed = [
        Choice("draft", f"draft           {settings.draft_name or 'none'}", "the small model that guesses"),
        Choice("tree", f"tree            {settings.tree}", "depth/top_k/nodes of its guesses"),
        Choice("temperature", f"temperature     {settings.sampling.temperature:g}", "0 = always the likeliest token"),
        Choice("system_prompt", f"system prompt   {system if system else 'none'}", ""),
        Choice("max_new_tokens", f"max new tokens  {settings.decoding.max_new_tokens}", "most tokens of an answer"),
        Choice("top_p", f"top_p           {settings.sampling.top_p:g}", "when sampling"),
        Choice("top_k", f"top_k           {settings.sampling.top_k}", "when sampling; 0 = all"),
        Choice("seed", f"seed            {settings.sampling.seed}", "when sampling"),
        Choice("base", f"base            {base}", "another one is loaded anew"),
        Choice("recipe", f"recipe          {setup.recipe}", "base, its draft and machine, as a preset says"),
        Choice("backend", f"backend         {setup.backend}", "who runs the models; they are loaded anew"),
    ]
    if setup.backend == SGLANG:
        listed.append(Choice("url", f"server          {setup.url or 'is started here'}", "a running one to attach to"))
    if setup.backend == SGLANG and setup.url:
        plain = setup.plain_url or "none"
        listed.append(Choice("plain_url", f"plain server    {plain}", "the same base without a draft, for A/B"))
    return listed


def read_setting(key: str, text: str) -> Any:
    """A setting from what was typed.

    Raises:
        UsageError: it is no number where one is needed.
    """
    text = text.strip()
    if key == "system_prompt":
        return text or None
    if key in SERVER_KEYS:
        return text
    if key == "tree":
        return text
    try:
        return float(text) if key in ("temperature", "top_p") else int(text)
    except ValueError:
        raise UsageError(f"{key} is {text!r}; it needs a number") from None


def draft_folder(workbench: Workbench, word: str) -> Path:
    """The directory of the draft that is meant.

    Raises:
        NotFoundError: there is none.
    """
    return workbench.resolve_input(word, "draft")
