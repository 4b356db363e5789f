"""The hooks in SGLang's processes, and the entry point that sets them.

Entry-point group `sglang.srt.plugins`. Two kinds of hooks are set, each only where an environment variable asks for it
and the source of this SGLang has what the hooks call:

- Trees: three hooks in the speculative workers gather every verify step for the publisher. A hook catches every
  exception, counts it, and does nothing any more after a few. CUDA graphs: `organize_draft_results` is captured, so its
  hook runs once per graph and leaves a copy into a buffer behind that every replay repeats; the other two run in Python
  at every step.
- float32: SGLang takes `--dtype float32`, and its norm kernel then refuses ("failed to dispatch data type Float").
  Every operation has a `forward_native` beside its `forward_cuda`, with the same arithmetic. The hook calls it when the
  input is float32. It is for comparing texts, where half precision decides ties by rounding. It is slower: no speed is
  measured with it.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetspec_core.documents import parse_module
from hetspec_core.sglang.plugin import NATIVE_VARIABLE, TREES_VARIABLE
from hetspec_core.sglang.plugin.publisher import Publisher
from hetspec_core.sglang.plugin.records import MOST_ROWS, Packed, VerifyBatch, pack, unpack
from hetspec_core.sglang.versions import differences

_MOST_FAULTS = 5
_logger = logging.getLogger(__name__)
_registered = False

NATIVE_TARGETS = (
    "sglang.srt.layers.layernorm.RMSNorm.forward_cuda",
    "sglang.srt.layers.layernorm.GemmaRMSNorm.forward_cuda",
    "sglang.srt.layers.activation.SiluAndMul.forward_cuda",
    "sglang.srt.layers.activation.GeluAndMul.forward_cuda",
    "sglang.srt.layers.rotary_embedding.base.RotaryEmbedding.forward_cuda",
)
"""Operations whose kernels take half precision only."""


def register() -> None:
    """Entry point: hook SGLang, once, where a variable asks for it and its source is what the hooks call."""
    global _registered
    path, natively = os.environ.get(TREES_VARIABLE, ""), bool(os.environ.get(NATIVE_VARIABLE))
    if _registered or not (path or natively):
        return
    import sglang
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    package = Path(sglang.__path__[0])

    def fits(part: str, what: str) -> bool:
        found = differences(package, part, parse_module)
        if found:
            _logger.warning("hetspec: no %s from SGLang %s, which differs: %s", what, sglang.__version__, found[0])
        return not found

    _registered = True
    if natively and fits("native", "help in float32"):
        for target in NATIVE_TARGETS:
            HookRegistry.register(target, call_native, HookType.AROUND)
    if path and fits("plugin", "trees"):
        hooks = TreeHooks(lambda: _publisher(path))
        speculative = "sglang.srt.speculative"
        HookRegistry.register(f"{speculative}.eagle_utils.organize_draft_results", hooks.after_organize, HookType.AFTER)
        HookRegistry.register(
            f"{speculative}.eagle_worker_common.build_eagle_verify_input", hooks.after_build, HookType.AFTER
        )
        HookRegistry.register(f"{speculative}.eagle_utils.eagle_sample", hooks.after_sample, HookType.AFTER)


def _publisher(path: str) -> Publisher | None:
    """The publisher of this process; None in all ranks but the first, which publishes for all."""
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return None
    return Publisher(path)


def call_native(kernel: Callable[..., Any], operation: Any, *inputs: Any, **named: Any) -> Any:
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


class TreeHooks:
    """The hooks of the trees, and what they share.

    Args:
        publisher: called at the first step, in the process that makes steps.
    """

    def __init__(self, publisher: Callable[[], Publisher | None]) -> None:
        self._make_publisher = publisher
        self._publisher: Publisher | None = None
        self._made = False
        self._scores: dict[int, Tensor] = {}  # by number of nodes: [rows, N]
        self._links: Tensor | None = None
        self._topk = 0
        self._pack: Callable[[VerifyBatch], Packed] | None = None
        self.faults = 0

    def after_organize(self, result: Any, score_list: Any, *_: Any, **__: Any) -> None:
        """Copy the cumulative scores of the nodes into a buffer that every replay of the graph writes again."""
        if self.faults >= _MOST_FAULTS:
            return
        try:
            index = result[1]  # [B, N] candidates
            gathered = torch.cat(list(score_list), dim=1).flatten(1).gather(1, index)[:MOST_ROWS]
            buffer = self._scores.get(index.shape[1])
            if buffer is None:
                buffer = gathered.new_full((MOST_ROWS, index.shape[1]), float("nan"), dtype=torch.float32)
                self._scores[index.shape[1]] = buffer
            buffer[: gathered.shape[0]].copy_(gathered)
        except Exception:
            self._fault("scores")

    def after_build(self, result: Any, batch: Any, draft_input: Any, *rest: Any, **named: Any) -> None:
        """Copy the parents of the nodes, because the verification may write where the draft's graph did."""
        if not self._wanted():
            return
        try:
            self._topk = int(named["topk"])
            self._links = None if batch.forward_mode.is_idle() else torch.cat([rest[0], rest[1]], dim=1)
        except Exception:
            self._fault("links")

    def after_sample(self, result: Any, verify_input: Any, batch: Any, logits_output: Any, *_: Any, **__: Any) -> None:
        """Gather the step and hand it to the publisher."""
        publisher, links, self._links = self._publisher, self._links, None
        if publisher is None or links is None:
            return
        try:
            predict, accept_lens, accept_index = result
            nodes = verify_input.draft_token_num
            if links.shape[0] != len(batch.reqs) or verify_input.draft_token.shape[0] != links.shape[0] * nodes:
                return
            step = VerifyBatch(
                draft_token=verify_input.draft_token,
                links=links,
                topk=self._topk,
                scores=None if self._topk == 1 else self._scores.get(nodes - 1),
                logits=logits_output.next_token_logits,
                predict=predict,
                accept_index=accept_index,
                accept_lens=accept_lens,
                seq_lens=batch.seq_lens,
            )
            first = self._pack is None
            self._pack = self._pack or pack_on(step.logits.device.type)
            packed = self._pack(step)
            if first and not publisher.has_viewers:
                return  # SGLang's own warm-up: the kernel is compiled now, and not when a viewer connects
            ready = _to_host(packed)
            ids, at, dropped = [str(request.rid) for request in batch.reqs], time.time(), publisher.dropped
            publisher.put(lambda: unpack(ready(), ids, at, dropped))
        except Exception:
            self._fault("step")

    def _wanted(self) -> bool:
        """Whether this step is gathered: there is a viewer, or it is the first step."""
        if self.faults >= _MOST_FAULTS:
            return False
        if not self._made:
            self._made = True
            try:
                self._publisher = self._make_publisher()
            except Exception:
                self._fault("socket")
        publisher = self._publisher
        return publisher is not None and (publisher.has_viewers or self._pack is None)

    def _fault(self, where: str) -> None:
        self.faults += 1
        if self.faults <= _MOST_FAULTS:
            _logger.exception("hetspec: the draft trees are not sent (%s); serving goes on", where)


def pack_on(device: str) -> Callable[[VerifyBatch], Packed]:
    """How steps are packed on a kind of device: by one kernel where Triton has kernels."""
    if device != "cuda":
        return pack
    from hetspec_core.sglang.plugin.pack_kernel import pack_at_once

    return pack_at_once


def _to_host(packed: Packed) -> Callable[[], Packed]:
    """Begin the copy to the host; the returned function waits for it."""
    numbers = packed.numbers
    if numbers.device.type != "cuda":
        return lambda: packed
    copied = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    copied.copy_(numbers, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> Packed:
        event.synchronize()
        return Packed(copied, packed.nodes)

    return wait
