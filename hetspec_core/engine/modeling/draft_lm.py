"""The draft: a backbone and a head put together. Embedding and output head are borrowed from the base.

It knows nothing of losses, of files, or of which algorithm built the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.modeling.backbones import HFBackbone
from hetspec_core.engine.modeling.base_lm import BaseLM, BaseOutput, FrozenEnds
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


class FusionHead(nn.Module):
    """EAGLE-1/2 head: FC([embedding; feature]) -> the backbone's input (arXiv 2401.15077, figure 6).

    Args:
        hidden_size: H.
        feature_size: width F of the features (H for EAGLE-1/2).
        bias: whether FC has a bias.
    """

    captured_layers: tuple[int, ...] = ()  # besides the final hidden states

    def __init__(self, hidden_size: int, feature_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(hidden_size + feature_size, hidden_size, bias=bias)

    def forward(self, embedding: Tensor, features: Tensor) -> Tensor:
        """[B, T, H] embeddings of x_{t+1} and [B, T, F] features of x_t -> [B, T, H]."""
        return self.fc(torch.cat([embedding, features], dim=-1))

    def base_features(self, output: BaseOutput) -> Tensor:
        """What the head wants of the base's forward: [B, T, F]."""
        return output.hidden

    def pass_feature_through(self) -> None:
        """Start as the identity on the feature, blind to the embedding: pairs with the base's last layers."""
        with torch.no_grad():
            self.fc.weight.zero_()
            width = self.fc.out_features
            self.fc.weight[:, width:].copy_(torch.eye(width, self.fc.in_features - width))
            if self.fc.bias is not None:
                self.fc.bias.zero_()


class DraftLM(nn.Module):
    """A draft model: at step t it reads token x_{t+1} and the feature of x_t, and predicts x_{t+2}.

    Args:
        backbone: decoder layers with `forward(inputs, positions=, mask=, cache=)`.
        head: fuses token embeddings with features; `forward(embedding, features)`.
        vocab: reduced vocabulary, or None for the base's.
    """

    backbone: HFBackbone
    head: FusionHead
    _ends: FrozenEnds | None
    _rows: tuple[Tensor, Tensor | None] | None

    def __init__(self, backbone: HFBackbone, head: FusionHead, *, vocab: DraftVocab | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.vocab = vocab
        # Borrowed from the base, so not registered: neither saved, nor trained, nor moved with this module.
        self.__dict__["_ends"] = None
        self.__dict__["_rows"] = None

    def bind(self, base: BaseLM | FrozenEnds) -> DraftLM:
        """Borrow embedding and head of a base. Returns self.

        Raises:
            ModelError: hidden size or vocabulary differ.
        """
        ends = base.ends if isinstance(base, BaseLM) else base
        if ends.hidden_size != self.hidden_size:
            raise ModelError(
                f"the draft's hidden size is {self.hidden_size}, the base's is {ends.hidden_size}",
                hint="use a draft that was made for this base",
            )
        expected = self.vocab.base_vocab_size if self.vocab else self.config.vocab_size
        if expected != ends.vocab_size:
            raise ModelError(
                f"the draft was made for a vocabulary of {expected} tokens, the base has {ends.vocab_size}",
                hint="use a draft that was made for this base",
            )
        self.__dict__["_ends"] = ends
        self.__dict__["_rows"] = ends.head_rows(self.vocab.ids.to(ends.head.weight.device)) if self.vocab else None
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
        return int(self.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Vd: tokens that the draft can propose."""
        return self.vocab.size if self.vocab else int(self.config.vocab_size)

    @property
    def captured_layers(self) -> tuple[int, ...]:
        return self.head.captured_layers

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def forward(
        self,
        tokens: Tensor,
        features: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Any | None = None,
    ) -> Tensor:
        """Hidden states that predict the token after next.

        Args:
            tokens: [B, T] x_{t+1}, ids of the base's vocabulary.
            features: [B, T, F] of x_t: the base's, or the draft's own hidden states from the step before.
            positions: [B, T] position t of each pair; 0..T-1 when absent.
            mask: [B, 1, T, S] bool, True = may look; None = causal.
            cache: the draft's own key/value cache, or None.

        Returns:
            [B, T, H]; `logits` of it is the distribution of x_{t+2}.
        """
        dtype = next(self.parameters()).dtype  # not always the base's: drafts in training are float32
        inputs = self.head(self.ends.embed(tokens).to(dtype), features.to(dtype))
        return self.backbone(inputs, positions=positions, mask=mask, cache=cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., Vd] over the draft's vocabulary."""
        return self.ends.logits(hidden.to(self.ends.head.weight.dtype), self._rows)

    @property
    def draft_head(self) -> tuple[Tensor, Tensor | None]:
        """Head rows over the draft's vocabulary: weight [Vd, H], bias [Vd] or None."""
        return self._rows if self._rows is not None else (self.ends.head.weight, self.ends.head.bias)

    def base_logits(self, hidden: Tensor) -> Tensor:
        """[..., H] hidden states of the base -> [..., V]: what the draft is measured against."""
        return self.ends.logits(hidden.to(self.ends.head.weight.dtype))

    def to_base_ids(self, draft_ids: Tensor) -> Tensor:
        """Token ids of the base for ids of the draft's vocabulary, any shape."""
        return self.vocab.ids.to(draft_ids.device)[draft_ids] if self.vocab else draft_ids

    def base_features(self, output: BaseOutput) -> Tensor:
        """Features [B, T, F] that this draft reads from a forward of the base."""
        return self.head.base_features(output)
