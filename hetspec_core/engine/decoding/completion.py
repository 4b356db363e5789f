"""What decoding gives back, and whom it tells meanwhile: completions and listeners. Plain data, no tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

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
        kept_tokens: of the prompt, whose keys and values the answer before had left.
        tree: label of the shape that `tree = auto` took, or `plain`; empty where it was not asked to choose.
        predicted_speedup: over plain decoding, of the best shape for `auto`.
    """

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason = "length"
    steps: list[StepCount] = field(default_factory=list)
    first_token_s: float = 0.0
    total_s: float = 0.0
    kept_tokens: int = 0
    tree: str = ""
    predicted_speedup: float | None = None

    @property
    def decode_s(self) -> float:
        """Seconds after the first token."""
        return self.total_s - self.first_token_s


class PhaseClock:
    """Adds up seconds per phase: prefill, propose, verify, commit.

    On a GPU the phases are timed by events in the device's own queue, so that nothing waits for it.

    Args:
        device: of the models.

    Attributes:
        seconds: phase -> seconds of the laps that were read.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []  # since the last lap: events, or seconds

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time the block as part of a phase."""
        start = self._now()
        try:
            yield
        finally:
            self._spans.append((phase, start, self._now()))

    def lap(self) -> Callable[[], dict[str, float]]:
        """End a lap; what is returned waits until the device has done it, and gives its seconds per phase."""
        spans, self._spans = self._spans, []

        def read() -> dict[str, float]:
            spent: dict[str, float] = {}
            for phase, start, end in spans:
                if self._on_gpu:
                    end.synchronize()
                spent[phase] = spent.get(phase, 0.0) + (start.elapsed_time(end) / 1e3 if self._on_gpu else end - start)
            for phase, seconds in spent.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
            return spent

        return read

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


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

    def lap(self) -> Callable[[], dict[str, float]]:
        """End a cycle; what is returned gives the seconds of its phases, or nothing where they are not measured."""
        return dict if self.clock is None else self.clock.lap()


SILENT = Listener()
"""Ignores everything. A decoder makes no `Step` for it."""


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read afterwards is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
