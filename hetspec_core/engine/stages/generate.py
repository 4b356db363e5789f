"""Stage generate: answer prompts, and say the text as it appears."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hetspec_core.acceptance import AcceptStats
from hetspec_core.engine.backends.backend import Backend, BackendTokenizer, TextStream, Watcher
from hetspec_core.engine.backends.builtin import BuiltinBackend
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import from_prompts
from hetspec_core.engine.stages.inputs import Encode, check_ids, decoder_for, load_pair
from hetspec_core.errors import DataError, SpecError
from hetspec_core.events import Text
from hetspec_core.events.chat import Step


def run(context: RunContext) -> None:
    """Answer the prompts of the spec one after another; text goes out as events, the figures as the result.

    Raises:
        SpecError: there is no prompt.
        DataError: a prompt does not fit the context, or has a token that the base does not have; nothing is answered.
    """
    spec = context.spec
    if not spec.prompts:
        raise SpecError("there is no prompt", hint='hetspec-core generate "your question"')
    with _open(context) as (backend, vocab_size):
        encoded, facts = _encode(context, backend.encode), backend.facts()
        _check(encoded, facts.context_tokens, vocab_size, facts.name)
        answers = []
        for number, (prompt, ids) in enumerate(zip(spec.prompts, encoded, strict=True)):
            context.progress("generate", number, len(encoded), "prompts")
            answers.append(_answer(context, backend, number, prompt, ids))
        context.progress("generate", len(encoded), len(encoded), "prompts")
    context.result("generate", {"answers": answers})


@contextmanager
def _open(context: RunContext) -> Iterator[tuple[Backend, int]]:
    """The backend of the spec with base and draft, and how many token ids its base can embed."""
    spec = context.spec
    if spec.backend == "builtin":
        base, draft = load_pair(context)
        template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
        yield BuiltinBackend.of(base, draft, template, decoder_for(context, base)), base.ends.embedding_rows
        return
    from hetspec_core.engine.stages.served import draft_folder, open_backend

    with open_backend(context) as backend:
        backend.use_draft(draft_folder(context), spec.draft.name if spec.draft is not None else "")
        yield backend, backend.facts().vocab_size


def _answer(context: RunContext, backend: Backend, number: int, prompt: str, ids: list[int]) -> dict[str, Any]:
    """Answer one prompt; returns what the result says of it."""
    stream, steps = TextStream(BackendTokenizer(backend)), []

    def say(tokens: list[int]) -> None:
        if piece := "".join(stream.add(token) for token in tokens):
            context.emit(Text(prompt=number, text=piece))

    def on_step(step: Step) -> None:
        steps.append(step.count)
        say(step.committed)

    watcher = Watcher(on_tokens=say, on_step=on_step, stop_asked=context.cancelled.is_set, trees=False, phases=False)
    written = backend.answer(ids, context.spec.decoding, watcher)
    context.check_cancelled()
    if rest := stream.finish():
        context.emit(Text(prompt=number, text=rest))
    stats = AcceptStats(steps if written.counts is None else written.counts)
    return {
        "prompt": prompt,
        "text": stream.text,
        "tokens": written.tokens,
        "prompt_tokens": len(ids),
        "stop_reason": written.stop_reason,
        "accept_length": stats.accept_length,
        "verify_steps": stats.num_steps,
        "tree": written.tree or None,
        "draft_vocab_size": written.draft_vocab_size or None,
        "first_token_s": written.first_token_s,
        "decode_tokens_per_s": (len(written.tokens) - 1) / written.decode_s if written.decode_s > 0 else None,
    }


def _encode(context: RunContext, encode: Encode) -> list[list[int]]:
    """The token ids of every prompt."""
    questions = [
        from_prompts("", [prompt]).with_system(context.spec.base.system_prompt) for prompt in context.spec.prompts
    ]
    return [encode(question.messages) for question in questions]


def _check(prompts: list[list[int]], room: int, vocab_size: int, about: str) -> None:
    """See that every prompt can be answered, before the first one is.

    Raises:
        DataError: one cannot; it is named by its number.
    """
    for number, ids in enumerate(prompts, 1):
        name = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        check_ids(ids, vocab_size, name, about)
        if len(ids) >= room:
            raise DataError(
                f"{name} has {len(ids)} tokens; the context of {about} is {room}, answer included",
                hint=f"shorten it by {len(ids) - room + 1} tokens or more",
            )
