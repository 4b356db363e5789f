"""The draft: a backbone and the head of an algorithm around it. Embedding and, mostly, output head are the base's.

The interface for decoding, training and the simulation, the same for every algorithm:

    base forward --base_features--> features --first_state--> state --step--> state --step--> state ...
                                                                        |               |
                                                                     readout         readout     --head--> logits

A state is what one step of a draft hands to the next. A step at position t reads the token x_{t+1} and a state, and its
own state gives the distribution of x_{t+2}. Decoding begins at committed tokens with `first_state` of the base's
features and continues below the root with the states of the draft itself; it does not depend on the algorithm.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hetspec_core.engine.modeling.backbones import HFBackbone, NormTies, share_norms
from hetspec_core.engine.modeling.base_lm import BaseLM, BaseOutput, FrozenEnds, OutputHead
from hetspec_core.engine.modeling.token_counts import TokenCounts, check_draft_vocab, commonest_tokens
from hetspec_core.errors import ModelError


@dataclass(frozen=True)
class HeadSizes:
    """The sizes that a head is built for.

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
    owns_output_norm: ClassVar[bool] = False  # the norm after the last layer is the head's, not the backbone's

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    @classmethod
    @abstractmethod
    def build(cls, options: Any, sizes: HeadSizes) -> DraftHead:
        """A new head for the options of its algorithm."""

    @property
    def captured_layers(self) -> tuple[int, ...]:
        """Hidden states of the base that are read in addition to the final ones, by Hugging Face layer id."""
        return ()

    @property
    def passes(self) -> int:
        """Passes through the backbone in one step."""
        return 1

    @property
    def own_output_head(self) -> nn.Linear | None:
        """An output head of the draft's own, which is trained; None = the base's, frozen."""
        return None

    @property
    def base_hidden_size(self) -> int:
        """H of the bases that this head fits."""
        return int(self.settings["base_size"])

    def base_features(self, output: BaseOutput) -> Tensor:
        """The features of a forward of the base: [B, T, F]."""
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
        """The states that the loss is computed on, from [B, T, H] embeddings and [B, T, F] features."""
        return (self.step(backbone, embedding, self.first_state(features), positions=positions),)

    def readout(self, state: Tensor) -> Tensor:
        """[..., S] -> the input of the output head."""
        return state

    def start_output_head(self, ends: FrozenEnds, ids: Tensor | None) -> None:
        """Initialise an output head of the draft's own.

        Args:
            ends: the base's.
            ids: [Vd] the base's ids of a reduced vocabulary, or None.
        """

    def pass_feature_through(self) -> None:
        """Start as the identity on the feature, without the embedding, for layers copied from the base's last ones.

        Raises:
            ModelError: this head cannot.
        """
        raise ModelError(
            f"a {type(self).__name__} cannot start from the base's last layers", hint="set draft.init = 'random'"
        )


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

    Attributes:
        token_counts: occurrences of the base's tokens in the training data; None where they are not known.
        acceptance_rates: by depth, each given the depth before, as its training simulated them; empty = not known.

    Raises:
        ModelError: the output norm is to be tied, and there is none.
    """

    backbone: HFBackbone
    head: DraftHead
    token_counts: TokenCounts | None
    acceptance_rates: tuple[float, ...]
    _ends: FrozenEnds | None
    _reduced_head: OutputHead | None
    _vocab_ids: Tensor | None

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
        self.token_counts = None
        self.acceptance_rates = ()
        if self.ties.layers:
            share_norms(backbone.layers)
        if self.ties.output:
            self.output_norm.requires_grad_(False)
        # Parts of the base are not registered: they are neither saved, nor trained, nor moved with this module.
        self.__dict__["_ends"] = None
        self.__dict__["_reduced_head"] = None
        self.__dict__["_vocab_ids"] = None  # on the base's device, where draft ids become the base's
        self.__dict__["_views"] = {}

    def bind(self, base: BaseLM | FrozenEnds) -> DraftLM:
        """Use embedding and head of a base. Returns self.

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
        self.__dict__["_vocab_ids"] = None if self.vocab is None else self.vocab.ids.to(ends.head.weight.device)
        return self

    def reduced(self, size: int, always: Iterable[int] = ()) -> DraftLM:
        """This draft, proposing only the commonest tokens of its training data (FR-Spec, arXiv 2502.14856).

        The layers are shared and the rows of the output head are copied, [size, H]; the base's own head stays as it is.
        The same size gives the same draft. It is for decoding: it is neither saved nor trained.

        Args:
            size: tokens to propose; a draft that has no more than these stays as it is.
            always: base token ids that are among them in any case, as far as this draft has them.

        Raises:
            SpecError: the size is below 1 or below the number of `always`, or above the base's vocabulary.
            ModelError: the draft has no counts, or they are of another vocabulary.
        """
        check_draft_vocab(size, self.ends.vocab_size)
        if size >= self.vocab_size:
            return self
        views: dict[int, DraftLM] = self.__dict__["_views"]
        if size not in views:
            views[size] = self._reduced_to(self.reduced_vocab(size, always))
        return views[size]

    def reduced_vocab(self, size: int, always: Iterable[int] = ()) -> DraftVocab:
        """The tokens that `reduced` proposes; arguments and errors as there, but `size` is below this draft's."""
        whole, own = self.ends.vocab_size, None if self.vocab is None else self.vocab.ids.cpu()
        return DraftVocab(commonest_tokens(self.token_counts, size, always, base_vocab_size=whole, own=own), whole)

    def _reduced_to(self, vocab: DraftVocab) -> DraftLM:
        rows = vocab.ids if self.vocab is None else torch.searchsorted(self.vocab.ids.cpu(), vocab.ids)
        head, view = self.output_head, copy.copy(self)
        with torch.inference_mode(False), torch.no_grad():
            reduced = head.rows(rows.to(head.weight.device))
            ids = vocab.ids.to(self.ends.head.weight.device)
        view.vocab, view.token_counts = vocab, None
        view.__dict__.update(_reduced_head=reduced, _vocab_ids=ids, _views={})
        return view

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
        """The norm after the last layer.

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
        """Hidden states of the base that are read in addition to the final ones, by Hugging Face layer id."""
        return self.head.captured_layers

    @property
    def copied_rows(self) -> list[Tensor]:
        """The copied rows of the base's head for a reduced vocabulary, on the device of that head."""
        head = self._reduced_head
        return [] if head is None else [part for part in (head.weight, head.bias) if part is not None]

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_active_parameters(self) -> int:
        """Parameters that compute for one token: all, without the experts that it is not routed to."""
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
        """One step of the draft, or all states that the loss is computed on.

        Args:
            tokens: [B, T] x_{t+1}, ids of the base's vocabulary.
            state: [B, T, S] of `first_state` at committed tokens, or of the step before; with `unroll`, [B, T, F]
                features of the base.
            positions: [B, T] position t of each pair; 0..T-1 when absent.
            mask: [B, 1, T, S] bool, True = visible; None = causal.
            cache: the draft's own key/value cache, or None.
            unroll: for training: how to run over whole sequences.

        Returns:
            [B, T, S], whose `logits` are the distribution of x_{t+2}; with `unroll`, a tuple of such states, whose
            targets the algorithm defines.
        """
        dtype = next(self.parameters()).dtype  # not always the base's: drafts in training are float32
        embedding, state = self.ends.embed(tokens).to(dtype), state.to(dtype)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if unroll is not None:
            return self.head.unroll(self.backbone, embedding, state, positions, unroll)
        return self.head.step(self.backbone, embedding, state, positions=positions, mask=mask, cache=cache)

    def readout(self, state: Tensor) -> Tensor:
        """[..., S] -> the input of `output_head`."""
        return self.head.readout(state)

    def logits(self, state: Tensor) -> Tensor:
        """[..., S] -> [..., Vd] over the draft's vocabulary."""
        hidden, own = self.readout(state), self.head.own_output_head
        if own is not None and self._reduced_head is None:
            return own(hidden.to(own.weight.dtype))
        return self.output_head.logits(hidden)

    @property
    def output_head(self) -> OutputHead:
        """The output projection over the draft's vocabulary."""
        if self._reduced_head is not None:
            return self._reduced_head
        own = self.head.own_output_head
        return self.ends.output_head if own is None else OutputHead(own.weight, own.bias)

    @property
    def base_head(self) -> OutputHead:
        """The base's whole head."""
        return self.ends.output_head

    def base_logits(self, hidden: Tensor) -> Tensor:
        """[..., H] hidden states of the base -> [..., V] logits of the base."""
        return self.ends.logits(hidden)

    def to_base_ids(self, draft_ids: Tensor) -> Tensor:
        """[...] ids of the draft's vocabulary -> [...] token ids of the base."""
        return draft_ids if self._vocab_ids is None else self._vocab_ids[draft_ids]
