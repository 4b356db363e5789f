"""Options of the algorithms. An algorithm's card names the model that checks its options."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hetspec_core.spec._base import Scalar, Spec


class AlgorithmSpec(Spec):
    """Which algorithm, with its options (checked against the options model on the algorithm's card)."""

    name: str = Field(default="eagle", description="Card of the algorithm; see `hetspec-core catalog algorithms`.")
    summary: str = Field(default="", description="One line for lists.")
    options: dict[str, Scalar] = Field(default_factory=dict, description="Options; see the algorithm's card.")


class EagleOptions(Spec):
    """EAGLE-1/2 (Li et al. 2024, arXiv 2401.15077, section 3.2; arXiv 2406.16858 for the dynamic tree)."""

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
    fusion_bias: bool = Field(default=True, description="Whether the fusion layer FC([embedding; feature]) has a bias.")
