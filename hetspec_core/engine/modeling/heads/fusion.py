"""The head of EAGLE-1/2: one linear layer that fuses a token's embedding with the state before it.

(arXiv 2401.15077, figure 6.) A backbone of another width than the base's is put between two projections: states stay
in the base's space, where the base's output head reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetspec_core.engine.modeling.heads.base import DraftHead, HeadSizes

if TYPE_CHECKING:
    from hetspec_core.engine.modeling.backbones import HFBackbone
    from hetspec_core.spec import EagleOptions


class FusionHead(DraftHead):
    """FC([embedding; state]) -> the backbone's input, and up to the base's width behind the backbone.

    Args:
        hidden_size: Hd.
        base_size: H; the states are so wide.
        bias: whether FC has a bias.
    """

    def __init__(self, hidden_size: int, base_size: int, *, bias: bool = True) -> None:
        super().__init__(hidden_size=hidden_size, base_size=base_size, bias=bias)
        self.fc = nn.Linear(2 * base_size, hidden_size, bias=bias)
        self.up = nn.Linear(hidden_size, base_size, bias=False) if hidden_size != base_size else nn.Identity()

    @classmethod
    def build(cls, options: EagleOptions, sizes: HeadSizes) -> FusionHead:
        return cls(sizes.hidden_size, sizes.base_hidden_size, bias=options.fusion_bias)

    def forward(self, embedding: Tensor, state: Tensor) -> Tensor:
        """[B, T, H] embeddings of x_{t+1} and [B, T, H] states of x_t -> [B, T, Hd]."""
        return self.fc(torch.cat([embedding, state], dim=-1))

    def step(self, backbone: HFBackbone, embedding: Tensor, state: Tensor, **where: Any) -> Tensor:
        return self.up(backbone(self(embedding, state), **where))

    def pass_feature_through(self) -> None:
        """Start as the identity on the feature; needs a backbone as wide as the base."""
        if self.fc.in_features != 2 * self.fc.out_features:
            super().pass_feature_through()
        with torch.no_grad():
            self.fc.weight.zero_()
            width = self.fc.out_features
            self.fc.weight[:, width:].copy_(torch.eye(width))
            if self.fc.bias is not None:
                self.fc.bias.zero_()
