"""Checking a dataset against its base: `python -m hetspec_core.engine.stages.dataset_verify DIR`.

The checksum of every shard is compared, every state is checked for infinities and NaNs, and random samples are computed
again: the states must agree up to the rounding of the number types.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetspec_core.engine.context import resolve_device, resolve_dtype
from hetspec_core.engine.data.hidden_states import HiddenStateStore, Sample
from hetspec_core.engine.data.manifest import Manifest, check_checksum, resolve_store
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.reporting import answer
from hetspec_core.engine.stages.inputs import check_ids
from hetspec_core.errors import CorruptFileError, DataError, ModelError
from hetspec_core.spec import BaseSpec, ResourcesSpec

LEAST_COSINE = 0.99
"""Mean cosine of a sample below which it counts as wrong; bfloat16 on both sides stays above 0.999."""


def verify(
    folder: Path, *, samples: int = 8, seed: int = 0, least_cosine: float = LEAST_COSINE, device: str = "auto"
) -> dict[str, Any]:
    """Verify a store.

    Args:
        folder: the store, or the run folder that holds it.
        samples: samples that are computed again.
        seed: of their choice.
        least_cosine: least mean cosine over the tokens of a good sample.
        device: auto, cpu or cuda.

    Returns:
        `ok`; `damaged` (one sentence per bad shard); `not_finite` (id of each sample, of all, whose states are not
        finite -> where the first is); `samples` with cosine (mean and least over tokens) and largest
        absolute error of each state; the same over all samples.

    Raises:
        NotFoundError, CorruptFileError: there is no store, or its manifest or a shard's size is wrong.
        ModelError: the base is not on this machine, or differs from that of the store.
    """
    store = HiddenStateStore([resolve_store(folder)])
    damaged: list[str] = []
    for shard in store.manifest.shards:
        try:
            check_checksum(store.folders[0], shard)
        except CorruptFileError as error:
            damaged.append(error.message)
    base = _load_base(store.manifest, device)
    numbers = random.Random(seed).sample(range(len(store)), min(samples, len(store)))
    checked = [compare_sample(base, store[number], least_cosine) for number in numbers]
    wrong = [entry["id"] for entry in checked if not entry["ok"]]
    not_finite = {store.ids[number]: where for number in range(len(store)) if (where := store[number].not_finite())}
    return {
        "folder": str(store.folders[0]),
        "ok": not damaged and not wrong and not not_finite,
        "shards": len(store.manifest.shards),
        "damaged": damaged,
        "wrong": wrong,
        "not_finite": not_finite,
        "base": base.name,
        "dtype": f"{str(base.dtype).removeprefix('torch.')} (stored as {store.identity.dtype})",
        "cosine": min((entry["cosine"] for entry in checked), default=None),
        "least_token_cosine": min((entry["least_token_cosine"] for entry in checked), default=None),
        "max_error": max((entry["max_error"] for entry in checked), default=None),
        "samples": checked,
    }


def _load_base(manifest: Manifest, device_name: str) -> BaseLM:
    if "base" not in manifest.about:
        raise DataError("the manifest does not say which base the dataset was made with")
    resources = ResourcesSpec.model_validate({"device": device_name})
    device = resolve_device(resources)
    spec = BaseSpec.model_validate(manifest.about["base"])
    base = BaseLM.load(spec, device=device, dtype=resolve_dtype(resources, device))
    if base.fingerprint != manifest.identity.base_fingerprint:
        raise ModelError(
            f"base {spec.name} on this machine has fingerprint {base.fingerprint}; the dataset was made with "
            f"{manifest.identity.base_fingerprint}",
            hint="get the same weights, or generate the dataset again",
        )
    return base


@torch.inference_mode()
def compare_sample(base: BaseLM, sample: Sample, least_cosine: float) -> dict[str, Any]:
    """A stored sample against a fresh forward: `ok`, and the worst cosine and error over its states.

    Raises:
        DataError: it has a token that the base does not have.
    """
    check_ids(sample.input_ids.tolist(), base.ends.embedding_rows, f"sample {sample.id}", base.name)
    output = base.forward(sample.input_ids.to(base.device, torch.int64)[None], layers=tuple(sample.layers))
    pairs = {"final": (sample.hidden, output.hidden[0])}
    pairs |= {f"layer {layer}": (state, output.layers[layer][0]) for layer, state in sample.layers.items()}
    states = {name: _compare(stored, fresh.cpu()) for name, (stored, fresh) in pairs.items()}
    cosine = min(state["cosine"] for state in states.values())
    return {
        "id": sample.id,
        "tokens": len(sample.input_ids),
        "ok": cosine >= least_cosine,
        "cosine": cosine,
        "least_token_cosine": min(state["least_token_cosine"] for state in states.values()),
        "max_error": max(state["max_error"] for state in states.values()),
        "states": states,
    }


def _compare(stored: Tensor, fresh: Tensor) -> dict[str, float]:
    """[T, H] twice -> cosine over tokens (mean and least) and the largest absolute difference."""
    stored, fresh = stored.float(), fresh.float()
    cosine = torch.nn.functional.cosine_similarity(stored, fresh, dim=-1).nan_to_num(-1.0)
    error = (stored - fresh).abs().nan_to_num(float("inf")).max()
    return {
        "cosine": float(cosine.mean()),
        "least_token_cosine": float(cosine.min()),
        "max_error": min(float(error), torch.finfo(torch.float32).max),
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line of the verification; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.stages.dataset_verify", description="Verify a dataset.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=8, help="samples that go through the base again")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--least-cosine", type=float, default=LEAST_COSINE, help="below it a sample is wrong")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(arguments)
    return answer(
        lambda: verify(
            given.folder,
            samples=given.samples,
            seed=given.seed,
            least_cosine=given.least_cosine,
            device=given.device,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
