"""What decoding gives back, and whom it tells meanwhile: completions and listeners. Plain data, no tensors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from hetspec_core.acceptance import StepCount
from hetspec_core.events.chat import Step, StopReason


@dataclass
class Completion:
    """One answer.

    Attributes:
        prompt_tokens: tokens of the prompt.
        tokens: the answer, its stop token included; the first one comes from prefill.
        stop_reason: a stop token, the token limit, the context length, or a listener that asked for the end.
        steps: one per verify step (speculative decoding); the sum of `committed` is len(tokens) - 1.
        first_token_s: seconds from the start to the first token (prefill).
        total_s: seconds from the start to the last token.
    """

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason = "length"
    steps: list[StepCount] = field(default_factory=list)
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def decode_s(self) -> float:
        """Seconds after the first token."""
        return self.total_s - self.first_token_s


class PhaseClock:
    """Adds up seconds per phase: prefill, propose, verify, commit.

    The device is waited for at both ends of a phase, so decoding with a clock is slower than without.

    Args:
        device: of the models.

    Attributes:
        seconds: phase -> seconds so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._told: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the block as part of a phase."""
        synchronize(self._device)
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize(self._device)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def lap(self, phase: str) -> float:
        """Seconds of a phase since the last lap of it."""
        total = self.seconds.get(phase, 0.0)
        spent, self._told[phase] = total - self._told.get(phase, 0.0), total
        return spent


class Listener:
    """Is told of a batch while it is decoded. This one ignores what it is told; override what is needed.

    Attributes:
        trees: whether steps carry their trees, which costs a transfer of every tree.
        clock: times the phases, and fills the seconds of every step; None = they are not measured.
    """

    trees: bool = False
    clock: PhaseClock | None = None

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        """Row `row` got tokens that no draft proposed: the first one of an answer, and all of plain decoding."""

    def on_step(self, row: int, step: Step) -> None:
        """Row `row` got the tokens of a verify step."""

    def token_text(self, token: int) -> str:
        """What one token says, for the trees of steps."""
        return ""

    def stop_asked(self) -> bool:
        """Whether all answers should end now; asked between steps."""
        return False

    def phase(self, name: str) -> AbstractContextManager[None]:
        """The context in which a phase runs."""
        return nullcontext() if self.clock is None else self.clock(name)


SILENT = Listener()
"""Ignores everything. A decoder makes no `Step` for it."""


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
