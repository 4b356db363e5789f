"""A draft's place beside a base that is spread over several devices.

It knows the draft; what devices may hold and how parts move is known in `spread`.
"""

from __future__ import annotations

import torch

from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.spread import Room, block_bytes, move_parts, place_layers, weight_bytes


def settle(draft: DraftLM, room: Room) -> list[torch.device]:
    """Move a draft's parts into what the base has left, and have inputs follow; as much as can be on the first device.

    Args:
        draft: on the CPU, bound to the base.
        room: of the base.

    Returns:
        The device of each layer.

    Raises:
        ResourceError: the draft does not fit.
    """
    layers = draft.backbone.layers
    # Layers that share their norms are one block: a tensor has one device.
    blocks = [list(layers)] if draft.ties.layers else [[layer] for layer in layers]
    inside = {id(parameter) for parameter in layers.parameters()}
    ends = sum(weight_bytes(parameter) for parameter in draft.parameters() if id(parameter) not in inside)
    ends += sum(map(weight_bytes, draft.copied_rows))
    sizes = [block_bytes(block) for block in blocks]
    placed = place_layers(sizes, ends, room.left(), what="the draft beside the base", from_last=False)
    move_parts(draft, draft.backbone.decoder, blocks, placed, ends, room)
    return [room.device(index) for index, block in zip(placed, blocks, strict=True) for _ in block]
