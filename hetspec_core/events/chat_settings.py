"""What a question of a chat carries: the turns of the conversation, and how its answer is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hetspec_core.spec import DecodingSpec, SamplingSpec

PLAIN = "plain"


class ChatRecord(BaseModel):
    """What desk and worker exchange: frozen, unknown keys ignored, so that both may be of different versions."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


class ChatMessage(ChatRecord):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatSettings(ChatRecord):
    """How one answer is made. All of it may change between two answers; the base stays loaded.

    Attributes:
        draft: directory of the draft; empty = plain decoding.
        draft_name: what it is called; never a path.
        system_prompt: system message before the conversation; None = none.
        decoding: tree, sampling and limits. The keys in `SHORT_KEYS` may be given without their table, as traces of
            version 1 have them, and take precedence: `tree="3/2/6"`, `temperature=0.7`.
    """

    draft: str = ""
    draft_name: str = ""
    system_prompt: str | None = None
    decoding: DecodingSpec = Field(default_factory=lambda: DecodingSpec(max_new_tokens=512))

    @model_validator(mode="before")
    @classmethod
    def _from_short_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not any(key in data for key in SHORT_KEYS):
            return data
        rest = {key: value for key, value in data.items() if key not in SHORT_KEYS}
        decoding = rest.get("decoding", {"max_new_tokens": 512})
        decoding = decoding.model_dump() if isinstance(decoding, DecodingSpec) else dict(decoding)
        for key, table in SHORT_KEYS.items():
            if key in data:
                inner = decoding if table is None else decoding.setdefault(table, {})
                inner[key] = data[key]
        return rest | {"decoding": decoding}

    def changed(self, **values: Any) -> ChatSettings:
        """With other values; keys are those of this model, and `SHORT_KEYS`.

        Raises:
            ValidationError: a value is not allowed.
        """
        return ChatSettings.model_validate(self.model_dump() | values)

    def by_short_keys(self) -> dict[str, Any]:
        """All values but the draft's directory, those of `SHORT_KEYS` by their last word."""
        tables = {None: self.decoding, "sampling": self.sampling}
        short = {key: getattr(tables[table], key) for key, table in SHORT_KEYS.items()} | {"tree": self.tree}
        return {"draft_name": self.draft_name, **short, "system_prompt": self.system_prompt}

    @property
    def tree(self) -> str:
        """The tree as depth/top_k/num_draft_tokens."""
        return self.decoding.tree.label

    @property
    def sampling(self) -> SamplingSpec:
        """How the base's next token is taken."""
        return self.decoding.sampling

    @property
    def plain(self) -> bool:
        """Whether there is no draft."""
        return not self.draft

    @property
    def label(self) -> str:
        """The way of decoding in a few words: `plain`, or the draft's name and the tree."""
        return PLAIN if self.plain else f"{self.draft_name or 'draft'} {self.tree}"


SHORT_KEYS: dict[str, str | None] = {
    "tree": None,
    "max_new_tokens": None,
    "ignore_eos": None,
    "temperature": "sampling",
    "top_k": "sampling",
    "top_p": "sampling",
    "seed": "sampling",
}
"""Keys of a `DecodingSpec` that settings take by their last word, and the table that each stands in."""
