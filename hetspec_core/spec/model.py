"""Specs of the two models: the base (frozen, large) and the draft (small, any architecture).

Sizes are the values of the public `config.json` files, so that planning and validation need neither network nor torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hetspec_core.spec.decode import Scalar, Spec


class HubSource(Spec):
    """A model on the Hugging Face hub, pinned to a revision."""

    kind: Literal["hub"] = "hub"
    repo_id: str = Field(min_length=1, description="Repository, as owner/name.")
    revision: str = Field(default="main", description="Commit, tag or branch.")


class PathSource(Spec):
    """A model in a local directory (safetensors and config.json)."""

    kind: Literal["path"] = "path"
    path: str = Field(min_length=1, description="Directory with config.json and safetensors files.")


class PackageSource(Spec):
    """A model file that ships inside an installed Python package; dequantised once into the cache."""

    kind: Literal["package"] = "package"
    package: str = Field(min_length=1, description="Import name of the package.")
    file: str = Field(min_length=1, description="File inside the package, e.g. a GGUF.")
    requirement: str = Field(
        min_length=1, description="What to install, e.g. name==version; shown in the error's hint."
    )
    repo_id: str = Field(
        default="", description="Hub repository of the model that the file was made from, as owner/name."
    )


ModelSource = Annotated[HubSource | PathSource | PackageSource, Field(discriminator="kind")]


class Architecture(Spec):
    """Sizes of a decoder, under their names in Hugging Face configurations.

    Keys that only some families have are in `extra` and reach the configuration as they are.
    """

    model_type: str = Field(description="Hugging Face model type, e.g. llama, qwen3.")
    hidden_size: int = Field(gt=0, description="Width H of the residual stream.")
    intermediate_size: int = Field(gt=0, description="Width of the MLP.")
    num_hidden_layers: int = Field(gt=0, description="Number of decoder layers.")
    num_attention_heads: int = Field(gt=0, description="Query heads.")
    num_key_value_heads: int = Field(gt=0, description="Key/value heads.")
    head_dim: int | None = Field(default=None, gt=0, description="Width of a head; hidden_size / heads when absent.")
    vocab_size: int = Field(gt=0, description="Vocabulary V.")
    max_position_embeddings: int = Field(gt=0, description="Context length in tokens.")
    rope_theta: float = Field(default=10000.0, gt=0, description="Base of the rotary embedding.")
    rms_norm_eps: float = Field(default=1e-6, gt=0, description="Epsilon of the RMS norms.")
    tie_word_embeddings: bool = Field(default=False, description="Whether the head shares the embedding's weights.")
    num_experts: int | None = Field(default=None, gt=0, description="Experts per MoE layer.")
    num_experts_per_tok: int | None = Field(default=None, gt=0, description="Experts a token is routed to.")
    moe_intermediate_size: int | None = Field(default=None, gt=0, description="Width of one expert.")
    extra: dict[str, Scalar] = Field(
        default_factory=dict, description="Further keys of the Hugging Face configuration."
    )


class BaseSpec(Spec):
    """The base: where its weights come from, its sizes, and how its conversations are written."""

    name: str = Field(min_length=1, description="Short name, unique among presets.")
    summary: str = Field(default="", description="One line for lists.")
    source: ModelSource
    architecture: Architecture
    chat_template: str = Field(
        default="auto", description="Shipped chat template with generation marks; auto = by the tokenizer."
    )
    system_prompt: str | None = Field(
        default=None, description="System message put before conversations that have none."
    )
    special_tokens: dict[str, str] = Field(
        default_factory=dict, description="Special tokens to set, e.g. pad_token = '@eos' (copy of the eos token)."
    )
    license: str = Field(default="", description="Licence of the weights.")
    parameters: int | None = Field(default=None, gt=0, description="Published number of parameters.")


class DraftSpec(Spec):
    """The draft: a backbone of decoder layers; its head is added by the algorithm."""

    name: str = Field(min_length=1, description="Short name, unique among presets.")
    summary: str = Field(default="", description="One line for lists.")
    backbone: str = Field(default="llama", description="Card of the backbone; see `hetspec-core catalog backbones`.")
    architecture: Architecture
    vocab_size: int | None = Field(
        default=None,
        gt=0,
        description="Reduced draft vocabulary (most frequent supervised tokens); the base's when absent.",
    )
    init: Literal["random", "base_last_layers"] = Field(
        default="random", description="Random weights, or the base's last layers with a pass-through fusion."
    )
    skip_first_input_norm: bool = Field(default=True, description="EAGLE: the first layer has no input norm.")
    skip_output_norm: bool = Field(default=True, description="EAGLE: no norm after the last layer.")
    tie_layer_norms: bool = Field(default=False, description="All layers share one set of norms.")
    tie_output_norm: bool = Field(
        default=False, description="The norm after the last layer is the base's final norm, and is not trained."
    )
    checkpoint: str | None = Field(
        default=None, description="Directory of a trained draft to load instead of initialising one."
    )
