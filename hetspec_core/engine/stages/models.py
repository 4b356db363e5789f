"""Loading the pair that a run names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import tokenizer_hash
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft, read_settings
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
    context.prepare("load models")
    base = BaseLM.load(spec.base, device=context.device, dtype=context.dtype, max_memory=spec.resources.max_memory)
    draft = None
    if spec.draft is not None and not spec.decoding.plain:
        if spec.draft.checkpoint is None:
            raise ModelError(
                f"draft {spec.draft.name} is not trained: the spec names no checkpoint", hint="give --draft RUN_OR_DIR"
            )
        folder = find_product(spec.draft.checkpoint, "draft")
        draft = load_draft(folder, base)
        check_tokenizer(folder, base, draft, lambda message: context.log(message, "warning"))
    context.prepare("load models", 1)
    return base, draft


def check_tokenizer(folder: Path, base: BaseLM, draft: DraftLM, warn: Callable[[str], None]) -> None:
    """Compare the tokenizer that a draft was trained with to the base's.

    Raises:
        ModelError: they differ, and the draft has a reduced vocabulary: its ids would stand for other words.
    """
    recorded = read_settings(folder).get("tokenizer_hash")
    if recorded is None or (seen := tokenizer_hash(base.tokenizer)) == recorded:
        return
    message = f"the draft in {folder} was trained with tokenizer {recorded}; {base.name} has {seen}"
    if draft.vocab is not None:
        raise ModelError(
            f"{message}, so the {draft.vocab.size} token ids of its vocabulary are others here",
            hint="use the base and tokenizer that it was trained with",
        )
    warn(f"{message}; expect fewer accepted tokens")
