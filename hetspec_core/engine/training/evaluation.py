"""Measuring a draft on held-out samples: the loss and its parts, and the accept length, simulated without the base.

A verify step starts with a root x_{t+1} (the base has just chosen it) and the base's state f_t. The draft then works as
it does in decoding (g_k is its state after step k, whatever the algorithm hands on):

    k = 1   reads (x_{t+1}, f_t), attends to the true pairs 0..t            -> g_1, guesses token t+2
    k = 2   reads (its guess, g_1) at position t+1, attends to pairs 0..t, and itself    -> g_2, guesses token t+3
    k       reads (its guess, g_{k-1}) at t+k-1, attends to pairs 0..t, its own steps 2..k

The guess of step k is right when it is the base's own choice, argmax(W f_{t+k}). The stored state f_{t+k} belongs to
the stored text; so a step can be judged only while the stored tokens are what the base itself would have chosen, and
while the text is the assistant's. Up to there, a draft that was right has produced the stored tokens themselves, which
is why every step of every start can be computed at once from stored tokens.

A path that leaves the stored text, or reaches the end of the answer, is not counted as wrong: it is censored. The
accept length is the product-limit estimate (Kaplan and Meier 1958) over the steps that could be judged,

    accept_length = 1 + sum_k prod_{j <= k} accepted_j / judged_j,

where judged_j counts paths that were right up to step j - 1 and can be judged at j. Without censoring this is exactly
1 + accepted tokens / starts: the bonus token counts, as in decoding. Starts are spread evenly over the supervised
positions; decoding starts where the last step ended, which favours harder places a little.

With `width` k > 1 a step is right when the base's choice is among the draft's k likeliest. That is the accept length of
a tree that expands k children of every node at every level: an upper bound for a tree of limited size, and for width 1
the exact accept length of a greedy chain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from hetspec_core.engine.algorithms import Algorithm
from hetspec_core.engine.data.batches import Batch, MaskKind, make_batch
from hetspec_core.engine.data.hidden_states import SampleStore
from hetspec_core.engine.modeling.base_lm import BaseOutput
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.training.processes import Processes
from hetspec_core.spec import TrainingSpec

SCORE = "accept_length"
BOUND_WIDTH = 10  # children of every node of the tree that `accept_length_bound` is about


class HeldOut:
    """Held-out samples, for repeated measurements.

    Args:
        store: of the samples.
        samples: their numbers; at least one.
        spec: size of a batch, length that samples are cut to, and simulated verify steps per sample.
        device: of the drafts.
        depth: steps of a simulated path.
        layers: captured layers that drafts read.
    """

    def __init__(
        self,
        store: SampleStore,
        samples: Sequence[int],
        spec: TrainingSpec,
        *,
        device: torch.device,
        depth: int,
        layers: tuple[int, ...] = (),
    ) -> None:
        self._store = store
        self.samples = list(samples)
        self._device = device
        self._layers = layers
        self._spec, self._depth = spec, depth
        self._groups = self._grouped(spec.tokens_per_batch)
        self._choices: dict[int, Tensor] = {}  # the base never changes, so its choices are computed once

    def _grouped(self, tokens_per_batch: int) -> list[list[int]]:
        """Samples of similar length together, rows times the longest within the limit."""
        lengths = {index: min(self._store.lengths[index], self._spec.max_length) for index in self.samples}
        groups: list[list[int]] = []
        for index in sorted(self.samples, key=lambda index: (-lengths[index], index)):
            if not groups or (len(groups[-1]) + 1) * lengths[groups[-1][0]] > tokens_per_batch:
                groups.append([])
            groups[-1].append(index)
        return groups

    @torch.no_grad()
    def measure(self, draft: DraftLM, algorithm: Algorithm, processes: Processes) -> dict[str, float]:
        """Measure a draft, without noise, over all ranks.

        Args:
            draft: the draft itself, not a distributed wrapper of it.
            algorithm: gives the loss.
            processes: ranks that share the work.

        Returns:
            loss and its parts per supervised token; accept_length (greedy chain), accept_length_bound (upper bound: a
            tree with BOUND_WIDTH children everywhere); acceptance_rate_1... by depth, conditional on the depth before.
        """
        was_training = draft.training
        draft.eval()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=self._device))
        chain = torch.zeros(2, self._depth, dtype=torch.float64, device=self._device)
        bound = torch.zeros_like(chain)
        for number in range(processes.rank, len(self._groups), processes.world_size):
            batch = self._batch(number, algorithm.mask)
            output = algorithm.loss(draft, batch, None)
            sums["loss"] += output.total
            sums["supervised"] += output.num_supervised
            for name, value in output.sums.items():
                sums[name] += value
            if algorithm.mask != "predicted":
                batch = self._batch(number, "predicted")
            if number not in self._choices:
                self._choices[number] = base_choices(draft, batch)
            paths = follow_paths(
                draft,
                batch,
                self._choices[number],
                per_sample=self._spec.eval_starts,
                depth=self._depth,
                width=BOUND_WIDTH,
            )
            chain += paths.counts(1)
            bound += paths.counts(BOUND_WIDTH)
        draft.train(was_training)
        return self._report(algorithm.names(draft), sums, chain, bound, processes)

    def _batch(self, number: int, mask_kind: MaskKind) -> Batch:
        return make_batch(
            [self._store[index] for index in self._groups[number]],
            mask_kind=mask_kind,
            layers=self._layers,
            device=self._device,
            max_length=self._spec.max_length,
        )

    def _report(
        self, parts: tuple[str, ...], sums: dict[str, Tensor], chain: Tensor, bound: Tensor, processes: Processes
    ) -> dict[str, float]:
        names = ("loss", "supervised", *parts)  # the same on all ranks, whether they measured anything or not
        totals = processes.sum(torch.stack([sums[name] for name in names]))
        chain, bound = processes.sum(chain), processes.sum(bound)
        values = dict(zip(names, totals.tolist(), strict=True))
        supervised = values.pop("supervised")
        judged, accepted = chain.tolist()
        rates = {
            f"acceptance_rate_{depth}": right / seen
            for depth, (seen, right) in enumerate(zip(judged, accepted, strict=True), 1)
            if seen
        }
        return {
            **{name: value / max(supervised, 1.0) for name, value in values.items()},
            SCORE: accept_length(chain),
            "accept_length_bound": accept_length(bound),
            **rates,
        }


def rates_by_depth(values: Mapping[str, float]) -> list[float]:
    """The rates of acceptance of a measurement, from depth 1 on, as far as each depth was judged."""
    rates: list[float] = []
    while (rate := values.get(f"acceptance_rate_{len(rates) + 1}")) is not None:
        rates.append(rate)
    return rates


_CHUNK_ELEMENTS = 1 << 25  # of one [rows, V] block of logits


@dataclass(frozen=True)
class PathRanks:
    """The ranks of the base's choices in a draft along stored text, for N starts and D steps.

    Attributes:
        ranks: [N, D] rank of the base's choice among the draft's tokens, 0 = likeliest; Vd when the draft lacks it.
        judged: [N, D] bool, whether the step can be judged.
    """

    ranks: Tensor
    judged: Tensor

    def counts(self, width: int) -> Tensor:
        """[2, D] int64: paths judged at each step with all steps before right, and those right at this one too."""
        right = self.ranks < width
        right_before = torch.cat([torch.ones_like(right[:, :1]), right[:, :-1]], dim=1).cumprod(dim=1).bool()
        reached = self.judged & right_before
        return torch.stack([reached.sum(0), (reached & right).sum(0)])


def accept_length(counts: Tensor) -> float:
    """Expected committed tokens of a verify step, the bonus token included, from [2, D] summed counts."""
    judged, accepted = counts.double().cpu()
    rates = torch.where(judged > 0, accepted / judged.clamp(min=1), torch.zeros_like(judged))
    return 1.0 + float(rates.cumprod(0).sum())


def base_choices(draft: DraftLM, batch: Batch) -> Tensor:
    """[B, T] int64: the base's most likely token x_{t+2} given its own state f_{t+1}; -1 where not supervised."""
    choices = torch.full_like(batch.tokens, -1)
    states = batch.targets[batch.mask]
    rows = max(1, _CHUNK_ELEMENTS // draft.ends.vocab_size)
    best = [draft.base_logits(part).argmax(-1) for part in states.split(rows)]
    choices[batch.mask] = torch.cat(best) if best else choices.new_empty(0)
    return choices


def choose_starts(mask: Tensor, per_sample: int) -> tuple[Tensor, Tensor]:
    """Spread starts evenly over the supervised positions of each sample.

    Args:
        mask: [B, T] bool, supervised positions.
        per_sample: most starts of one sample.

    Returns:
        Positions [B, S] int64, and [B, S] bool: False where a sample has fewer than S.
    """
    on_cpu = mask.cpu()
    width = max(1, min(per_sample, int(on_cpu.sum(-1).max())))
    starts = torch.zeros(mask.shape[0], width, dtype=torch.int64)
    present = torch.zeros(mask.shape[0], width, dtype=torch.bool)
    for row in range(mask.shape[0]):
        places = on_cpu[row].nonzero().flatten()
        count = min(width, places.numel())
        if count:
            picked = torch.linspace(0, places.numel() - 1, count, dtype=torch.float64).round().long()
            starts[row, :count], present[row, :count] = places[picked], True
    return starts.to(mask.device), present.to(mask.device)


def follow_paths(
    draft: DraftLM, batch: Batch, choices: Tensor, *, per_sample: int, depth: int, width: int
) -> PathRanks:
    """Run the draft from many starts at once, `depth` steps each.

    Args:
        draft: bound to its base.
        batch: with mask kind "predicted": position s is supervised when x_{s+2} is the assistant's.
        choices: [B, T] of `base_choices`.
        per_sample: most starts of one sample.
        depth: steps D of a path.
        width: greatest width that `PathRanks.counts` will be asked for; worse ranks end a path.

    Returns:
        Ranks of the N = B * S starts.
    """
    starts, present = choose_starts(batch.mask, per_sample)
    rows, num_keys = batch.tokens.shape
    num_starts = starts.shape[1]
    device = batch.tokens.device
    features = draft.base_features(BaseOutput(batch.features, batch.layers))
    start = draft.first_state(features.to(next(draft.parameters()).dtype))
    cache = DynamicCache()
    state = _pick(draft(batch.tokens, start, cache=cache), starts)  # step 1 is one causal pass over the sample
    sees_prefix = torch.arange(num_keys, device=device) <= starts[..., None]  # [B, S, T]
    sees_itself = torch.eye(num_starts, dtype=torch.bool, device=device).expand(rows, -1, -1)  # [B, S, S]

    place, alive = starts, present  # place: whose prediction is looked at, s = t + k - 1
    ranks, judged = [], []
    for step in range(depth):
        alive = alive & batch.mask.gather(1, place)
        choice = choices.gather(1, place)
        rank = torch.full_like(place, draft.vocab_size)
        rank[alive] = _rank(draft, state[alive], choice[alive])
        ranks.append(rank)
        judged.append(alive)
        if step + 1 == depth:
            break
        following = (place + 1).clamp(max=num_keys - 1)
        token = batch.tokens.gather(1, following)  # x_{s+2}, where the text goes on
        alive = alive & (rank < width) & (token == choice) & (place + 1 < num_keys)
        place = following
        mask = torch.cat([sees_prefix] + [sees_itself] * (step + 1), dim=-1)[:, None]  # [B, 1, S, T + (step+1) S]
        state = draft(token, state, positions=place, mask=mask, cache=cache)
    return PathRanks(ranks=torch.stack(ranks, -1).flatten(0, 1), judged=torch.stack(judged, -1).flatten(0, 1))


def _pick(states: Tensor, places: Tensor) -> Tensor:
    """[B, T, S] at [B, N] -> [B, N, S]."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def _rank(draft: DraftLM, state: Tensor, choice: Tensor) -> Tensor:
    """[N, S] draft states and [N] base tokens -> [N] ranks; equal logits rank in the order of their ids."""
    found = [torch.empty(0, dtype=torch.int64, device=state.device)]
    rows = max(1, _CHUNK_ELEMENTS // draft.vocab_size)
    for part, wanted in zip(state.split(rows), choice.split(rows), strict=True):
        logits = draft.logits(part)
        index, known = wanted, torch.ones_like(wanted, dtype=torch.bool)
        if draft.vocab is not None:
            ids = draft.vocab.ids.to(wanted.device)
            index = torch.searchsorted(ids, wanted).clamp(max=ids.numel() - 1)
            known = ids[index] == wanted
        own = logits.gather(-1, index[:, None])
        earlier = torch.arange(logits.shape[-1], device=logits.device) < index[:, None]
        rank = ((logits > own) | ((logits == own) & earlier)).sum(-1)
        found.append(torch.where(known & ~own.isnan()[:, 0], rank, draft.vocab_size))  # no number ranks last
    return torch.cat(found)
