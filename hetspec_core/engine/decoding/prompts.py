"""The prompts of a batch in parts: the tokens that one forward reads, and what they see of the parts before.

A forward of a long prompt holds the states of all its tokens at once: those of every layer, where a draft reads some.
So a long prompt is read in parts. The first part of fresh rows is a plain causal forward, as for a short prompt. Every
other part stands behind tokens whose keys and values are in the cache already, and sees them through a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hetspec_core.engine.decoding.kv_cache import SLOT_STEP
from hetspec_core.engine.modeling.base_lm import BaseLM

_STATE_BYTES = 1 << 29  # of the states of all layers; at 7B in bfloat16 2,000 tokens have so many
FEWEST_PREFILLED = 256  # tokens of a row: with fewer, reading the weights would take longer than using them


@dataclass(frozen=True)
class PromptPart:
    """Tokens that one forward reads: C of each row.

    A row whose prompt ends before the others reads its last token again, which writes what was there. In the first part
    of fresh rows padding stands behind its end, which nothing sees.

    Attributes:
        ids: [B, C] tokens.
        following: [B, C] the token behind each; behind the last one of a prompt, any.
        slots: [B, C] slot of each, which is its position.
        positions: [B, C] the same, or None: from 0 on.
        mask: [B, 1, C, visible] bool, True = visible; None = causal among the tokens of the part.
        visible: slots that the forward reads; 0 = its own tokens only.
        ends: [B] where the last token of a row is; counts in the last part.
        behind: [B, C] bool, whether nothing of the prompt follows.
        last: whether no part follows. Then the last token of every row is in it.
    """

    ids: Tensor
    following: Tensor
    slots: Tensor
    positions: Tensor | None
    mask: Tensor | None
    visible: int
    ends: Tensor
    behind: Tensor
    last: bool


def most_prefilled(base: BaseLM) -> int:
    """Tokens of a forward whose states of all layers, which the forward of a captured layer returns, stay small."""
    token_bytes = (base.num_layers + 1) * base.hidden_size * base.dtype.itemsize
    return max(FEWEST_PREFILLED, _STATE_BYTES // token_bytes)


def as_long(width: int) -> int:
    """No padding: a part is as wide as its longest row."""
    return width


def prompt_parts(
    base: BaseLM,
    prompts: list[list[int]],
    kept: list[int] | None,
    most: int,
    padded: Callable[[int], int] = as_long,
) -> Iterator[PromptPart]:
    """The parts in which a base and a draft read the prompts of a batch, in order.

    Args:
        base: the model.
        prompts: token ids of each row.
        kept: tokens at the start of each prompt whose keys and values are in the cache; None = no tokens.
        most: tokens of all rows that a part has at most; a part has `FEWEST_PREFILLED` of each row in any case.
        padded: the width of a part that is the only one of fresh rows, at least what it is given: few widths, so that
            programs for them are used again.

    Raises:
        ValueError: a prompt is empty, or all of it is kept.
    """
    starts = [0] * len(prompts) if kept is None else kept
    for prompt, start in zip(prompts, starts, strict=True):
        if not 0 <= start < len(prompt):
            raise ValueError(f"{start} of the {len(prompt)} tokens of a prompt are kept, and one has to be read")
    device = base.device
    counts = [len(prompt) for prompt in prompts]
    width = max(count - start for count, start in zip(counts, starts, strict=True))  # of the longest rest
    if len(prompts) * width <= most and not any(starts):
        width = padded(width)
    length = max(*counts, width) + 1
    ids = torch.tensor([prompt + [0] * (length - len(prompt)) for prompt in prompts]).to(device)
    ends, first = torch.tensor(counts).to(device) - 1, torch.tensor(starts).to(device)
    step = width if len(prompts) * width <= most else max(FEWEST_PREFILLED, most // len(prompts))
    for offset in range(0, width, step):
        stop = min(offset + step, width)
        slots = first[:, None] + torch.arange(offset, stop, device=device)
        visible, positions, mask = 0, None, None
        if offset or any(starts):
            slots = positions = slots.minimum(ends[:, None])
            behind = max(min(start + stop, count) for start, count in zip(starts, counts, strict=True))
            visible = -(-behind // SLOT_STEP) * SLOT_STEP
            mask = (torch.arange(visible, device=device) <= slots[..., None])[:, None]
        yield PromptPart(
            ids=ids.gather(1, slots),
            following=ids.gather(1, slots + 1),
            slots=slots,
            positions=positions,
            mask=mask,
            visible=visible,
            ends=(ends - slots[:, 0]).clamp(0, stop - offset - 1),
            behind=slots >= ends[:, None],
            last=stop == width,
        )
