"""float32 in SGLang: the kernels that know half precision only give way to SGLang's own PyTorch forms.

SGLang takes `--dtype float32`, and its norm kernel then refuses ("failed to dispatch data type Float"). Every operation
has a `forward_native` beside its `forward_cuda`, with the same arithmetic; here that one is taken when what comes in is
float32, and nothing else is touched. It is for comparing texts, where half precision decides ties by rounding, and it
is slower: no figure of speed is taken with it.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

VARIABLE = "HETSPEC_SGLANG_NATIVE"
"""Set where a server is started in float32."""

ENVIRONMENT = {VARIABLE: "1", "TRITON_F32_DEFAULT": "ieee"}
"""Variables of such a server. Triton's products of float32 matrices are TF32 unless it is told otherwise."""

TARGETS = (
    "sglang.srt.layers.layernorm.RMSNorm.forward_cuda",
    "sglang.srt.layers.layernorm.GemmaRMSNorm.forward_cuda",
    "sglang.srt.layers.activation.SiluAndMul.forward_cuda",
    "sglang.srt.layers.activation.GeluAndMul.forward_cuda",
    "sglang.srt.layers.rotary_embedding.base.RotaryEmbedding.forward_cuda",
)


def natively(kernel: Callable[..., Any], operation: Any, *inputs: Any, **named: Any) -> Any:
    """Around `forward_cuda`: the PyTorch form for float32, the kernel for the rest.

    Args:
        kernel: the operation's own `forward_cuda`.
        operation: the module.
        inputs: its inputs; the first of floating point decides.
    """
    floats = (each for each in (*inputs, *named.values()) if isinstance(each, Tensor) and each.is_floating_point())
    first = next(floats, None)
    if first is None or first.dtype != torch.float32:
        return kernel(operation, *inputs, **named)
    return operation.forward_native(*inputs, **named)


def register_native(registry: Any, around: Any) -> None:
    """Hook every operation of `TARGETS`.

    Args:
        registry: SGLang's `HookRegistry`.
        around: its `HookType.AROUND`.
    """
    for target in TARGETS:
        registry.register(target, natively, around)
