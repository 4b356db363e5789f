"""The draft seam: what decoding, training and the simulation may ask of a draft, whatever its algorithm.

    base forward --base_features--> features --first_state--> state --step--> state --step--> state ...
                                                                        |               |
                                                                     readout         readout     --head--> logits

A state is what one step of a draft hands to the next. A step at position t reads the token x_{t+1} and a state, and its
own state gives the distribution of x_{t+2}. Decoding begins at committed tokens with `first_state` of the base's
features and goes on below the root with the states of the draft itself; it never asks which algorithm that is.
It knows backbones and embeddings; it knows neither losses nor trees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from hetspec_core.engine.modeling.base_lm import BaseOutput, FrozenEnds
from hetspec_core.errors import ModelError

if TYPE_CHECKING:
    from hetspec_core.engine.modeling.backbones import HFBackbone


@dataclass(frozen=True)
class HeadSizes:
    """What a head is built for.

    Attributes:
        hidden_size: Hd, width of the backbone.
        base_hidden_size: H, width of the base.
        base_layers: decoder layers of the base.
        vocab_size: Vd, tokens that the draft can propose.
        norm_eps: epsilon of norms that the head owns.
    """

    hidden_size: int
    base_hidden_size: int
    base_layers: int
    vocab_size: int
    norm_eps: float


@dataclass(frozen=True)
class Unroll:
    """How a draft runs in training.

    Attributes:
        steps: steps of the draft's own, the first included (a training-time test has more than one).
        generator: randomness, None when it is measured.
    """

    steps: int = 1
    generator: torch.Generator | None = None


class DraftHead(nn.Module, ABC):
    """Base class of heads; a card of an algorithm names its head in `capabilities["head"]`.

    Args:
        settings: the arguments of the constructor, recorded with the draft; `cls(**settings)` builds the head again.
    """

    reads_pairs: ClassVar[bool] = False  # the backbone's first layer reads [embedding; state], 2 Hd wide
    owns_output_norm: ClassVar[bool] = False  # the norm behind the last layer is the head's, not the backbone's

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    @classmethod
    @abstractmethod
    def build(cls, options: Any, sizes: HeadSizes) -> DraftHead:
        """A new head for the options of its algorithm."""

    @property
    def captured_layers(self) -> tuple[int, ...]:
        """Hidden states of the base that are read besides the final ones, by Hugging Face layer id."""
        return ()

    @property
    def own_output_head(self) -> nn.Linear | None:
        """An output head of the draft's own, which is trained; None = the base's, frozen."""
        return None

    @property
    def base_hidden_size(self) -> int:
        """H of the bases that this head fits."""
        return int(self.settings["base_size"])

    def base_features(self, output: BaseOutput) -> Tensor:
        """What is wanted of the base's forward: [B, T, F]."""
        return output.hidden

    def first_state(self, features: Tensor) -> Tensor:
        """[B, T, F] features of the base -> [B, T, S] states that a step continues."""
        return features

    @abstractmethod
    def step(
        self,
        backbone: HFBackbone,
        embedding: Tensor,
        state: Tensor,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: Any | None = None,
    ) -> Tensor:
        """One step: [B, T, H] embeddings of x_{t+1} and [B, T, S] states -> [B, T, S]; the rest as in `DraftLM`."""

    def unroll(
        self, backbone: HFBackbone, embedding: Tensor, features: Tensor, positions: Tensor, how: Unroll
    ) -> tuple[Tensor, ...]:
        """The states that a loss is put on, from [B, T, H] embeddings and [B, T, F] features."""
        return (self.step(backbone, embedding, self.first_state(features), positions=positions),)

    def readout(self, state: Tensor) -> Tensor:
        """[..., S] -> what the output head reads."""
        return state

    def start_output_head(self, ends: FrozenEnds, ids: Tensor | None) -> None:
        """Give an output head of the draft's own its first weights.

        Args:
            ends: the base's.
            ids: [Vd] the base's ids of a reduced vocabulary, or None.
        """

    def pass_feature_through(self) -> None:
        """Start as the identity on the feature, blind to the embedding: pairs with the base's last layers.

        Raises:
            ModelError: this head cannot.
        """
        raise ModelError(
            f"a {type(self).__name__} cannot start from the base's last layers", hint="set draft.init = 'random'"
        )
