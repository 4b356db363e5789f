"""Specs of decoding: the draft tree, sampling, when to stop, and what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hetspec_core.quantities import is_greedy
from hetspec_core.spec.decode import Spec


class TreeSpec(Spec):
    """Shape of the EAGLE-2 draft tree (arXiv 2406.16858). A chain is the tree with top_k 1.

    With `auto` the shape is a bound, and every answer is decoded with the shape within it that is predicted to be
    fastest, or plainly where none is.
    """

    depth: int = Field(default=6, gt=0, description="Levels D below the root.")
    top_k: int = Field(default=10, gt=0, description="Children per expanded node, and nodes expanded per level.")
    num_draft_tokens: int = Field(
        default=60, gt=0, description="Nodes N kept for verification; the root is not counted."
    )
    auto: bool = Field(
        default=False, description="Choose the fastest shape within these bounds from measured times and acceptance."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_label(cls, data: object) -> object:
        return cls._read_label(data) if isinstance(data, str) else data

    @property
    def num_candidates(self) -> int:
        """Nodes the draft scores before the best N are kept: K + (D-1) K^2."""
        return self.top_k + (self.depth - 1) * self.top_k**2

    @property
    def num_nodes(self) -> int:
        """Nodes that are verified: N, or fewer when the shape has not as many candidates."""
        return min(self.num_draft_tokens, self.num_candidates)

    @property
    def label(self) -> str:
        """The shape as it is said everywhere: depth/top_k/num_draft_tokens, or auto."""
        return "auto" if self.auto else f"{self.depth}/{self.top_k}/{self.num_draft_tokens}"

    @classmethod
    def parse(cls, text: str) -> TreeSpec:
        """Read depth/top_k/num_draft_tokens, e.g. 6/10/60, or auto.

        Raises:
            ValueError: the text has another form.
        """
        return cls.model_validate(cls._read_label(text))

    @staticmethod
    def _read_label(text: str) -> dict[str, int]:
        if text.strip() == "auto":
            return {"auto": True}
        parts = text.replace(",", "/").split("/")
        if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
            raise ValueError(f"tree is {text!r}; it needs depth/top_k/num_draft_tokens, e.g. 6/10/60, or auto")
        depth, top_k, nodes = (int(part) for part in parts)
        return {"depth": depth, "top_k": top_k, "num_draft_tokens": nodes}


class SamplingSpec(Spec):
    """How the next token is taken from the base's distribution. A temperature below 1e-6, 0 included, is greedy."""

    temperature: float = Field(
        default=0.0, ge=0, description="Sampling temperature; 0 is greedy, and so is anything below 1e-6."
    )
    top_k: int = Field(default=0, ge=0, description="Keep the k likeliest tokens; 0 = all.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the smallest set of tokens with this mass.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampling.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return is_greedy(self.temperature)


def _check_draft_vocab(value: int | str) -> int | str:
    if isinstance(value, int) and value < 1:
        raise ValueError(f"is {value}; needs a whole number > 0, or one of 'auto', 'whole'")
    return value


DraftVocabChoice = Annotated[int | Literal["auto", "whole"], AfterValidator(_check_draft_vocab)]
"""Tokens that a draft proposes: the N commonest of its training data, all that it has (`whole`), or what pays."""


class DecodingSpec(Spec):
    """One way of answering: tree and sampling, or plain decoding."""

    tree: TreeSpec = Field(
        default_factory=lambda: TreeSpec(auto=True),
        description="Shape of the draft tree: depth/top_k/num_draft_tokens, or auto = the fastest one on this machine.",
    )
    draft_vocab: DraftVocabChoice = Field(
        default="auto",
        description="Tokens that the draft proposes: the N commonest of its training data; whole = all that it has; "
        "auto = fewer where the draft has token counts and the cost model expects 5 % more speed.",
    )
    sampling: SamplingSpec = Field(default_factory=SamplingSpec, description="How tokens are drawn.")
    max_new_tokens: int = Field(default=256, gt=0, description="Maximum number of tokens of one answer.")
    plain: bool = Field(default=False, description="Ordinary decoding without a draft.")
    ignore_eos: bool = Field(default=False, description="Continue after a stop token, up to the token limit.")


class BenchSpec(Spec):
    """A measurement: prompts, shapes, repeats."""

    prompts: str = Field(default="shipped:heldout", description="MT-Bench form (turns): FILE[:N] or shipped:NAME.")
    limit: int | None = Field(default=None, gt=0, description="Number of conversations, from the first.")
    categories: tuple[str, ...] = Field(default=(), description="Only these categories.")
    sample_ids: tuple[str, ...] = Field(
        default=(), description="Only the conversations of these ids (question_id or id)."
    )
    first_turn_only: bool = Field(default=False, description="Leave the second turns out.")
    trees: tuple[TreeSpec, ...] = Field(
        default=(TreeSpec(), TreeSpec(auto=True)),
        min_length=1,
        description="Shapes to measure, in turns on every prompt; a server measures no auto, whose bounds are a shape.",
    )
    draft_vocabs: tuple[DraftVocabChoice, ...] = Field(
        default=(),
        description="Draft vocabularies to measure with every shape, as decoding.draft_vocab, which counts when this "
        "is empty.",
    )
    batch_size: int = Field(default=1, gt=0, description="Conversations decoded together.")
    repeats: int = Field(default=1, gt=0, description="How often each prompt is measured; the median counts.")
    warmup: int = Field(default=1, ge=0, description="Prompts decoded before the clock starts.")
    profile_prompts: int = Field(
        default=2, ge=0, description="Prompts of the separate pass that splits the time by phase."
    )
    proof_prompts: int = Field(
        default=2,
        ge=0,
        description="Prompts of the pass in float32 that proves losslessness where speeds are in another type.",
    )
    proof_tokens: int = Field(default=64, gt=0, description="Maximum number of tokens of an answer of that pass.")
    bootstrap: int = Field(default=1000, ge=0, description="Resamples for the interval of the accept length.")

    @model_validator(mode="after")
    def _check(self) -> BenchSpec:
        labels = [tree.label for tree in self.trees]
        if len(set(labels)) != len(labels):
            raise ValueError(f"trees has the same shape twice: {', '.join(labels)}")
        if len(set(self.draft_vocabs)) != len(self.draft_vocabs):
            raise ValueError(f"draft_vocabs has the same one twice: {', '.join(map(str, self.draft_vocabs))}")
        return self


_SHAPES = ("1/1/1", "2/1/2", "3/1/3", "4/1/4", "3/4/7", "5/4/7", "4/8/15", "5/8/31", "6/10/59")


class TuneSpec(Spec):
    """A search over tree shapes and batch sizes."""

    trees: tuple[TreeSpec, ...] = Field(
        default=tuple(TreeSpec.parse(shape) for shape in _SHAPES), min_length=1, description="Shapes to try, in order."
    )
    draft_vocabs: tuple[DraftVocabChoice, ...] = Field(
        default=(),
        description="Draft vocabularies to try with every shape, as decoding.draft_vocab, which counts when this is "
        "empty.",
    )
    batch_sizes: tuple[int, ...] = Field(default=(1,), min_length=1, description="Prompts decoded together.")
    repeats: int = Field(
        default=3, gt=0, description="How often every shape answers every prompt, as far as the time allows."
    )
    budget_s: float = Field(
        default=900.0, gt=0, description="Seconds for the whole search; what does not fit is left out."
    )
