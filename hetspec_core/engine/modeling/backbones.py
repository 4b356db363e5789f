"""Draft backbones: decoder layers of any Hugging Face family, by configuration.

The family's own model class is built without embedding; layers, rotary embedding and masks are Hugging Face's.
EAGLE-3's first layer (`PairLayer`) takes attention, MLP and its place in the decoder from such a layer. Configurations
are written with the rotary keys of transformers 4 and 5.

A draft may share norms: one set for all of its layers, or the base's final norm (`NormTies`). On disk every norm has
its own name, so programs without such ties can read the draft.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from hetspec_core.engine.modeling.attention import ATTENTION_NAME, UnrolledKeys
from hetspec_core.engine.modeling.experts import ExpertMLP, expert_mlps, install_experts
from hetspec_core.engine.modeling.partial_base import FINAL_NORMS
from hetspec_core.engine.modeling.sources import LOADING
from hetspec_core.engine.reporting import first_line
from hetspec_core.errors import ModelError
from hetspec_core.spec import Architecture

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class PairLayer(nn.Module):
    """A decoder layer that reads [embedding; state], 2 H wide, and returns a state, H wide.

    Args:
        layer: the layer to take attention, MLP and norms from.
        config: its configuration.
        norm_before_residual: the residual stream starts from the normalised state.

    Raises:
        ModelError: the family's layers have another structure.
    """

    def __init__(self, layer: Any, config: Any, *, norm_before_residual: bool) -> None:
        super().__init__()
        if not all(hasattr(layer, name) for name in ("self_attn", "mlp", "post_attention_layernorm")) or not all(
            isinstance(getattr(layer.self_attn, name, None), nn.Linear) for name in _PROJECTIONS
        ):
            raise ModelError(
                f"{type(layer).__name__} has no q_proj, k_proj and v_proj of its own behind an input_layernorm",
                hint="take a backbone of the Llama, Qwen, Mistral or Gemma families for this algorithm",
            )
        self.hidden_norm = copy.deepcopy(layer.input_layernorm)
        self.input_layernorm = layer.input_layernorm
        self.self_attn = layer.self_attn
        for name in _PROJECTIONS:
            narrow: nn.Linear = getattr(layer.self_attn, name)
            wide = nn.Linear(2 * narrow.in_features, narrow.out_features, bias=narrow.bias is not None)
            nn.init.normal_(wide.weight, std=config.initializer_range)
            if wide.bias is not None:
                nn.init.zeros_(wide.bias)
            setattr(self.self_attn, name, wide)
        # Gemma normalises the outputs of attention and MLP too, under names that others use for the norm between them.
        self._sandwich = hasattr(layer, "pre_feedforward_layernorm")
        self.post_attention_layernorm = layer.post_attention_layernorm
        if self._sandwich:
            self.pre_feedforward_layernorm = layer.pre_feedforward_layernorm
            self.post_feedforward_layernorm = layer.post_feedforward_layernorm
        self.mlp = layer.mlp
        self._norm_before_residual = norm_before_residual

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        """[B, T, 2 H] -> [B, T, H]; the context is what the family's decoder passes to its layers."""
        embedding, state = hidden_states.chunk(2, dim=-1)
        normed = self.hidden_norm(state)
        residual = normed if self._norm_before_residual else state
        pair = torch.cat([self.input_layernorm(embedding), normed], dim=-1)
        attended, _ = self.self_attn(hidden_states=pair, **context)
        if self._sandwich:
            residual = residual + self.post_attention_layernorm(attended)
            return residual + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(residual)))
        residual = residual + attended
        return residual + self.mlp(self.post_attention_layernorm(residual))


def backbone_config(architecture: Architecture, num_layers: int) -> Any:
    """The Hugging Face configuration of `num_layers` decoder layers of this architecture.

    Every layer has full attention: a draft has no sliding windows, also where its family has.

    Raises:
        ModelError: the family is unknown to the installed transformers.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    sizes = architecture.model_dump(exclude={"model_type", "extra", "rope_theta"}, exclude_none=True)
    rope = {"rope_type": "default", "rope_theta": architecture.rope_theta}
    values = {
        **sizes,
        # Both spellings of the rotary base: configurations moved from the first to the second.
        "rope_theta": architecture.rope_theta,
        "rope_parameters": rope,
        **architecture.extra,
        "num_hidden_layers": num_layers,
        "tie_word_embeddings": False,
    }
    try:
        usual = AutoConfig.for_model(architecture.model_type)
        if "full_attention" in (getattr(usual, "rope_parameters", None) or {}):  # Gemma 3: a rotary base per kind
            values["rope_parameters"] = {"full_attention": rope, "sliding_attention": dict(rope)}
            del values["rope_theta"]
        if getattr(usual, "layer_types", None) is not None:
            values["layer_types"] = ["full_attention"] * num_layers
        if getattr(usual, "sliding_window", None) is not None:
            values["sliding_window"] = None
        return AutoConfig.for_model(architecture.model_type, **values)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            f"no configuration for model_type {architecture.model_type!r}: {first_line(error)}",
            hint="see `hetspec-core catalog backbones`",
        ) from error


class HFBackbone(nn.Module):
    """Decoder layers that take fused inputs instead of token ids.

    Args:
        config: a Hugging Face decoder configuration; `num_hidden_layers` layers are built.
        skip_first_input_norm: EAGLE's first layer sees its input unnormalised.
        skip_output_norm: no norm after the last layer.
        pair_input: EAGLE-3: the first layer reads [embedding; state], 2 Hd wide.
    """

    decoder: Any  # Hugging Face's model class of the family
    card_name: str = "hf"  # the card that it was built by

    def __init__(
        self,
        config: Any,
        *,
        skip_first_input_norm: bool = True,
        skip_output_norm: bool = True,
        pair_input: bool = False,
        norm_before_residual: bool = False,
    ) -> None:
        super().__init__()
        from transformers import AutoModel

        config = copy.deepcopy(config)
        vocab_size, pad = config.vocab_size, getattr(config, "pad_token_id", None)
        config.vocab_size, config.pad_token_id = 1, None  # the embedding is the base's: build the smallest one
        config._attn_implementation = ATTENTION_NAME
        with LOADING:
            decoder = AutoModel.from_config(config, dtype=torch.float32)
        decoder.set_input_embeddings(None)
        _check_layout(decoder)
        install_experts(decoder)
        if pair_input:
            decoder.layers[0] = PairLayer(decoder.layers[0], config, norm_before_residual=norm_before_residual)
        elif skip_first_input_norm:
            decoder.layers[0].input_layernorm = nn.Identity()
        if skip_output_norm:
            decoder.norm = nn.Identity()
        config.vocab_size, config.pad_token_id = vocab_size, pad
        self.config = config
        self.decoder = decoder

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers  # type: ignore[return-value]

    @property
    def experts(self) -> list[ExpertMLP]:
        """The layers' mixtures of experts; none in a dense backbone."""
        return expert_mlps(self.decoder)

    @property
    def num_resting_parameters(self) -> int:
        """Parameters of experts that a token is not routed to, if it is routed to as many as it can be."""
        return sum(mlp.num_resting_parameters for mlp in self.experts)

    def forward(
        self,
        inputs: Tensor,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: Any | None = None,
        layer_offset: int = 0,
        unrolled: UnrolledKeys | None = None,
    ) -> Tensor:
        """Run all layers.

        Args:
            inputs: [B, T, Hd] ([B, T, 2 Hd] with `pair_input`) fused inputs.
            positions: [B or 1, T].
            mask: [B or 1, 1, T, S] bool, True = visible; None = causal.
            cache: a key/value cache that is written to, or None.
            layer_offset: number of the first layer in the cache, for a backbone that runs several times a step.
            unrolled: keys of the earlier steps of a training-time test; replaces mask and cache.

        Returns:
            [B, T, Hd].
        """
        if cache is not None and layer_offset:
            cache = _LaterLayers(cache, layer_offset)
        output = self.decoder(
            inputs_embeds=inputs,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            **({"unrolled": unrolled} if unrolled is not None else {}),
        )
        return output.last_hidden_state.to(inputs.device)  # its last layer may be on another device


def _check_layout(decoder: Any) -> None:
    """Raises ModelError for a family whose decoder has another structure than Llama's."""
    layers = getattr(decoder, "layers", None)
    if layers is None or not hasattr(layers[0], "input_layernorm") or not hasattr(decoder, "norm"):
        raise ModelError(
            f"{type(decoder).__name__} has no layers with an input_layernorm and a norm behind them",
            hint="see `hetspec-core catalog backbones` for families that a draft can be made of",
        )


class _LaterLayers(Cache):
    """A view of a cache whose layer 0 is layer `offset` of it."""

    def __init__(self, inner: Any, offset: int) -> None:
        super().__init__(layers=[])
        self._inner, self._offset = inner, offset

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        return self._inner.update(key_states, value_states, layer_idx + self._offset, *rest, **more)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused: positions are always given."""
        return 0


_SHIFTS = (0.0, -1.0, 1.0)  # Gemma scales by 1 + weight, others by weight


@dataclass(frozen=True)
class NormTies:
    """Which norms of a draft are tied.

    Attributes:
        layers: each norm of a layer is shared by all layers.
        output: the norm after the last layer is the base's final norm, and is not trained.
    """

    layers: bool = False
    output: bool = False


def share_norms(layers: nn.ModuleList) -> None:
    """Make the norms of one name a single norm for all layers: that of the first layer which has it.

    A layer that reads pairs keeps the norms of its two inputs, which differ from the one input of other layers.
    """
    found: dict[str, nn.Module] = {}
    for layer in layers:
        own = ("input_layernorm", "hidden_norm") if hasattr(layer, "hidden_norm") else ()
        for name, module in list(layer.named_modules()):
            place, _, last = name.rpartition(".")
            if not last.endswith("norm") or name in own or not any(True for _ in module.parameters(recurse=False)):
                continue
            setattr(layer.get_submodule(place), last, found.setdefault(name, module))


@torch.no_grad()
def take_final_norm(norm: nn.Module, decoder: Any) -> None:
    """Give a draft's output norm the weights that make it equal to the base's final norm.

    Raises:
        ModelError: the base's norm is of another width or kind.
    """
    theirs = next((found for name in FINAL_NORMS if (found := getattr(decoder, name, None)) is not None), None)
    ours, weight = getattr(norm, "weight", None), getattr(theirs, "weight", None)
    if theirs is None or ours is None or weight is None:
        raise ModelError(
            f"the output norm cannot be tied to the base's: {type(decoder).__name__} or the draft has no final norm",
            hint="set draft.tie_output_norm = false",
        )
    if ours.shape != weight.shape:
        raise ModelError(
            f"the output norm cannot be tied to the base's: it is {ours.shape[0]} wide, the base's {weight.shape[0]}",
            hint="set draft.tie_output_norm = false, or give the draft the base's hidden_size",
        )
    theirs = copy.deepcopy(theirs).to("cpu", torch.float32)
    random = torch.Generator().manual_seed(0)
    probe = 3.0 * torch.randn(4, len(weight), generator=random)  # so large that the epsilons do not matter
    probe += 1.0  # shows a norm that subtracts the mean
    wanted = theirs(probe)
    for shift in _SHIFTS:
        ours.copy_(theirs.weight + shift)
        if torch.allclose(copy.deepcopy(norm).to("cpu", torch.float32)(probe), wanted, rtol=1e-3, atol=1e-3):
            return
    raise ModelError(
        f"the output norm cannot be tied to the base's: a {type(norm).__name__} does not do what the base's "
        f"{type(theirs).__name__} does",
        hint="set draft.tie_output_norm = false, or take a backbone of the base's family",
    )


_TABLE = "rope_parameters"
_FULL, _SLIDING = "full_attention", "sliding_attention"
_OWN_KEY = ("rope_theta", "partial_rotary_factor")
"""Entries of the table that transformers 4 has at the top level and not in `rope_scaling`."""
_OLDER = ("rope_theta", "rope_scaling", "rope_local_base_freq")


def with_older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the keys of transformers 4 beside `rope_parameters`; unchanged without that table."""
    tables = _tables(config)
    if tables is None:
        return config
    full, sliding = tables
    scaling = {key: value for key, value in full.items() if key not in _OWN_KEY}
    found: dict[str, Any] = {key: full[key] for key in _OWN_KEY if key in full}
    found["rope_scaling"] = scaling if scaling.get("rope_type", "default") != "default" else None
    if sliding is not None and "rope_theta" in sliding:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    return config | found


def without_older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration for transformers 5: where it has `rope_parameters`, that table alone counts."""
    if _tables(config) is None:
        return config
    return {key: value for key, value in config.items() if key not in _OLDER}


def contradiction(config: dict[str, Any]) -> str:
    """How `rope_theta` contradicts `rope_parameters`; empty when it does not."""
    tables, older = _tables(config), config.get("rope_theta")
    if tables is None or older is None or "rope_theta" not in tables[0] or tables[0]["rope_theta"] == older:
        return ""
    return f"{tables[0]['rope_theta']}: by rope_parameters; rope_theta says {older}, and readers of that key differ"


def _tables(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """The table of layers with full attention, and that of layers with windows where a family has two."""
    table = config.get(_TABLE)
    if not isinstance(table, dict) or not table:
        return None
    full, sliding = table.get(_FULL), table.get(_SLIDING)
    if isinstance(full, dict):
        return full, sliding if isinstance(sliding, dict) else None
    return table, None
