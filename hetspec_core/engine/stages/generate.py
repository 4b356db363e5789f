"""Stage generate: answer prompts, and say the text as it appears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hetspec_core.acceptance import AcceptStats, StepCount
from hetspec_core.engine.backends.backend import StepSeen, Watcher
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import from_prompts
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.stages.measured_prompts import Encode, check_ids
from hetspec_core.engine.stages.models import load_pair
from hetspec_core.engine.stages.text_stream import BackendTokenizer, TextStream
from hetspec_core.errors import DataError, SpecError
from hetspec_core.events import Text


def run(context: RunContext) -> None:
    """Answer the prompts of the spec one after another; text goes out as events, the figures as the result.

    Raises:
        SpecError: there is no prompt.
        DataError: a prompt does not fit the context, or has a token that the base does not have; nothing is answered.
    """
    spec = context.spec
    if not spec.prompts:
        raise SpecError("there is no prompt", hint='hetspec-core generate "your question"')
    if spec.backend != "builtin":
        answers = _answer_served(context)
        context.result("generate", {"answers": answers})
        return
    base, draft = load_pair(context)
    template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
    answers = []
    encoded = _encode(context, lambda messages: template.encode(messages, add_generation_prompt=True).input_ids)
    _check(encoded, base.max_length, base.ends.embedding_rows, base.name)
    for number, (prompt, ids) in enumerate(zip(spec.prompts, encoded, strict=True)):
        stream = TextStream(base.tokenizer)

        def say(_: int, token: int, stream: TextStream = stream, number: int = number) -> None:
            context.check_cancelled()
            if piece := stream.add(token):
                context.emit(Text(prompt=number, text=piece))

        context.progress("generate", number, len(spec.prompts), "prompts")
        completion = generate(base, draft, [ids], spec.decoding, on_token=say)[0]
        if rest := stream.finish():
            context.emit(Text(prompt=number, text=rest))
        stats = AcceptStats.of([completion])
        answers.append(
            {
                "prompt": prompt,
                "text": stream.text,
                "tokens": completion.tokens,
                "prompt_tokens": completion.prompt_tokens,
                "stop_reason": completion.stop_reason,
                "accept_length": stats.accept_length,
                "verify_steps": stats.num_steps,
                "first_token_s": completion.first_token_s,
                "decode_tokens_per_s": (len(completion.tokens) - 1) / completion.decode_s
                if completion.decode_s > 0
                else None,
            }
        )
    context.progress("generate", len(answers), len(answers), "prompts")
    context.result("generate", {"answers": answers})


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


def _answer_served(context: RunContext) -> list[dict[str, Any]]:
    """The answers of another backend, in the form of the built-in one's."""
    from hetspec_core.engine.stages.served import draft_folder, open_backend

    spec, answers = context.spec, []
    with open_backend(context) as backend:
        folder = draft_folder(context)
        backend.use_draft(folder, spec.draft.name if spec.draft is not None else "")
        encoded, facts = _encode(context, backend.encode), backend.facts()
        _check(encoded, facts.context_tokens, facts.vocab_size, facts.name)
        for number, (prompt, ids) in enumerate(zip(spec.prompts, encoded, strict=True)):
            stream, steps = TextStream(BackendTokenizer(backend)), []

            def say(tokens: list[int], stream: TextStream = stream, number: int = number) -> None:
                if piece := "".join(stream.add(token) for token in tokens):
                    context.emit(Text(prompt=number, text=piece))

            def step(seen: StepSeen, say: Callable[[list[int]], None] = say, steps: list[StepCount] = steps) -> None:
                steps.append(seen.count)
                say(seen.tokens)

            watcher = Watcher(on_tokens=say, on_step=step, stop_asked=context.cancelled.is_set, trees=False)
            context.progress("generate", number, len(spec.prompts), "prompts")
            written = backend.answer(ids, spec.decoding, watcher)
            context.check_cancelled()
            if rest := stream.finish():
                context.emit(Text(prompt=number, text=rest))
            stats, decode_s = AcceptStats(steps if written.counts is None else written.counts), written.decode_s
            answers.append(
                {
                    "prompt": prompt,
                    "text": stream.text,
                    "tokens": written.tokens,
                    "prompt_tokens": len(ids),
                    "stop_reason": written.stop_reason,
                    "accept_length": stats.accept_length,
                    "verify_steps": stats.num_steps,
                    "first_token_s": written.first_token_s,
                    "decode_tokens_per_s": (len(written.tokens) - 1) / decode_s if decode_s > 0 else None,
                }
            )
    return answers
