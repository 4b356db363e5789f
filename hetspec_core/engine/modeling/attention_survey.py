"""The arguments that a base gives its attention layers, recorded in two forwards of a copy without weights.

HetSpec's attention uses the mask of a call and the arguments of the layer: window, soft cap, sinks. A family may put
something else into the mask that transformers builds, or keep a state of its own beside the keys and values. Both would
change the answers without an error. So a base is surveyed before its weights are used: windows that are only in the
mask are returned, and everything that cannot be supported is refused with the family's name.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sized
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache

from hetspec_core.engine.modeling.sources import LOADING
from hetspec_core.engine.reporting import summary
from hetspec_core.errors import ModelError

_NAME = "hetspec-survey"
_TOKENS = 4  # of each forward
_FAR = 1 << 20  # a position with more positions before it than any window is wide

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_HARMLESS = frozenset(
    # Positions are in the keys already or are passed separately; the rest selects outputs or concerns training.
    [
        "dropout",
        "is_causal",
        "position_ids",
        "cache_position",
        "position_embeddings",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "scaling",
        "softcap",
        "sliding_window",
        "layer_idx",
        "training",
    ]
)


@dataclass
class _Call:
    """One call of the attention function: layer, mask and further arguments."""

    layer: nn.Module
    mask: Tensor | None
    options: dict[str, Any]


@dataclass
class _Record:
    """The calls and masks of a forward."""

    calls: list[_Call] = field(default_factory=list)
    masks: list[tuple[Tensor, MaskFunction]] = field(default_factory=list)


_RECORD: ContextVar[_Record] = ContextVar("survey")


class _ProbeCache(Cache):
    """A cache with the interface of the one that decoding uses (keys and values of layers); it stores nothing."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def survey_windows(model: Any) -> dict[str, int]:
    """Survey the attention layers of a causal language model.

    Args:
        model: the model; its weights are not used when a copy without weights can run.

    Returns:
        Window in tokens of each attention layer whose window is in the mask that transformers builds and not among the
        arguments of the layer's attention, by the layer's name in the model.

    Raises:
        ModelError: the family has something that decoding here does not support; the message names it.
    """
    if (windows := survey_config(type(model), model.config)) is not None:
        return windows
    family = model.config.get_text_config().model_type
    try:
        with _named(model, _NAME):
            return _windows(model, family)
    except ModelError:
        raise
    except Exception as error:  # a family that keeps more in its cache may raise anything
        raise _refused(family, f"it does not run with a cache of keys and values ({summary(error)})") from error


def survey_config(kind: Any, config: Any) -> dict[str, int] | None:
    """The same without any weights.

    Returns:
        As `survey_windows`; None = the family does not run without data, and the model with its weights is surveyed.

    Raises:
        ModelError: as `survey_windows`.
    """
    try:
        with LOADING, torch.random.fork_rng(devices=[]), torch.device("meta"):
            # bfloat16: the only type for which grouped products of experts have shapes without data
            twin = kind._from_config(copy.deepcopy(config), attn_implementation=_NAME, dtype=torch.bfloat16)
        return _windows(twin.eval(), config.get_text_config().model_type)
    except ModelError:
        raise
    except Exception:  # shapes that depend on data, or an error that the model with its weights raises too
        return None


@contextlib.contextmanager
def _named(model: Any, name: str) -> Iterator[None]:
    configs = [model.config, model.get_decoder().config]
    before = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = name
    try:
        yield
    finally:
        for config, old in zip(configs, before, strict=True):
            config._attn_implementation = old


@torch.no_grad()
def _windows(model: Any, family: str) -> dict[str, int]:
    decoder, names = model.get_decoder(), {id(module): name for name, module in model.named_modules()}
    device = model.get_input_embeddings().weight.device
    ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device=device)
    whole = _record(lambda: decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False))
    tree = torch.ones(1, 1, _TOKENS, _TOKENS, dtype=torch.bool, device=device)
    places = torch.arange(_TOKENS, device=device)[None]
    step = _record(
        lambda: decoder(
            input_ids=ids, position_ids=places, attention_mask=tree, past_key_values=_ProbeCache(), use_cache=True
        )
    )
    _check_layers(step, getattr(decoder, "layers", ()), family)
    for call in (*whole.calls, *step.calls):
        _check_options(call, family)
    for call in step.calls:
        mask = call.mask
        if mask is None or mask.dtype != torch.bool or mask.shape != tree.shape:
            raise _refused(family, f"{type(call.layer).__name__} changes the mask of the draft tree")
    found: dict[str, int] = {}
    seen: dict[int, int | None] = {}
    forgotten = _sliding_layers(model.config.get_text_config())
    for call in whole.calls:
        if id(call.mask) not in seen:
            seen[id(call.mask)] = _window_of(call, whole, family)
        window = seen[id(call.mask)]
        told = call.options.get("sliding_window")
        if window is not None and told is None:
            found[names[id(call.layer)]] = window
        elif told is not None and window != told:
            raise _refused(family, f"{type(call.layer).__name__} says a window of {told} tokens, its mask {window}")
        if window is None and getattr(call.layer, "layer_idx", None) in forgotten:
            raise _refused(family, "its window is kept by the cache of transformers alone, and by no mask")
    return found


def _sliding_layers(config: Any) -> set[int]:
    """Layers whose entries before the window are dropped by transformers' own cache."""
    layers = DynamicCache(config=config).layers
    return {number for number, layer in enumerate(layers) if getattr(layer, "is_sliding", False)}


def _record(forward: Callable[[], object]) -> _Record:
    record = _Record()
    token = _RECORD.set(record)
    try:
        forward()
    finally:
        _RECORD.reset(token)
    return record


def _check_layers(record: _Record, layers: Sized, family: str) -> None:
    if (seen := len({id(call.layer) for call in record.calls})) < len(layers):
        raise _refused(
            family,
            f"only {seen} of its {len(layers)} layers have attention; the others keep a state that cannot go back when "
            "draft tokens are refused",
        )


def _check_options(call: _Call, family: str) -> None:
    if call.options.get("s_aux") is not None:
        raise _refused(family, f"{type(call.layer).__name__} uses attention sinks, which are not supported")
    for name, value in call.options.items():
        if value is not None and name not in _HARMLESS and name != "s_aux":
            raise _refused(family, f"{type(call.layer).__name__} gives its attention {name}, which is not supported")


def _window_of(call: _Call, record: _Record, family: str) -> int | None:
    """The window of the mask of a layer; None = it sees everything before."""
    if call.mask is None:
        return None
    function = next((function for mask, function in record.masks if mask is call.mask or mask is call.mask._base), None)
    if function is None:
        raise _refused(family, f"{type(call.layer).__name__} is given a mask that the model makes by itself")
    zero = torch.zeros(1, dtype=torch.int64)
    seen = []
    for far in (_FAR, _FAR + 1):
        try:
            visible = function(zero, zero, torch.tensor([far]), torch.arange(far + 2))
        except Exception as error:  # it looks into tensors of this forward's size
            raise _refused(family, f"the mask of {type(call.layer).__name__} depends on more than places") from error
        if bool(visible[far + 1]):
            raise _refused(family, f"{type(call.layer).__name__} looks at tokens that come later")
        count = int(visible.sum())
        if not bool(visible[far + 1 - count : far + 1].all()):
            raise _refused(family, f"{type(call.layer).__name__} looks at chosen places of the past only")
        seen.append(count)
    if seen == [_FAR + 1, _FAR + 2]:
        return None
    if seen[0] != seen[1]:
        raise _refused(
            family, f"{type(call.layer).__name__} looks at a part of the past that grows (chunked attention)"
        )
    return seen[0]


def _refused(family: str, why: str) -> ModelError:
    return ModelError(
        f"bases of family {family} are not supported: {why}",
        hint="use a base of a family whose layers all have ordinary attention, e.g. llama, qwen3 or gemma3_text",
    )


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    _RECORD.get().calls.append(_Call(module, attention_mask, options))
    rows, heads, tokens, _ = query.shape
    return query.new_zeros(rows, tokens, heads, value.shape[-1]), None


def _mask(*_: Any, **given: Any) -> Tensor:
    shape = (given["batch_size"], 1, given["q_length"], given["kv_length"])
    mask = torch.ones(shape, dtype=torch.bool, device=given["device"])
    _RECORD.get().masks.append((mask, given["mask_function"]))
    return mask


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
