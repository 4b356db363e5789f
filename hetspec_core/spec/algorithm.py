"""Options of the algorithms. An algorithm's card names the model that checks its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from hetspec_core.spec.decode import Scalar, Spec


class AlgorithmSpec(Spec):
    """Which algorithm, with its options (checked against the options model on the algorithm's card)."""

    name: str = Field(default="eagle", description="Card of the algorithm; see `hetspec-core catalog algorithms`.")
    summary: str = Field(default="", description="One line for lists.")
    options: dict[str, Scalar] = Field(default_factory=dict, description="Options; see the algorithm's card.")


@dataclass(frozen=True)
class Passes:
    """How often a token goes through a draft.

    Attributes:
        training: passes through the draft's layers in a training step.
        drafting: passes in one step of the draft while it decodes; each has its own keys and values in the cache.
        readouts: states of a training step that the output head reads.
    """

    training: int = 1
    drafting: int = 1
    readouts: int = 1


@dataclass(frozen=True)
class DraftSizes:
    """Sizes that decide how many parameters a head has.

    Attributes:
        hidden_size: Hd, width of the draft's layers.
        base_hidden_size: H, width of the base.
        vocab_size: Vd, tokens that the draft can propose.
    """

    hidden_size: int
    base_hidden_size: int
    vocab_size: int


@dataclass(frozen=True)
class HeadParameters:
    """Parameters that an algorithm adds to a draft's layers.

    Attributes:
        projections: those of the linear layers around the draft's layers.
        norms: those of norms that the head owns, its output norm included.
        output_head: those of an output head of the draft's own; 0 = it uses the base's.
        logit_products: products that the logits of one state take.
        reads_pairs: the first layer reads [embedding; state], twice its width.
        owns_output_norm: the norm behind the last layer is in `norms`.
    """

    projections: int
    norms: int
    output_head: int
    logit_products: int
    reads_pairs: bool = False
    owns_output_norm: bool = False


class AlgorithmOptions(Spec, ABC):
    """Options of an algorithm, and what planning derives from them."""

    def passes(self) -> Passes:
        """How often a token goes through the draft."""
        return Passes()

    @abstractmethod
    def head_parameters(self, sizes: DraftSizes) -> HeadParameters:
        """What the algorithm's head adds to a draft of these sizes."""


class ImitationOptions(AlgorithmOptions):
    """What is shared by algorithms that imitate the base's final hidden states."""

    token_loss_weight: float = Field(
        default=1.0, ge=0, description="Weight of the cross-entropy with the base's distribution."
    )
    feature_loss_weight: float = Field(
        default=10.0, ge=0, description="Weight of the smooth-L1 on the base's hidden states."
    )
    noise: float = Field(
        default=0.2, ge=0, description="Amplitude of the uniform noise added to input features in training."
    )
    noise_reference_tokens: int = Field(
        default=0,
        ge=0,
        description="With n > 0 the noise is scaled by n / T as EAGLE's code does (512); 0 = not scaled.",
    )
    mask: Literal["predicted", "input", "next"] = Field(
        default="predicted",
        description="Which token must be the assistant's: x_{t+2} (predicted, the one used at inference), "
        "x_t (input: EAGLE's code), x_{t+1} (next: the origin's).",
    )


class EagleOptions(ImitationOptions):
    """EAGLE-1/2 (Li et al. 2024, arXiv 2401.15077, section 3.2; arXiv 2406.16858 for the dynamic tree)."""

    fusion_bias: bool = Field(default=True, description="Whether the fusion layer FC([embedding; feature]) has a bias.")

    def head_parameters(self, sizes: DraftSizes) -> HeadParameters:
        """FC([embedding; feature]), and a projection to the base's width where the draft is not as wide."""
        width, outer = sizes.hidden_size, sizes.base_hidden_size
        fusion = 2 * outer * width + (width if self.fusion_bias else 0)
        up = width * outer if width != outer else 0
        return HeadParameters(fusion + up, norms=0, output_head=0, logit_products=sizes.vocab_size * outer)


class LatentOptions(ImitationOptions):
    """The latent recurrence (the origin's "Experimental"): H refinements of L recurrences of R passes each."""

    refinements: int = Field(default=1, ge=1, le=16, description="H: how often the state is refined.")
    recurrences: int = Field(default=2, ge=1, le=16, description="L: recurrences of the latent in a refinement.")
    repeats: int = Field(default=1, ge=1, le=16, description="R: passes through the layers in a recurrence.")
    latent_init: Literal["zeros", "uniform", "learned"] = Field(
        default="learned",
        description="The latent to begin with: zeros; noise of the amplitude `noise` in training and zeros else; or a "
        "learnt function of embedding and state.",
    )
    shift_latent: bool = Field(
        default=False, description="Whether a latent moves on by one token between two recurrences."
    )
    deep_supervision: float = Field(
        default=0.8, ge=0, le=1, description="The loss after refinement i of H weighs this ** (H - i); 0 = last only."
    )
    gradient_recurrences: int = Field(
        default=0,
        ge=0,
        description="Number of recurrences of a refinement that the gradient reaches back over; 0 = all.",
    )

    def passes(self) -> Passes:
        """Every refinement, recurrence and repeat is a pass; the head reads the state after each refinement."""
        number = self.refinements * self.recurrences * self.repeats
        return Passes(training=number, drafting=number, readouts=self.refinements)

    def head_parameters(self, sizes: DraftSizes) -> HeadParameters:
        """FC([embedding; state; latent]), the projection to the base's width, and FC of a learned first latent."""
        width, outer = sizes.hidden_size, sizes.base_hidden_size
        fc = (2 * outer + width) * width + width
        initial = 2 * outer * width + width if self.latent_init == "learned" else 0
        products = sizes.vocab_size * outer
        return HeadParameters(fc + width * outer + initial, norms=0, output_head=0, logit_products=products)

    @model_validator(mode="after")
    def _check(self) -> LatentOptions:
        if self.latent_init == "learned" and 0 < self.gradient_recurrences < self.recurrences:
            raise ValueError(
                f"gradient_recurrences is {self.gradient_recurrences} of {self.recurrences}, so a learned latent_init "
                "would never learn; set it to 0, or latent_init = 'zeros'"
            )
        return self


class Eagle3Options(AlgorithmOptions):
    """EAGLE-3 (Li et al. 2025, arXiv 2503.01840), with the flags of EAGLE-3.1 checkpoints."""

    layers: str = Field(
        default="auto",
        pattern=r"^(auto|\d+(\s*,\s*\d+)*)$",
        description="Layers of the base to read, in HF numbering (0 = embeddings), e.g. '2,15,27'; auto = 2, N/2, N-3.",
    )
    ttt_steps: int = Field(default=7, ge=1, le=16, description="Steps of the training-time test, the first included.")
    step_decay: float = Field(default=0.8, ge=0, le=1, description="Step k of the training-time test weighs this ** k.")
    noise: float = Field(
        default=0.0, ge=0, description="Amplitude of uniform noise on the captured layers in training."
    )
    known_targets_only: bool = Field(
        default=True,
        description="Leave positions out of the loss where the base's likeliest token is outside the draft's "
        "vocabulary (the authors' code).",
    )
    fc_norm: bool = Field(default=False, description="EAGLE-3.1: normalise each captured layer before the fusion.")
    norm_output: bool = Field(default=False, description="EAGLE-3.1: hand the normalised state to the next step.")
    norm_before_residual: bool = Field(
        default=False, description="The residual stream of the first layer starts from the normalised state."
    )

    def passes(self) -> Passes:
        """Every step of the training-time test is a pass, and the head reads its state."""
        return Passes(training=self.ttt_steps, readouts=self.ttt_steps)

    def head_parameters(self, sizes: DraftSizes) -> HeadParameters:
        """FC over the captured layers, their norms, the output norm, and an output head of the draft's own."""
        width, outer = sizes.hidden_size, sizes.base_hidden_size
        captured = 3 if self.layers == "auto" else len(self.layers.split(","))
        products = sizes.vocab_size * width
        return HeadParameters(
            projections=captured * outer * width + (width * outer if width != outer else 0),
            norms=width + (captured * outer if self.fc_norm else 0),
            output_head=products,
            logit_products=products,
            reads_pairs=True,
            owns_output_norm=True,
        )

    def captured_layers(self, base_layers: int) -> tuple[int, ...]:
        """Hugging Face ids of the layers that are read, for a base of so many decoder layers.

        The three of EAGLE's, SpecForge's and speculators' code; a base of fewer than six layers gives its first, its
        middle and its last but one state.
        """
        if self.layers != "auto":
            return tuple(int(word) for word in self.layers.split(","))
        if base_layers < 6:
            return 0, base_layers // 2, base_layers - 1
        return 2, base_layers // 2, base_layers - 3
