"""What the tree plugin costs a server: seconds per verify step of servers with it and without it, in turns.

Two servers of each kind, because two of the same kind differ as well: what the plugin costs must be seen beside that.
The texts are the same everywhere, so the steps are. On a shared machine a turn is slow or fast as a whole (3.5 or
5.3 ms a step on one); who is slowed down is chance, so the fastest quarter of the turns is told beside the median. What
the hooks themselves take is in `tree_plugin`.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.sglang_matrix import Check, Row, alone, ask, ready_rows
from hetspec_core.sglang.stream import TreeFeed

BARE = ("llama 6/10/59", "llama 6/10/59 again")
HOOKED = ("llama 6/10/59 with the plugin", "llama 6/10/59 with the plugin again")
_VIEWER = "viewer"
_TOKENS = 160
_PROMPTS = 3


def measure_overhead(check: Check, rows: list[Row], seconds: float) -> dict[str, Any]:
    """Rounds over all ways until the time is over; of each turn the median interval between two verify steps counts."""
    ready = {row.name: row for row in ready_rows(rows)}
    ways = [(name, ready[name]) for name in (*BARE, *HOOKED) if name in ready]
    if HOOKED[0] in ready:
        ways.append((_VIEWER, ready[HOOKED[0]]))
    found: dict[str, list[dict[str, float]]] = {label: [] for label, _ in ways}
    until = time.monotonic() + seconds
    for turn in itertools.count():
        if turn >= 2 and time.monotonic() > until:
            break
        for label, row in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            found[label].append(_turn(check, rows, row, viewer=label == _VIEWER))
    steps = {label: [each["step_ms"] for each in turns] for label, turns in found.items()}
    rounds = min(map(len, steps.values()))

    def mean(names: tuple[str, ...]) -> list[float]:
        return [statistics.fmean(steps[name][at] for name in names if name in steps) for at in range(rounds)]

    return {
        "rounds": rounds,
        "step_ms": {label: statistics.median(values) for label, values in steps.items()},
        "step_ms, fastest quarter": {label: _fastest(values) for label, values in steps.items()},
        "tokens_per_s": {label: statistics.median(each["tokens_per_s"] for each in found[label]) for label in found},
        "cost nobody looks": _change(mean(BARE), mean(HOOKED)),
        "cost viewer": _change(mean(BARE), mean((_VIEWER,))),
        "between two servers without it": _change(mean(BARE[:1]), mean(BARE[1:])) if BARE[1] in steps else None,
        "between two servers with it": _change(mean(HOOKED[:1]), mean(HOOKED[1:])) if HOOKED[1] in steps else None,
        "turns": found,
    }


def _turn(check: Check, rows: list[Row], row: Row, *, viewer: bool) -> dict[str, float]:
    feed = TreeFeed(row.socket) if viewer else None
    if feed is not None and not feed.open():
        raise RuntimeError("the plugin's socket does not answer")
    try:
        with alone(rows, row):
            ask(check, row, 48, check.prompts[:1])  # it was asleep, and the publisher looks five times a second
            answers = ask(check, row, _TOKENS, check.prompts[:_PROMPTS])
    finally:
        if feed is not None:
            feed.close()
    intervals = [after - before for each in answers for before, after in itertools.pairwise(each["times"][:-1])]
    return {
        "step_ms": round(1e3 * statistics.median(intervals), 4),
        "tokens_per_s": round(sum(len(each["tokens"]) for each in answers) / sum(each["s"] for each in answers), 1),
    }


def _fastest(values: list[float]) -> float:
    """The mean of the lowest quarter, and of two at least."""
    return statistics.fmean(sorted(values)[: max(2, len(values) // 4)])


def _change(before: list[float], after: list[float], samples: int = 2000) -> dict[str, Any]:
    """How much more the second takes: the median over rounds of the ratio less one, and its 95 % interval."""
    ratios = [two / one - 1 for one, two in zip(before, after, strict=True)]
    return {"median": statistics.median(ratios), "interval": _interval(ratios, statistics.median, samples)}


def _interval(values: list[float], figure: Callable[[list[float]], float], samples: int) -> tuple[float, float]:
    """The percentile bootstrap, 95 %."""
    dice = random.Random(0)
    drawn = sorted(figure(dice.choices(values, k=len(values))) for _ in range(samples))
    return drawn[round(0.025 * (samples - 1))], drawn[round(0.975 * (samples - 1))]
