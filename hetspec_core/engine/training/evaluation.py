"""Measuring a draft on held-out samples: the loss and its parts, and the simulated accept length.

It knows drafts, batches and the algorithm's loss; it does not know the training loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from hetspec_core.engine.algorithms import Algorithm
from hetspec_core.engine.data.batches import Batch, MaskKind, make_batch
from hetspec_core.engine.data.hidden_states import SampleStore
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.training.processes import Processes
from hetspec_core.engine.training.simulation import accept_length, base_choices, follow_paths
from hetspec_core.spec import TrainingSpec

SCORE = "accept_length"
BOUND_WIDTH = 10  # children of every node of the tree that `accept_length_bound` is about


class HeldOut:
    """Held-out samples, ready to be measured on again and again.

    Args:
        store: where they are.
        samples: which they are; at least one.
        spec: size of a batch, length that samples are cut to, and simulated verify steps per sample.
        device: where drafts are.
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
        """Samples of like length together, rows times the longest within the limit."""
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
