"""Comparisons of a draft with its base, and of its training forward with its decoding steps.

HetSpec's drafts read the base's own embedding and head. A copy in the draft's files that differs shows that the draft
was trained with other embeddings than it will read: those of another base or revision, or trained ones.

The forward of training and the steps of decoding must give the same logits for the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hetspec_core.engine.decoding.kv_cache import SLOT_STEP, SlotCache
from hetspec_core.engine.modeling.base_lm import BaseLM, FrozenEnds
from hetspec_core.engine.modeling.draft_files import DraftFiles, LoadReport
from hetspec_core.engine.modeling.draft_lm import DraftLM, Unroll

_ROUNDED = 0.01  # of a row's length; half types round to a few thousandths
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class CopyComparison:
    """One copy against the base's own.

    Attributes:
        name: the tensor in the files.
        shape: of the copy.
        own_shape: of the base's.
        largest: largest absolute difference of two numbers; NaN where the copy holds NaN, or the shapes differ.
        rows: rows (tokens) that differ by more than rounding.
    """

    name: str
    shape: tuple[int, ...]
    own_shape: tuple[int, ...]
    largest: float = float("nan")
    rows: int = 0

    @property
    def same_shape(self) -> bool:
        return self.shape == self.own_shape

    @property
    def equal(self) -> bool:
        """Whether the copy is the base's but for rounding."""
        return self.same_shape and self.rows == 0

    @property
    def sentence(self) -> str:
        if not self.same_shape:
            return f"{self.name} is {list(self.shape)}, the base's {list(self.own_shape)}"
        if self.rows == 0:
            return f"{self.name} is the base's (up to {self.largest:.1g})"
        return (
            f"{self.name} differs from the base's by up to {self.largest:.3g}, "
            f"in {self.rows:,} of {self.shape[0]:,} rows by more than rounding"
        )


def compare_copies(folder: DraftFiles, reading: LoadReport, ends: FrozenEnds) -> Iterator[CopyComparison]:
    """Compare every tensor of `folder` that `reading` dropped as a copy of the base's embedding or head with `ends`."""
    own = {"embed_tokens.weight": ends.embedding.weight, "lm_head.weight": ends.head.weight}
    for name in reading.dropped:
        weight = next((weight for suffix, weight in own.items() if name.endswith(suffix)), None)
        if isinstance(weight, Tensor) and name in folder.tensors:
            yield _compare_copy(name, folder.tensors[name], weight.detach())


def _compare_copy(name: str, copy: Tensor, own: Tensor) -> CopyComparison:
    shapes = tuple(copy.shape), tuple(own.shape)
    if shapes[0] != shapes[1]:
        return CopyComparison(name, *shapes)
    largest, rows = 0.0, 0
    for held, wanted in zip(copy.split(_ROWS_AT_ONCE), own.split(_ROWS_AT_ONCE), strict=True):
        wanted = wanted.float().cpu()
        error = (held.float() - wanted).abs()
        largest = max(largest, float(error.max())) if not bool(error.isnan().any()) else float("nan")
        alike = torch.linalg.vector_norm(error, dim=-1) <= _ROUNDED * torch.linalg.vector_norm(wanted, dim=-1)
        rows += int((~alike).sum())
    return CopyComparison(name, *shapes, largest, rows)


OWN_STEPS = 3
_RELATIVE = 1e-3  # of the logits' own size; float32 on both sides differs by about a thousandth of that


@dataclass(frozen=True)
class ModeComparison:
    """Where two ways of running a draft differ.

    Attributes:
        what: which of its steps.
        error: largest difference of logits.
        scale: largest logit.
        position: where the difference is.
    """

    what: str
    error: float
    scale: float
    position: int

    @property
    def wrong(self) -> bool:
        """Whether it is more than rounding."""
        return not self.error <= _RELATIVE * max(1.0, self.scale)


@torch.no_grad()
def compare_modes(base: BaseLM, draft: DraftLM, ids: Tensor) -> Iterator[ModeComparison]:
    """Compare the first step, and the draft's own steps after it where training runs them too.

    Args:
        base: gives the features.
        draft: on the base's device, in float32.
        ids: [T] tokens of a conversation, more than `OWN_STEPS` + 2.
    """
    ids = ids.to(base.device)[None]
    output = base.forward(ids, layers=draft.captured_layers)
    features = draft.base_features(output)[:, :-1]  # the pair (x_{t+1}, f_t); the last token has no successor
    tokens = ids[:, 1:]
    trained = draft(tokens, features, unroll=Unroll(1))[-1]
    cache = _Cache(draft, tokens.shape[1] + OWN_STEPS)
    start = draft.first_state(features)
    decoded = torch.cat([cache.step(tokens[:, t : t + 1], start[:, t : t + 1]) for t in range(tokens.shape[1])], 1)
    yield _compare_logits("first step", draft.logits(trained[0]), draft.logits(decoded[0]))

    unrolled = draft(tokens, features, unroll=Unroll(OWN_STEPS + 1))
    if len(unrolled) != OWN_STEPS + 1:  # this algorithm trains one step only
        return
    places = sorted({0, tokens.shape[1] // 2, tokens.shape[1] - OWN_STEPS - 1})
    for number in range(1, OWN_STEPS + 1):
        mine, theirs = [], []
        for place in places:
            cache = _Cache(draft, tokens.shape[1] + OWN_STEPS)
            state = start[:, :0]
            for t in range(place + 1):
                state = cache.step(tokens[:, t : t + 1], start[:, t : t + 1])
            for ahead in range(1, number + 1):
                state = cache.step(tokens[:, place + ahead : place + ahead + 1], state)
            mine.append(unrolled[number][0, place])
            theirs.append(state[0, 0])
        found = _compare_logits(
            f"own step {number}", draft.logits(torch.stack(mine)), draft.logits(torch.stack(theirs))
        )
        yield ModeComparison(found.what, found.error, found.scale, places[found.position])


class _Cache:
    """The decoder's own cache, one token at a time."""

    def __init__(self, draft: DraftLM, capacity: int) -> None:
        self._draft = draft
        device = draft.ends.head.weight.device
        self._cache = SlotCache(1, -(-capacity // SLOT_STEP) * SLOT_STEP, device)

    def step(self, token: Tensor, state: Tensor) -> Tensor:
        """[1, 1] token and [1, 1, S] state -> [1, 1, S], and the token is committed."""
        cache = self._cache
        slots = cache.lengths[:, None]
        visible = cache.visible_for(1)
        mask = torch.arange(visible, device=slots.device) <= slots[:, :, None]
        cache.stage(slots, visible=visible)
        found = self._draft(token, state, positions=slots, mask=mask[:, None], cache=cache)
        cache.advance(torch.ones_like(cache.lengths), [1])
        return found


def _compare_logits(what: str, trained: Tensor, decoded: Tensor) -> ModeComparison:
    """Compare [T, V] logits of training and decoding."""
    error = (trained.float() - decoded.float()).abs().nan_to_num(float("inf")).amax(-1)
    position = int(error.argmax())
    return ModeComparison(what, float(error[position]), float(trained.abs().max()), position)
