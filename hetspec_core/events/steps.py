"""One verify step with its whole draft tree, in plain lists: from the built-in engine, from SGLang or from a trace."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TreeStep(BaseModel):
    """One verify step of one answer. Lists of length N+1 begin with the root and then have the nodes in level order.

    Attributes:
        index: number of the step in its answer, from 0.
        tokens: [N+1] the root, then the draft tokens.
        texts: [N+1] text of each token; raw: a view must make it safe.
        parents: [N+1] index of the parent, smaller than the node's own; the root's is 0.
        draft_probs: [N+1] q given the parent; 1 for the root.
        base_probs: [N+1] p given the parent at temperature 1; 1 for the root.
        base_ranks: [N+1] place of the token in the base's distribution at the parent, from 0 (= the likeliest).
        path: accepted nodes, from the first level down, without the root.
        bonus: the token that the base chose itself after the last accepted node.
        bonus_text: its text.
        bonus_prob: p of the bonus token.
        committed: tokens that the step added to the answer: path and bonus, cut at a stop token or the limit.
        kv_tokens: length of the base's key/value cache before the step.
        propose_s, verify_s, other_s: seconds of the phases; 0 where they were not measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    index: int = Field(ge=0)
    tokens: list[int] = Field(min_length=1)
    texts: list[str]
    parents: list[int]
    draft_probs: list[float]
    base_probs: list[float]
    base_ranks: list[int]
    path: list[int] = Field(default_factory=list)
    bonus: int
    bonus_text: str
    bonus_prob: float
    committed: list[int]
    kv_tokens: int = 0
    propose_s: float = 0.0
    verify_s: float = 0.0
    other_s: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> TreeStep:
        size = len(self.tokens)
        for name in ("texts", "parents", "draft_probs", "base_probs", "base_ranks"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries beside {size} tokens")
        if self.parents[0] != 0 or any(not 0 <= parent < node for node, parent in enumerate(self.parents) if node):
            raise ValueError("parents must come before their children, and the root is its own")
        above = 0
        for node in self.path:
            if not 0 < node < size or self.parents[node] != above:
                raise ValueError(f"path {self.path} does not follow the parents from the root")
            above = node
        return self

    @property
    def num_nodes(self) -> int:
        """Nodes N of the tree; the root is not counted."""
        return len(self.tokens) - 1

    @property
    def depths(self) -> list[int]:
        """[N+1] level of every node; 0 for the root."""
        depths = [0] * len(self.parents)
        for node in range(1, len(self.parents)):
            depths[node] = depths[self.parents[node]] + 1
        return depths
