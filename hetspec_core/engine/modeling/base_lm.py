"""The frozen base: forward without logits, embedding and output head, and loading it whole or in part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hetspec_core.catalog import families
from hetspec_core.engine.modeling.attention import ATTENTION_NAME, positions_of, set_window
from hetspec_core.engine.modeling.attention_survey import survey_config, survey_windows
from hetspec_core.engine.modeling.device_map import Room, place_base
from hetspec_core.engine.modeling.packing import product
from hetspec_core.engine.modeling.partial_base import can_load_part, decoder_layers, load_part
from hetspec_core.engine.modeling.sources import LOADING, fingerprint, materialize
from hetspec_core.engine.reporting import summary
from hetspec_core.engine.tokenizer_check import first_fault
from hetspec_core.errors import ModelError, ResourceError
from hetspec_core.spec import BaseSpec


class OutputHead(NamedTuple):
    """An output projection as tensors: logits = cap * tanh(scale * (hidden @ weight^T + bias) / cap), or uncapped.

    Attributes:
        weight: [V, H].
        bias: [V] or None.
        scale: factor of the logits.
        softcap: cap, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """[..., H] hidden states -> [..., V].

        Args:
            hidden: [..., H] states after the final norm; multiplied in the type of the weight.
            dtype: type in which the products are scaled and capped; that of the weight when absent.
        """
        logits = product(hidden.to(self.weight.dtype), self.weight, self.bias).to(dtype or self.weight.dtype)
        if self.scale != 1.0:
            logits = logits * self.scale
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the logits by the products: [..., V], or one factor for all."""
        if not self.softcap:
            return self.scale
        return self.scale * (1 - (logits / self.softcap).square())

    def rows(self, ids: Tensor) -> OutputHead:
        """The head of some tokens, [len(ids)] on the weight's device: weight and bias are copied once."""
        bias = None if self.bias is None else self.bias[ids].contiguous()
        return self._replace(weight=self.weight[ids].contiguous(), bias=bias)


@dataclass(frozen=True)
class BaseOutput:
    """The result of a forward of the base.

    Attributes:
        hidden: [B, T, H] after the final norm; `logits(hidden)` predicts the next token.
        layers: further hidden states [B, T, H] by Hugging Face layer id (0 = embeddings).
    """

    hidden: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)


class FrozenEnds:
    """The embedding and the head of a base, which its drafts use.

    Args:
        embedding: the input embedding module.
        head: the output projection, a linear layer [V, H] (with or without bias).
        softcap: final logit soft-capping (Gemma 2), or None.
        scale: factor of the logits (Cohere, Granite), or 1.
    """

    def __init__(self, embedding: nn.Module, head: nn.Linear, *, softcap: float | None = None, scale: float = 1.0):
        self.embedding = embedding
        self.head = head
        self.softcap = softcap
        self.scale = scale

    @property
    def vocab_size(self) -> int:
        return self.head.weight.shape[0]

    @property
    def embedding_rows(self) -> int:
        """Token ids that can be embedded are below this; it may differ from the head's rows."""
        weight: Tensor = self.embedding.weight  # type: ignore[assignment] - every embedding has one
        return weight.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.head.weight.shape[1]

    @property
    def output_head(self) -> OutputHead:
        return OutputHead(self.head.weight, self.head.bias, self.scale, self.softcap)

    def embed(self, ids: Tensor) -> Tensor:
        """[...] token ids -> [..., H]."""
        return self.embedding(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] hidden states after the final norm -> [..., V] logits."""
        return self.output_head.logits(hidden)


class BaseLM:
    """A frozen causal language model.

    Args:
        model: any Hugging Face causal LM with a decoder, an input embedding and an output head.
        tokenizer: its tokenizer.
        name: short name.
        fingerprint: identity of the weights; datasets and drafts record it.
        room: of the devices that it is spread over, for its drafts; None = it is on one device.
        windows: of attention layers, as `survey_windows` returns them; None = survey the model.

    Raises:
        ModelError: decoder, embedding or head cannot be found, the layers do not take HetSpec's attention, or the
            family has something that decoding does not support, such as recurrent states or attention sinks.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        fingerprint: str,
        room: Room | None = None,
        windows: Mapping[str, int] | None = None,
    ) -> None:
        _check_family(type(model), model.config)
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if decoder is None or decoder is model or embedding is None or not isinstance(head, nn.Linear):
            raise ModelError(
                f"{type(model).__name__} has no separate decoder, embedding and linear head",
                hint="use a decoder-only causal language model",
            )
        model.eval().requires_grad_(False)
        for layer, window in (survey_windows(model) if windows is None else windows).items():
            set_window(model.get_submodule(layer), window)
        model.config._attn_implementation = ATTENTION_NAME
        decoder.config._attn_implementation = ATTENTION_NAME
        self.model = model
        self.decoder: Any = decoder
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.room = room
        config = model.config.get_text_config()
        self.config = config
        self.ends = FrozenEnds(
            embedding,
            head,
            softcap=getattr(config, "final_logit_softcapping", None),
            scale=getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0),
        )
        self.stop_ids = _stop_ids(model, tokenizer)
        positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 0)
        self.max_length = int(positions or 2048)  # tokens that fit into the position table

    @classmethod
    def load(
        cls,
        spec: BaseSpec,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        max_memory: Mapping[str, str] | None = None,
    ) -> BaseLM:
        """Load the base that a spec names.

        Args:
            spec: which.
            device: where; of a base on several devices, their kind.
            dtype: type of the weights.
            max_memory: index of a device -> most memory for weights; empty = all of it on `device`.

        Raises:
            ModelError: it is not on this machine, is of another architecture than that of the spec, or cannot be read.
            ResourceError: it does not fit into `max_memory`, or `max_memory` is given without GPUs.
        """
        from transformers import AutoModelForCausalLM

        folder = materialize(spec.source)
        windows = None if (found := _find_model(folder)) is None else _survey(*found)
        tokenizer = load_tokenizer(spec)
        model = _load_model(
            folder, lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        )
        room = None
        if not max_memory:
            model.to(device)
        elif torch.device(device).type != "cuda":
            raise ResourceError(
                "resources.max_memory spreads the base over GPUs, and this run is on the CPU",
                hint="leave max_memory out, or run where there are GPUs",
            )
        else:
            windows = survey_windows(model) if windows is None else windows  # a mask is one tensor on one device only
            room = Room(max_memory)
            place_base(model, model.get_decoder(), room)
        identity = fingerprint(folder)
        base = cls(model, tokenizer, name=spec.name, fingerprint=identity, room=room, windows=windows)
        base.check(spec)
        return base

    def check(self, spec: BaseSpec) -> None:
        """Compare the loaded sizes with the spec's.

        Raises:
            ModelError: they differ; every difference is named.
        """
        wanted, seen = spec.architecture, self.config
        differences = [
            f"{key} is {getattr(seen, key)}, the preset says {getattr(wanted, key)}"
            for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads")
            if getattr(seen, key, None) is not None and getattr(seen, key) != getattr(wanted, key)
        ]
        if differences:
            raise ModelError(f"base {spec.name} is not the model of its preset: {'; '.join(differences)}")

    @property
    def device(self) -> torch.device:
        return self.ends.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.ends.head.weight.dtype

    @property
    def hidden_size(self) -> int:
        return self.ends.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.ends.vocab_size

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    def embed(self, ids: Tensor) -> Tensor:
        """[...] token ids -> [..., H]."""
        return self.ends.embed(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] hidden states after the final norm -> [..., V]."""
        return self.ends.logits(hidden)

    def forward(
        self,
        input_ids: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Any | None = None,
        layers: tuple[int, ...] = (),
        bounds: Tensor | None = None,
    ) -> BaseOutput:
        """Hidden states of a batch; no logits.

        Args:
            input_ids: [B, T].
            positions: [B, T]; 0..T-1 when absent.
            mask: [B, 1, T, S] bool, True = visible; None = causal (padding on the right is harmless then).
            cache: a key/value cache that is written to, or None.
            layers: Hugging Face layer ids (0 = embeddings, i = output of layer i) whose states are returned too.
            bounds: [B or 1, 2] of `attention.key_bounds` for the mask, where they are known.
        """
        further = {} if bounds is None else {"bounds": bounds}
        with positions_of(positions):
            output = self.decoder(
                input_ids=input_ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
                output_hidden_states=bool(layers),
                **further,
            )
        captured = {}
        if layers:
            captured = {layer: output.hidden_states[layer].to(self.device) for layer in layers}
        return BaseOutput(hidden=output.last_hidden_state.to(self.device), layers=captured)


def _load_model(folder: Path, load: Callable[[], Any]) -> Any:
    """The result of `load`; any exception becomes a ModelError."""
    try:
        with LOADING:
            return load()
    except Exception as error:  # transformers raises errors of all kinds
        raise ModelError(
            f"the base in {folder} could not be loaded: {summary(error)}",
            hint="check that the directory is complete; a model that needs remote code is not supported",
        ) from error


def _find_model(folder: Path) -> tuple[Any, Any] | None:
    """Class and configuration of the causal language model in a directory; None = not known without loading it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        kind: Any = AutoModelForCausalLM._model_mapping[type(config)]  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
        if kind.config_class is config.sub_configs.get("text_config"):  # a model of pictures whose text model is meant
            config = config.get_text_config()
    except Exception:  # transformers raises errors of all kinds; loading the model reports the error
        return None
    return kind, config


def _survey(kind: Any, config: Any) -> dict[str, int] | None:
    """Refuse an unsupported model before any weight is read; returns the result of `survey_config`."""
    _check_family(kind, config)
    return survey_config(kind, config)


def _check_family(kind: Any, config: Any) -> None:
    text = config.get_text_config()
    if reason := families.refusal(text.model_type, text.to_dict()):
        raise ModelError(reason, hint=families.HINT)
    if not getattr(kind, "_supports_attention_backend", False):
        # The attention of such layers would misread boolean tree masks without an error.
        raise ModelError(
            f"the attention of {kind.__name__} cannot be exchanged, so it cannot verify trees",
            hint="use a base of a family whose attention follows transformers' interface, e.g. llama or qwen3",
        )


def load_tokenizer(spec: BaseSpec) -> Any:
    """The tokenizer of a base without its weights.

    Raises:
        ModelError: the base is not on this machine, its tokenizer cannot be read, or it does not know its own tokens.
    """
    from transformers import AutoTokenizer

    folder = materialize(spec.source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises errors of all kinds
        raise ModelError(
            f"the tokenizer in {folder} could not be loaded: {summary(error)}",
            hint="check that the directory is complete; a tokenizer that needs remote code is not supported",
        ) from error
    for name, value in spec.special_tokens.items():
        setattr(tokenizer, name, getattr(tokenizer, f"{value[1:]}_token") if value.startswith("@") else value)
    if fault := first_fault(tokenizer):
        raise ModelError(
            f"the tokenizer in {folder} does not know its own tokens: {fault}",
            hint="the folder's tokenizer files are incomplete or were converted wrongly; copy those of the model's "
            "publisher (tokenizer.json, tokenizer_config.json) into it",
        )
    return tokenizer


def load_frozen_ends(
    spec: BaseSpec, *, device: torch.device | str, dtype: torch.dtype, last_layers: int = 0
) -> tuple[BaseLM, FrozenEnds]:
    """Load a base for training: its ends on `device`, its last layers (to initialise a draft) on the CPU.

    Of a base in safetensors files only the embedding, the head, the final norm and the last layers are read. A base in
    another form (pickled or quantised weights, a family that cannot be surveyed without them) is loaded whole into the
    CPU's memory and cut afterwards.

    Returns:
        The base on the CPU with its last `last_layers` decoder layers (its `forward` cannot run), and the ends on the
        device.

    Raises:
        ModelError: as `BaseLM.load`.
    """
    folder = materialize(spec.source)
    found = _find_model(folder)
    if found is None or _survey(*found) is None or not can_load_part(folder, found[1]):
        base = BaseLM.load(spec, device="cpu", dtype=dtype)
    else:
        tokenizer = load_tokenizer(spec)
        model = _load_model(folder, lambda: load_part(folder, *found, dtype=dtype, last_layers=last_layers))
        # Windows are set on layers; those that are left run no forward.
        base = BaseLM(model, tokenizer, name=spec.name, fingerprint=fingerprint(folder), windows={})
        base.check(spec)
    if hasattr(base.decoder, "layers"):
        layers = decoder_layers(base.decoder)
        base.decoder.layers = nn.ModuleList(layers[max(0, len(layers) - last_layers) :])
    base.ends.embedding.to(device)
    base.ends.head.to(device)
    return base, base.ends


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every stop id: the generation config's list, the model config's, the tokenizer's."""
    found: set[int] = set()
    for owner in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return frozenset(int(value) for value in found)
