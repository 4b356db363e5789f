"""The three hooks in SGLang's speculative workers, and the entry point that sets them and those of `native`.

Entry-point group `sglang.srt.plugins`. Without the variables that ask for it, or in an SGLang whose source differs from
what is hooked here, nothing is. Every hook catches all that goes wrong in it, counts it, and after a few times stays
away.

CUDA graphs: `organize_draft_results` is captured, so its hook runs once per graph and leaves a copy into a
buffer behind that every replay repeats; the other two run in Python at every step.
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

from hetspec_core.engine.backends.sglang_plugin import native
from hetspec_core.engine.backends.sglang_plugin.publisher import Publisher
from hetspec_core.engine.backends.sglang_plugin.records import MOST_ROWS, Packed, pack, parents_of, unpack
from hetspec_core.sglang_inside import differences

VARIABLE = "HETSPEC_SGLANG_TREES"
"""Path of the socket on which trees are told."""

_MOST_FAULTS = 5
_logger = logging.getLogger(__name__)


class TreeHooks:
    """What the hooks share.

    Args:
        publisher: made at the first step, in the process that makes steps.
    """

    def __init__(self, publisher: Callable[[], Publisher | None]) -> None:
        self._make_publisher = publisher
        self._publisher: Publisher | None = None
        self._made = False
        self._scores: dict[int, Tensor] = {}  # by number of nodes: [rows, N]
        self._parents: Tensor | None = None
        self._chain = False
        self.faults = 0

    def after_organize(self, result: Any, score_list: Any, *_: Any, **__: Any) -> None:
        """Keep the cumulative scores of the nodes where every replay of a graph writes them."""
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
        """Note whose child every node is."""
        publisher = self._listening()
        if publisher is None:
            return
        try:
            topk = int(named["topk"])
            self._chain = topk == 1
            self._parents = None if batch.forward_mode.is_idle() else parents_of(rest[0], rest[1], topk)
        except Exception:
            self._fault("parents")

    def after_sample(self, result: Any, verify_input: Any, batch: Any, logits_output: Any, *_: Any, **__: Any) -> None:
        """Gather the step and hand it to the publisher."""
        publisher, parents = self._publisher, self._parents
        if publisher is None or parents is None or not publisher.has_viewers:
            return
        self._parents = None
        try:
            predict, accept_lens, accept_index = result
            if parents.shape[1] != verify_input.draft_token_num or parents.shape[0] != len(batch.reqs):
                return
            packed = pack(
                draft_token=verify_input.draft_token,
                parents=parents,
                scores=None if self._chain else self._scores.get(parents.shape[1] - 1),
                logits=logits_output.next_token_logits,
                predict=predict,
                accept_index=accept_index,
                accept_lens=accept_lens,
                seq_lens=batch.seq_lens,
            )
            ready = _to_host(packed)
            ids, at, dropped = [str(request.rid) for request in batch.reqs], time.time(), publisher.dropped
            publisher.put(lambda: unpack(ready(), ids, at, dropped))
        except Exception:
            self._fault("step")

    def _listening(self) -> Publisher | None:
        """The publisher, if anybody looks."""
        if self.faults >= _MOST_FAULTS:
            return None
        if not self._made:
            self._made = True
            try:
                self._publisher = self._make_publisher()
            except Exception:
                self._fault("socket")
        publisher = self._publisher
        return publisher if publisher is not None and publisher.has_viewers else None

    def _fault(self, where: str) -> None:
        self.faults += 1
        if self.faults <= _MOST_FAULTS:
            _logger.exception("hetspec: the draft trees are not told (%s); serving goes on", where)


def _to_host(packed: Packed) -> Callable[[], Packed]:
    """Begin the copies to the host; the function that is given waits for them."""
    if packed.integers.device.type != "cuda":
        return lambda: packed
    integers = torch.empty(packed.integers.shape, dtype=packed.integers.dtype, pin_memory=True)
    floats = torch.empty(packed.floats.shape, dtype=packed.floats.dtype, pin_memory=True)
    integers.copy_(packed.integers, non_blocking=True)
    floats.copy_(packed.floats, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def wait() -> Packed:
        event.synchronize()
        return Packed(integers, floats, packed.nodes)

    return wait


_registered = False


def register() -> None:
    """Entry point: hook SGLang, once, when a variable asks for it and its source is what the hooks call."""
    global _registered
    path, natively = os.environ.get(VARIABLE, ""), bool(os.environ.get(native.VARIABLE))
    if _registered or not (path or natively):
        return
    import sglang
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    package = Path(sglang.__path__[0])
    asked = {"plugin": bool(path), "native": natively}
    found = [each for part, wanted in asked.items() if wanted for each in differences(package, part)]
    if found:
        version = sglang.__version__
        _logger.warning(
            "hetspec: neither trees nor help in float32 from SGLang %s, which differs: %s", version, found[0]
        )
        return
    _registered = True
    if natively:
        native.register_native(HookRegistry, HookType.AROUND)
    if path:
        hooks = TreeHooks(lambda: _publisher(path))
        speculative = "sglang.srt.speculative"
        HookRegistry.register(f"{speculative}.eagle_utils.organize_draft_results", hooks.after_organize, HookType.AFTER)
        HookRegistry.register(
            f"{speculative}.eagle_worker_common.build_eagle_verify_input", hooks.after_build, HookType.AFTER
        )
        HookRegistry.register(f"{speculative}.eagle_utils.eagle_sample", hooks.after_sample, HookType.AFTER)


def _publisher(path: str) -> Publisher | None:
    """The publisher of this process; the first rank tells for all."""
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return None
    return Publisher(path)
