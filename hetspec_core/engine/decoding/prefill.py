"""Prompts into tensors, and how long their answers may be."""

from __future__ import annotations

import torch
from torch import Tensor

from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.errors import DataError
from hetspec_core.events.chat import StopReason


def pad_prompts(prompts: list[list[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Prompts padded on the right with 0: ids [B, T] and lengths [B]. Causal attention never sees the padding."""
    lengths = [len(prompt) for prompt in prompts]
    ids = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    return ids.to(device), torch.tensor(lengths).to(device)


def answer_limit(base: BaseLM, prompt: list[int], max_new_tokens: int) -> tuple[int, StopReason]:
    """Tokens that an answer to this prompt may have, and why not more.

    Raises:
        DataError: the prompt is empty, leaves no room in the base's context, or has a token that the base's embedding
            has no row for.
    """
    if not prompt:
        raise DataError("the prompt has no token", hint="give it some text")
    rows = base.ends.embedding_rows
    if not 0 <= min(prompt) <= max(prompt) < rows:
        wrong = next(token for token in prompt if not 0 <= token < rows)
        raise DataError(
            f"the prompt has token id {wrong}; the embedding of {base.name} has {rows} rows",
            hint="the tokenizer has tokens that the base was not made with: use the tokenizer that belongs to the base",
        )
    room = base.max_length - len(prompt)
    if room < 1:
        raise DataError(
            f"the prompt has {len(prompt)} tokens; the context of {base.name} is {base.max_length}, answer included",
            hint=f"shorten it by {1 - room} tokens or more",
        )
    return (max_new_tokens, "length") if max_new_tokens <= room else (room, "context")
