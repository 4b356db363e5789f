"""The draft: a backbone and a head put together. Embedding and, mostly, output head are borrowed from the base.

It knows nothing of losses, of files, or of which algorithm built the head: what it may ask of a head is said in
`heads.base`, and decoding, training and the simulation know this class only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.modeling.backbones import HFBackbone
from hetspec_core.engine.modeling.base_lm import BaseLM, BaseOutput, FrozenEnds
from hetspec_core.engine.modeling.heads.base import DraftHead, Unroll
from hetspec_core.engine.modeling.norm_ties import NormTies, share_norms
from hetspec_core.engine.modeling.output_head import OutputHead
from hetspec_core.errors import ModelError


@dataclass(frozen=True)
class DraftVocab:
    """A reduced draft vocabulary.

    Attributes:
        ids: [Vd] base token ids, sorted, unique: draft id i stands for base token ids[i].
        base_vocab_size: V of the base that the ids belong to.
    """

    ids: Tensor
    base_vocab_size: int

    def __post_init__(self) -> None:
        ids = self.ids
        if ids.ndim != 1 or ids.numel() == 0 or bool((ids[1:] <= ids[:-1]).any()):
            raise ModelError("a draft vocabulary needs a sorted list of different token ids")
        if int(ids[0]) < 0 or int(ids[-1]) >= self.base_vocab_size:
            raise ModelError(
                f"draft vocabulary has ids {int(ids[0])}..{int(ids[-1])}; the base has 0..{self.base_vocab_size - 1}"
            )

    @property
    def size(self) -> int:
        return self.ids.numel()


class DraftLM(nn.Module):
    """A draft model: at step t it reads token x_{t+1} and a state, and its own state predicts x_{t+2}.

    Args:
        backbone: decoder layers with `forward(inputs, positions=, mask=, cache=)`.
        head: what the algorithm puts around them.
        vocab: reduced vocabulary, or None for the base's.
        ties: norms that it does not have of its own.

    Raises:
        ModelError: the output norm is to be tied, and there is none.
    """

    backbone: HFBackbone
    head: DraftHead
    _ends: FrozenEnds | None
    _reduced_head: OutputHead | None

    def __init__(
        self,
        backbone: HFBackbone,
        head: DraftHead,
        *,
        vocab: DraftVocab | None = None,
        ties: NormTies | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.vocab = vocab
        self.ties = ties or NormTies()
        if self.ties.layers:
            share_norms(backbone.layers)
        if self.ties.output:
            self.output_norm.requires_grad_(False)
        # Borrowed from the base, so not registered: neither saved, nor trained, nor moved with this module.
        self.__dict__["_ends"] = None
        self.__dict__["_reduced_head"] = None

    def bind(self, base: BaseLM | FrozenEnds) -> DraftLM:
        """Borrow embedding and head of a base. Returns self.

        Raises:
            ModelError: hidden size or vocabulary differ.
        """
        ends = base.ends if isinstance(base, BaseLM) else base
        if ends.hidden_size != self.base_hidden_size:
            raise ModelError(
                f"the draft is for a base of hidden size {self.base_hidden_size}, this one has {ends.hidden_size}",
                hint="use a draft that was made for this base",
            )
        expected = self.vocab.base_vocab_size if self.vocab else self.config.vocab_size
        if expected != ends.vocab_size:
            raise ModelError(
                f"the draft was made for a vocabulary of {expected} tokens, the base has {ends.vocab_size}",
                hint="use a draft that was made for this base",
            )
        self.__dict__["_ends"] = ends
        reduced = None
        if self.vocab is not None and self.head.own_output_head is None:
            reduced = ends.output_head.rows(self.vocab.ids.to(ends.head.weight.device))
        self.__dict__["_reduced_head"] = reduced
        return self

    @property
    def ends(self) -> FrozenEnds:
        if self._ends is None:
            raise ModelError("the draft has no base yet", hint="call bind(base) first")
        return self._ends

    @property
    def config(self) -> Any:
        return self.backbone.config

    @property
    def hidden_size(self) -> int:
        """Hd, width of the backbone."""
        return int(self.config.hidden_size)

    @property
    def output_norm(self) -> nn.Module:
        """The norm behind the last layer.

        Raises:
            ModelError: there is none.
        """
        norm = getattr(self.head if self.head.owns_output_norm else self.backbone.decoder, "norm", None)
        if norm is None or not any(True for _ in norm.parameters()):
            raise ModelError(
                "the draft has no norm behind its last layer that could be tied to the base's",
                hint="set draft.skip_output_norm = false, or draft.tie_output_norm = false",
            )
        return norm

    @property
    def base_hidden_size(self) -> int:
        """H, width of the bases that it drafts for."""
        return self.head.base_hidden_size

    @property
    def vocab_size(self) -> int:
        """Vd: tokens that the draft can propose."""
        return self.vocab.size if self.vocab else int(self.config.vocab_size)

    @property
    def captured_layers(self) -> tuple[int, ...]:
        """Hidden states of the base that it reads besides the final ones, by Hugging Face layer id."""
        return self.head.captured_layers

    @property
    def copied_rows(self) -> list[Tensor]:
        """What was copied of the base's head for a reduced vocabulary; it lies where that head does."""
        head = self._reduced_head
        return [] if head is None else [part for part in (head.weight, head.bias) if part is not None]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_active_parameters(self) -> int:
        """Parameters that a token passes through: all of them, less the experts that it is not routed to."""
        return self.num_parameters - self.backbone.num_resting_parameters

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def base_features(self, output: BaseOutput) -> Tensor:
        """Features [B, T, F] that this draft reads from a forward of the base."""
        return self.head.base_features(output)

    def first_state(self, features: Tensor) -> Tensor:
        """[B, T, F] features of the base -> [B, T, S] states that a step continues."""
        return self.head.first_state(features)

    def forward(
        self,
        tokens: Tensor,
        state: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Any | None = None,
        unroll: Unroll | None = None,
    ) -> Any:
        """One step of the draft, or all states that a loss is put on.

        Args:
            tokens: [B, T] x_{t+1}, ids of the base's vocabulary.
            state: [B, T, S] of `first_state` at committed tokens, or of the step before; with `unroll`, [B, T, F]
                features of the base.
            positions: [B, T] position t of each pair; 0..T-1 when absent.
            mask: [B, 1, T, S] bool, True = may look; None = causal.
            cache: the draft's own key/value cache, or None.
            unroll: for training: how to run over whole sequences.

        Returns:
            [B, T, S], whose `logits` are the distribution of x_{t+2}; with `unroll`, a tuple of such states (what each
            predicts is the algorithm's to know).
        """
        dtype = next(self.parameters()).dtype  # not always the base's: drafts in training are float32
        embedding, state = self.ends.embed(tokens).to(dtype), state.to(dtype)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if unroll is not None:
            return self.head.unroll(self.backbone, embedding, state, positions, unroll)
        return self.head.step(self.backbone, embedding, state, positions=positions, mask=mask, cache=cache)

    def readout(self, state: Tensor) -> Tensor:
        """[..., S] -> what `output_head` is multiplied with."""
        return self.head.readout(state)

    def logits(self, state: Tensor) -> Tensor:
        """[..., S] -> [..., Vd] over the draft's vocabulary."""
        hidden, own = self.readout(state), self.head.own_output_head
        if own is not None:
            return own(hidden.to(own.weight.dtype))
        return self.output_head.logits(hidden)

    @property
    def output_head(self) -> OutputHead:
        """Rows over the draft's vocabulary, and how their products become logits."""
        own = self.head.own_output_head
        if own is not None:
            return OutputHead(own.weight, own.bias)
        return self.ends.output_head if self._reduced_head is None else self._reduced_head

    @property
    def base_head(self) -> OutputHead:
        """The base's whole head."""
        return self.ends.output_head

    def base_logits(self, hidden: Tensor) -> Tensor:
        """[..., H] hidden states of the base -> [..., V]: what the draft is measured against."""
        return self.ends.logits(hidden)

    def to_base_ids(self, draft_ids: Tensor) -> Tensor:
        """Token ids of the base for ids of the draft's vocabulary, any shape."""
        return self.vocab.ids.to(draft_ids.device)[draft_ids] if self.vocab else draft_ids
