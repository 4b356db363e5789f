"""What a stage that decodes begins with: the pair that a run names, and the prompts of a measurement.

Prompts are read and checked before anything is measured. A row that cannot be read, or a prompt that is longer than the
context, costs that prompt only. It is counted, named in a warning, and kept in the record: the figures are those of the
prompts that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hetspec_core.engine.backends.builtin import serving_decoder
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import tokenizer_hash
from hetspec_core.engine.data.conversation import Conversation, Message
from hetspec_core.engine.data.reading import read_conversations
from hetspec_core.engine.decoding.auto import ChoosingDecoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft, read_settings
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.run_folder import find_product
from hetspec_core.errors import DataError, ModelError
from hetspec_core.spec import BenchSpec, DatasetSpec


def load_pair(context: RunContext, dtype: torch.dtype | None = None) -> tuple[BaseLM, DraftLM | None]:
    """The base and, when the spec names a checkpoint, the draft; both on the run's device.

    Args:
        context: of the run.
        dtype: number type of both; the run's when absent.

    Raises:
        ModelError: one of them is not there, or they do not fit.
        CheckpointError: the draft's files are damaged.
    """
    spec = context.spec
    context.prepare("load models")
    base = BaseLM.load(
        spec.base, device=context.device, dtype=dtype or context.dtype, max_memory=spec.resources.max_memory
    )
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


def decoder_for(context: RunContext, base: BaseLM) -> ChoosingDecoder:
    """The decoder that `resources.decoder` asks for; the log says which one it is.

    Raises:
        SpecError: it cannot run here.
    """
    decoder = serving_decoder(base, context.spec.resources, compiles=context.spec.stage in ("bench", "tune"))
    decoder.on_notice = lambda notice: context.log(notice, "warning")
    decoder.on_compile = lambda program, seconds: context.prepare("compile", note=f"{program}, {seconds:.0f} s")
    decoder.on_choice = lambda choice: context.log(choice.sentence)
    decoder.on_measure = lambda shape, done: context.prepare("measure shapes", done, shape)
    because = f", because {decoder.why}" if decoder.why else ""
    context.log(f"the {decoder.name} decoder is used{because}")
    return decoder


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


UNREADABLE = "rows that cannot be read"
TOO_LONG = "prompts longer than the context"
OUTGROWN = "later turns that outgrew the context"
REFUSED = "prompts that the chat template refuses"

_NAMED = 5  # of each reason that the record names

Encode = Callable[[Sequence[Message]], list[int]]


@dataclass
class MeasuredPrompts:
    """The conversations of a measurement.

    Attributes:
        source: where they are from.
        conversations: those that are measured.
        left_out: reason -> what was left out for it, each with its place or id and the cause.
        unread: one sentence on the fields that were not read and change what is asked; empty when there is none.
    """

    source: str
    conversations: list[Conversation]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unread: str = ""

    def __len__(self) -> int:
        return len(self.conversations)

    def leave_out(self, reason: str, what: str) -> None:
        """Count one more."""
        self.left_out.setdefault(reason, []).append(what)

    def record(self) -> dict[str, Any]:
        """What was left out, as JSON data: reason -> `count`, and `named` with the first few."""
        return {reason: {"count": len(found), "named": found[:_NAMED]} for reason, found in self.left_out.items()}

    def check(self, context: RunContext, encode: Encode, *, room: int, vocab_size: int, about: str) -> None:
        """Leave out what cannot be measured, before anything is measured, and warn of all that is left out.

        Later turns are held against the context without the answers between them, which are not known yet.

        Args:
            context: the run.
            encode: messages -> token ids up to where the answer begins.
            room: tokens of the context.
            vocab_size: rows of the base's embedding.
            about: what has this context, for messages.

        Raises:
            DataError: no prompt is left, or a prompt has a token that the base does not have.
        """
        kept = []
        for conversation in self.conversations:
            fitting = self._fitting_turns(context, conversation, encode, room, vocab_size, about)
            if fitting:
                kept.append(_first_turns(conversation, fitting))
        if not kept:
            reasons = "; ".join(f"{reason}: {found[0]}" for reason, found in self.left_out.items())
            raise DataError(
                f"no prompt of {self.source} can be measured: {reasons}",
                hint="shorten the prompts, or choose a base with a longer context",
            )
        self.conversations = kept
        for reason in self.left_out:
            self.warn(context, reason)
        if self.unread:
            context.log(self.unread, level="warning")

    def warn(self, context: RunContext, reason: str) -> None:
        """Log what was left out for a reason."""
        found = self.left_out[reason]
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        told = "; ".join(found[:_NAMED])
        context.log(f"{len(found)} {reason} of {self.source} are left out: {told}{more}", level="warning")

    def _fitting_turns(
        self,
        context: RunContext,
        conversation: Conversation,
        encode: Encode,
        room: int,
        vocab_size: int,
        about: str,
    ) -> int:
        """How many of the conversation's turns can be asked."""
        messages = opening(context, conversation)
        turns = turns_of(conversation, context.spec.bench)
        for number, turn in enumerate(turns):
            messages.append(Message("user", turn))
            try:
                ids = encode(messages)
            except DataError as error:
                if number:
                    break  # the template may refuse the empty answers; with real ones it is asked again
                self.leave_out(REFUSED, f"{conversation.id}: {error.message}")
                return 0
            name = conversation.id if number == 0 else f"{conversation.id}, turn {number + 1}"
            check_ids(ids, vocab_size, f"prompt {name}", about)
            if len(ids) >= room:
                self.leave_out(TOO_LONG, f"{name}: {len(ids)} tokens, {about} has a context of {room}")
                return number
            messages.append(Message("assistant", ""))
        return len(turns)


def read_prompts(bench: BenchSpec) -> MeasuredPrompts:
    """The conversations to measure: FILE[:N] or shipped:NAME, filtered by category and cut to the limit.

    Rows that cannot be read are counted as left out.

    Raises:
        NotFoundError: the file is not there.
        DataError: nothing is left.
    """
    source, limit = bench.prompts, bench.limit
    head, colon, tail = source.rpartition(":")
    if colon and head and tail.isdigit():
        source, limit = head, min(int(tail), limit or int(tail))
    reading = read_conversations(DatasetSpec(source=source, sample_ids=bench.sample_ids))
    found = [c for c in reading.conversations if not bench.categories or c.category in bench.categories]
    if not found:
        known = sorted({conversation.category for conversation in reading.conversations})
        raise DataError(
            f"{source} has no conversation of category {', '.join(bench.categories)}; it has {', '.join(known)}"
        )
    prompts = MeasuredPrompts(source, found[:limit], unread=reading.warning(answers=False))
    for item in reading.malformed:
        prompts.leave_out(UNREADABLE, f"{item.place}: {item.reason}")
    return prompts


def opening(context: RunContext, conversation: Conversation) -> list[Message]:
    """The system message before the first turn, if there is one."""
    opened = conversation.with_system(context.spec.base.system_prompt)
    return [message for message in opened.messages if message.role == "system"]


def turns_of(conversation: Conversation, bench: BenchSpec) -> tuple[str, ...]:
    """The user's turns that are asked."""
    return conversation.user_turns[:1] if bench.first_turn_only else conversation.user_turns


def check_ids(ids: Sequence[int], vocab_size: int, name: str, about: str) -> None:
    """Check that a base has every token of a prompt.

    Raises:
        DataError: it lacks one; the message gives the token and the size.
    """
    highest = max(ids, default=0)
    if highest >= vocab_size:
        raise DataError(
            f"{name} has token id {highest}; {about} has {vocab_size} tokens",
            hint="the tokenizer has tokens that the base was not made with: use the tokenizer that belongs to the base",
        )


def _first_turns(conversation: Conversation, count: int) -> Conversation:
    """The conversation up to its first `count` user turns."""
    places = [place for place, message in enumerate(conversation.messages) if message.role == "user"]
    if count >= len(places):
        return conversation
    return replace(conversation, messages=conversation.messages[: places[count]])
