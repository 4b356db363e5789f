"""The decoder for a base: which one can run here, and the one for a CPU, over packed weights."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Literal
from weakref import WeakSet

import torch
from torch import nn

from hetspec_core.engine.decoding.completion import SILENT, Completion, Listener
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.fusion import join_projections
from hetspec_core.engine.modeling.packing import can_pack, pack_head, pack_layers
from hetspec_core.errors import SpecError
from hetspec_core.spec import DecodingSpec


class PackedDecoder(ReferenceDecoder):
    """The reference's loop on a CPU, over weights that are laid out once for its products (`modeling.packing`).

    On a CPU nothing is launched and little is waited for: what a step costs is the weights that it reads.
    """

    name = "fast"

    def __init__(self, base: BaseLM) -> None:
        super().__init__(base)
        self._packed: WeakSet[DraftLM] = WeakSet()
        self._pack(base.decoder)
        pack_head(base.ends.head.weight)

    def generate(
        self,
        prompts: list[list[int]],
        decoding: DecodingSpec,
        draft: DraftLM | None = None,
        *,
        listener: Listener = SILENT,
        most_per_step: int | None = None,
    ) -> list[Completion]:
        """As in `Decoder`."""
        if draft is not None and not decoding.plain:
            if draft not in self._packed:
                self._pack(draft)
                self._packed.add(draft)
            pack_head(proposing_draft(self.base, draft, decoding).output_head.weight)
        return super().generate(prompts, decoding, draft, listener=listener, most_per_step=most_per_step)

    @staticmethod
    def _pack(model: nn.Module) -> None:
        with torch.inference_mode(False), torch.no_grad():
            join_projections(model)
            pack_layers(model)


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs for a GPU here: Triton and a C compiler."""
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(name and shutil.which(name) for name in compilers)


def open_decoder(
    base: BaseLM, choice: Literal["auto", "fast", "reference"] = "auto", *, compiled: bool = False
) -> Decoder:
    """The decoder for a base.

    Args:
        base: the model.
        choice: as in `ResourcesSpec.decoder`.
        compiled: as in `FastDecoder`; on a CPU it is not used.

    Raises:
        SpecError: the fast one is asked for and cannot run here.
    """
    obstacle = "the base is spread over several devices" if base.room is not None else ""
    if base.device.type == "cpu" and choice != "reference" and not obstacle and can_pack(base.ends.head.weight):
        return PackedDecoder(base)
    if choice == "fast" and obstacle:
        raise SpecError(
            f"resources.decoder is fast, but {obstacle}", hint="set resources.decoder = auto, or leave max_memory out"
        )
    if choice == "auto" and not obstacle and base.device.type != "cuda":
        obstacle = f"on a CPU it needs bfloat16, and a processor that multiplies in it; this is {base.dtype}"
    if base.device.type == "cuda":
        # cuDNN's attention builds a plan for every length of a prompt, which takes longer than reading it.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if choice == "reference" or obstacle:
        return ReferenceDecoder(base, obstacle or "it was asked for")
    return FastDecoder(base, compiled=compiled and base.device.type == "cuda")
