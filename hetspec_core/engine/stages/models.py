"""Loading the pair that a run names."""

from __future__ import annotations

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.run_folder import find_product
from hetspec_core.errors import ModelError


def load_pair(context: RunContext) -> tuple[BaseLM, DraftLM | None]:
    """The base and, when the spec names a checkpoint, the draft; both on the run's device.

    Raises:
        ModelError: one of them is not there, or they do not fit.
        CheckpointError: the draft's files are damaged.
    """
    spec = context.spec
    context.progress("load models", 0, 1, "")
    base = BaseLM.load(spec.base, device=context.device, dtype=context.dtype)
    draft = None
    if spec.draft is not None and not spec.decoding.plain:
        if spec.draft.checkpoint is None:
            raise ModelError(
                f"draft {spec.draft.name} is not trained: the spec names no checkpoint", hint="give --draft RUN_OR_DIR"
            )
        draft = load_draft(find_product(spec.draft.checkpoint, "draft"), base)
    context.progress("load models", 1, 1, "")
    return base, draft
