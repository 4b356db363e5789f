"""The stored samples that a run trains and evaluates on, their checks against its base, and reduced vocabularies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hetspec_core.engine.data.hidden_states import SampleStore, count_supervised
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError
from hetspec_core.spec import TrainingSpec


def held_out_order(sample_id: str) -> float:
    """A number in [0, 1) by the id alone: adding samples does not change which ones are held out."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:6]) / 2**48


def split_by_id(ids: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Split samples into training and held-out ones.

    Args:
        ids: sample ids.
        fraction: share to hold out; with a share above 0 and two samples or more, each side gets at least one.

    Returns:
        Indices of the samples to train on, and of those held out, each in ascending order.
    """
    numbers = [held_out_order(sample_id) for sample_id in ids]
    held = {index for index, number in enumerate(numbers) if number < fraction}
    ranked = sorted(range(len(ids)), key=lambda index: (numbers[index], index))
    if fraction > 0 and len(set(numbers)) > 1:
        if not held:
            held = {index for index in ranked if numbers[index] == numbers[ranked[0]]}
        elif len(held) == len(ids):
            held = {index for index in ranked if numbers[index] < numbers[ranked[-1]]}
    return [index for index in range(len(ids)) if index not in held], sorted(held)


def pick_evaluated(ids: Sequence[str], candidates: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the candidates, by the order of their ids' hashes: a stable, unbiased choice."""
    return sorted(candidates, key=lambda index: (held_out_order(ids[index]), index))[:limit]


_NAMED = 5  # samples that a warning names


@dataclass(frozen=True)
class TrainingData:
    """Samples of a run.

    Attributes:
        store: of the training samples.
        samples: their numbers.
        eval_store: of the held-out samples; the same store when a share of it is held out.
        held_out: numbers of the samples that evaluations use; empty when nothing is held out.
    """

    store: SampleStore
    samples: list[int]
    eval_store: SampleStore
    held_out: list[int]

    def identity(self, spec: TrainingSpec) -> str:
        """A hash that changes when a resumed run would get other batches: other samples, order, or cut."""
        parts = [self.store.ids[index] for index in self.samples]
        parts += [str(self.store.lengths[index]) for index in self.samples]
        parts += [str(spec.seed), str(spec.tokens_per_batch), str(spec.max_length), str(spec.gradient_accumulation)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def select_samples(
    store: SampleStore, eval_store: SampleStore | None, spec: TrainingSpec, warn: Callable[[str], None]
) -> TrainingData:
    """Choose the samples to train on and to evaluate on.

    Raises:
        DataError: a dataset is empty or supervises nothing, or all training samples are in the evaluation dataset.
    """
    usable = _narrowed(store, _supervised_samples(store, spec.max_length), spec)
    if eval_store is not None:
        found = _supervised_samples(eval_store, spec.max_length)
        taken = {eval_store.ids[index] for index in found}
        kept = [index for index in usable if store.ids[index] not in taken]
        if not kept:
            raise DataError("every training sample is in the evaluation dataset too", hint="name another eval_dataset")
        if len(kept) < len(usable):
            warn(f"{len(usable) - len(kept)} samples are in the evaluation dataset too, so they are not trained on")
        held_out = pick_evaluated(eval_store.ids, found, spec.eval_samples)
        return TrainingData(store, kept, eval_store, held_out)
    ids = [store.ids[index] for index in usable]
    trained, held = split_by_id(ids, spec.eval_fraction)
    if not held:
        warn("no sample is held out, so nothing is evaluated and the newest draft counts as the best")
    chosen = pick_evaluated(ids, held, spec.eval_samples)
    return TrainingData(store, [usable[index] for index in trained], store, [usable[index] for index in chosen])


def finite_samples(store: SampleStore, samples: list[int], warn: Callable[[str], None]) -> list[int]:
    """Samples without those whose states are not finite, which are counted and named in a warning.

    For held-out samples: one of them would make every figure of an evaluation NaN. All their states are read.
    """
    broken = {store.ids[index]: where for index in samples if (where := store[index].not_finite())}
    if not broken:
        return samples
    named = "; ".join(f"{name} ({where})" for name, where in list(broken.items())[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    warn(f"{len(broken)} held-out samples have states that are not finite and are not evaluated on: {named}{more}")
    return [index for index in samples if store.ids[index] not in broken]


def check_ids(store: SampleStore, samples: Sequence[int], base: BaseLM) -> None:
    """Check that the base has every token of these samples.

    Raises:
        DataError: the base lacks one; the message gives the sample, the token and the size.
    """
    size = min(base.ends.embedding_rows, base.vocab_size)
    for index in samples:
        ids = store[index].input_ids
        wrong = ids[(ids < 0) | (ids >= size)]
        if len(wrong):
            raise DataError(
                f"sample {store.ids[index]} of {describe(store)} has token id {int(wrong[0])}; {base.name} has {size} "
                "tokens",
                hint="the dataset was made with another tokenizer: generate it with the base's own",
            )


def _narrowed(store: SampleStore, usable: list[int], spec: TrainingSpec) -> list[int]:
    """The usable samples that the spec names, up to its limit.

    Raises:
        DataError: a named one is not among them.
    """
    if spec.sample_ids:
        missing = sorted(set(spec.sample_ids) - {store.ids[index] for index in usable})
        if missing:
            raise DataError(
                f"training.sample_ids names {', '.join(missing)}; {describe(store)} supervises no such sample",
                hint="`hetspec-core dataset inspect` shows ids of samples",
            )
        wanted = set(spec.sample_ids)
        usable = [index for index in usable if store.ids[index] in wanted]
    return usable[: spec.max_samples]


def _supervised_samples(store: SampleStore, max_length: int) -> list[int]:
    """Samples that supervise at least one token once they are cut to `max_length`."""
    where = describe(store)
    if len(store) == 0:
        raise DataError(f"the dataset in {where} is empty", hint="generate it first: `hetspec-core dataset generate`")
    found = [
        index
        for index in range(len(store))
        if store.supervised[index] and count_supervised(store[index].assistant_mask[:max_length])
    ]
    if not found:
        raise DataError(
            f"none of the {len(store)} samples in {where} has a supervised token in its first {max_length} tokens",
            hint="look at `hetspec-core dataset inspect`; raise training.max_length if the prompts alone fill it",
        )
    return found


def check_fits(store: SampleStore, base: BaseLM, *, allow_other_base: bool, warn: Callable[[str], None]) -> None:
    """Compare a dataset with the base of the draft.

    Raises:
        DataError: its hidden states are of another size, vocabulary or, unless allowed, of other weights.
    """
    identity = store.identity
    sizes = {
        "hidden size": (identity.hidden_size, base.hidden_size),
        "vocabulary": (identity.vocab_size or base.vocab_size, base.vocab_size),  # 0 = not known
    }
    wrong = [f"{name} {seen}, the base has {wanted}" for name, (seen, wanted) in sizes.items() if seen != wanted]
    if wrong:
        raise DataError(
            f"the dataset in {describe(store)} is of another base than {base.name}: {'; '.join(wrong)}",
            hint="generate a dataset with this base, or take the recipe of the dataset's base",
        )
    if identity.base_fingerprint == base.fingerprint:
        return
    if not identity.base_fingerprint:
        warn(f"the dataset in {describe(store)} does not say of which base it is; it is taken for {base.name}'s")
        return
    message = (
        f"the dataset in {describe(store)} was made by a base with fingerprint {identity.base_fingerprint[:16]}; "
        f"{base.name} has {base.fingerprint[:16]}"
    )
    if not allow_other_base:
        raise DataError(
            message,
            hint="generate a dataset with this base; or set training.allow_other_base=true when its weights differ "
            "only a little (another quantisation)",
        )
    warn(message)


def check_layers(store: SampleStore, layers: tuple[int, ...]) -> None:
    """Check that a dataset has the captured layers that a draft reads.

    Raises:
        DataError: some are missing; the hint says how to get them.
    """
    stored = store.identity.layers
    missing = sorted(set(layers) - set(stored))
    if missing:
        raise DataError(
            f"the draft reads layers {sorted(set(layers))} of the base; the dataset in {describe(store)} has "
            f"{list(stored) or 'none'} besides the final state",
            hint="generate a dataset with this recipe, or with dataset.layers="
            f"{sorted(set(layers) | set(stored))}, which then serves other algorithms too",
        )


def describe(store: SampleStore) -> str:
    """The folders of a store, for messages."""
    return ", ".join(str(folder) for folder in store.folders)


def count_assistant_tokens(store: SampleStore, samples: Sequence[int], *, vocab_size: int, max_length: int) -> Tensor:
    """[V] int64: how often the assistant wrote each token in these samples, cut to the length used in training."""
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for index in samples:
        sample = store[index]
        written = sample.input_ids[:max_length][sample.assistant_mask[:max_length]]
        counts += torch.bincount(written.long(), minlength=vocab_size)
    return counts


def share_outside(counts: Tensor, ids: Tensor) -> float:
    """Share of the counted tokens that a vocabulary lacks.

    Args:
        counts: [V] occurrences.
        ids: [Vd] base ids of the vocabulary.
    """
    total = int(counts.sum())
    return 1.0 - int(counts[ids.cpu()].sum()) / total if total else 0.0
