"""What measured turns say about the speed of trials: pooled speed, an interval of the speed-up, and which is fastest.

All trials answer the same prompts. A turn is one batch of them, answered once; turns of the same number and repeat
belong together. The interval is a delete-one jackknife of the logarithm of the speed-up with Student's t, which widens
as it should when there are few turns. It knows numbers only: no models, no clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hetspec_core.events.results import TrialResult

TurnKey = tuple[int, int]
"""(repeat, number of the batch of prompts)."""

_FEWEST_TURNS = 3  # with an interval
_FEWEST_BATCHES = 4  # from here on the spread is that between batches of prompts; below, that between single turns
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T_95_MORE = ((20, 2.086), (30, 2.042), (60, 2.000))

ADVICE = (
    "measure more prompts (--limit, --prompts), longer answers (--max-new-tokens) or more minutes (--minutes), on a "
    "machine that does nothing else"
)


@dataclass
class Trial:
    """One tree shape at one batch size.

    Attributes:
        tree: its label, or `plain`.
        batch_size: prompts at once.
        turns: tokens and seconds of each turn.
        committed, steps: tokens of the verify steps and their number, over all turns.
        note: why there is no turn, or what is wrong with them.
        predicted: speed-up over plain decoding that the cost model expected before the first turn; None = no model.
    """

    tree: str
    batch_size: int
    turns: dict[TurnKey, tuple[int, float]] = field(default_factory=dict)
    committed: int = 0
    steps: int = 0
    note: str = ""
    predicted: float | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """All tokens / all seconds."""
        return _speed(self.turns.values())

    @property
    def accept_length(self) -> float | None:
        """Committed tokens per verify step, pooled."""
        return self.committed / self.steps if self.steps else None


@dataclass(frozen=True)
class Speedup:
    """A speed-up over plain decoding on the same turns, with its 95 % interval; None where the turns are too few."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        about = "no interval" if self.interval is None else f"95 %: {self.interval[0]:.2f} to {self.interval[1]:.2f}"
        return f"{self.value:.2f} times plain decoding, {about}"


@dataclass(frozen=True)
class TrialRanking:
    """Which trial is the fastest.

    Attributes:
        fastest: the trial, or None where no difference was measured.
        leading: the trial with the highest speed, whether that means anything or not.
        sentence: the verdict in words.
    """

    fastest: Trial | None
    leading: Trial
    sentence: str


def speedup(trial: Trial, plain: Trial) -> Speedup | None:
    """Tokens/s of a trial over those of plain decoding, over the turns that both have; None without one."""
    if trial is plain:
        return Speedup(1.0, (1.0, 1.0))
    keys = sorted(trial.turns.keys() & plain.turns.keys())
    whole = _log_ratio(trial, plain, keys)
    if whole is None:
        return None
    batches = {batch for _, batch in keys}
    groups = [[key] for key in keys]
    if len(batches) >= _FEWEST_BATCHES:
        groups = [[key for key in keys if key[1] == batch] for batch in sorted(batches)]
    return Speedup(math.exp(whole), _interval(trial, plain, keys, groups, whole))


def verdict(trials: Sequence[Trial], plain_label: str) -> TrialRanking | None:
    """The verdict on the trials of one batch size; None when none was measured.

    A trial is the fastest when the interval of its speed-up lies above those of all others, plain decoding's 1
    included. A verify step costs at least what a step of plain decoding costs, so a speed-up above the accept length
    says that the measurement was disturbed, and no trial is named.
    """
    measured = [trial for trial in trials if trial.tokens_per_s is not None]
    if not measured:
        return None
    plain = next((trial for trial in measured if trial.tree == plain_label), None)
    leading = max(measured, key=lambda trial: trial.tokens_per_s or 0.0)
    if plain is None or len(measured) == 1:
        return TrialRanking(None, leading, f"only {leading.tree} was measured, so there is nothing to compare it with")
    speeds = {trial.tree: found for trial in measured if (found := speedup(trial, plain)) is not None}
    ranked = sorted((trial for trial in measured if trial.tree in speeds), key=lambda t: -speeds[t.tree].value)
    leading = ranked[0]
    best = speeds[leading.tree]
    if leading is not plain and best.value > (leading.accept_length or 1.0):
        return TrialRanking(
            None,
            leading,
            f"no difference was measured: {leading.tree} came out {best.value:.2f} times as fast as plain decoding, "
            f"which its accept length of {leading.accept_length or 1.0:.2f} does not allow: the times were disturbed",
        )
    rivals = [trial for trial in ranked[1:] if not _above(best, speeds[trial.tree])]
    if rivals:
        return TrialRanking(
            None,
            leading,
            f"no difference was measured: {leading.tree} ({best}) is not apart from {rivals[0].tree} "
            f"({speeds[rivals[0].tree]})" + (f" and {len(rivals) - 1} more" if len(rivals) > 1 else ""),
        )
    return TrialRanking(leading, leading, f"{leading.tree} is the fastest ({best})")


def trial_result(trial: Trial, plain: Trial | None) -> TrialResult:
    """A trial as the record has it."""
    found = speedup(trial, plain) if plain is not None and trial.turns and plain.turns else None
    return TrialResult(
        tree=trial.tree,
        batch_size=trial.batch_size,
        tokens_per_s=trial.tokens_per_s,
        speedup=found.value if found else None,
        speedup_interval=found.interval if found else None,
        accept_length=trial.accept_length,
        tokens=sum(tokens for tokens, _ in trial.turns.values()),
        seconds=sum(seconds for _, seconds in trial.turns.values()),
        turns=len(trial.turns),
        note=trial.note,
        **({} if trial.predicted is None else {"predicted_speedup": trial.predicted}),
    )


def _above(one: Speedup, other: Speedup) -> bool:
    if one.interval is None or other.interval is None:
        return False
    return one.interval[0] > other.interval[1]


def _speed(turns: Iterable[tuple[int, float]]) -> float | None:
    kept = list(turns)
    seconds = sum(spent for _, spent in kept)
    tokens = sum(count for count, _ in kept)
    return tokens / seconds if seconds > 0 and tokens else None


def _log_ratio(trial: Trial, plain: Trial, keys: Iterable[TurnKey]) -> float | None:
    keys = list(keys)
    mine, theirs = _speed(trial.turns[key] for key in keys), _speed(plain.turns[key] for key in keys)
    return math.log(mine / theirs) if mine and theirs else None


def _interval(
    trial: Trial, plain: Trial, keys: Sequence[TurnKey], groups: Sequence[Sequence[TurnKey]], whole: float
) -> tuple[float, float] | None:
    if len(groups) < _FEWEST_TURNS:
        return None
    left_out = [_log_ratio(trial, plain, [key for key in keys if key not in set(group)]) for group in groups]
    values = [value for value in left_out if value is not None]
    if len(values) < len(groups):
        return None
    count = len(values)
    mean = sum(values) / count
    error = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in values))
    reach = _t_95(count - 1) * error
    return math.exp(whole - reach), math.exp(whole + reach)


def _t_95(freedom: int) -> float:
    """Student's t for a two-sided 95 %, from a table; never below the true one."""
    if freedom <= len(_T_95):
        return _T_95[freedom - 1]
    lower = [value for least, value in _T_95_MORE if freedom >= least]
    return lower[-1] if lower else _T_95[-1]
