"""Tiny drafts on disk: made, saved, edited, and what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.spec import AlgorithmSpec
from tests.fakes.tiny_models import draft_spec, ragged_prompts

VOCAB = (0, 3, 5, 6, 11, 40)


def made(
    base: BaseLM, algorithm: str, *, vocab: tuple[int, ...] = (), options: dict[str, Any] | None = None
) -> DraftLM:
    ids = torch.tensor(vocab) if vocab else None
    return build_draft(draft_spec(base), AlgorithmSpec(name=algorithm, options=options or {}), base, seed=5, vocab=ids)


def saved(draft: DraftLM, folder: Path, algorithm: str, options: dict[str, Any] | None = None) -> Path:
    save_draft(draft, folder, algorithm=AlgorithmSpec(name=algorithm, options=options or {}), facts={"base": "tiny"})
    return folder


@torch.no_grad()
def output(draft: DraftLM) -> torch.Tensor:
    tokens = torch.tensor(ragged_prompts((9,)))
    width = draft.base_hidden_size * max(1, len(draft.captured_layers))
    features = torch.randn(1, 9, width, generator=torch.Generator().manual_seed(0))
    return draft.logits(draft(tokens, draft.first_state(features)))


def edit(folder: Path, *, config: Any = None, tensors: Any = None) -> None:
    if config:
        file = folder / "config.json"
        record = json.loads(file.read_text())
        config(record)
        file.write_text(json.dumps(record))
    if tensors:
        stored = load_file(folder / "model.safetensors")
        tensors(stored)
        save_file(stored, folder / "model.safetensors")


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
