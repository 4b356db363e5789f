"""Stage generate: answer prompts, and say the text as it appears."""

from __future__ import annotations

from hetspec_core.acceptance import AcceptStats
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import from_prompts
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.stages.models import load_pair
from hetspec_core.engine.stages.text_stream import TextStream
from hetspec_core.errors import SpecError
from hetspec_core.events import Text


def run(context: RunContext) -> None:
    """Answer the prompts of the spec one after another; text goes out as events, the figures as the result."""
    spec = context.spec
    if not spec.prompts:
        raise SpecError("there is no prompt", hint='hetspec-core generate "your question"')
    base, draft = load_pair(context)
    template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
    answers = []
    for number, prompt in enumerate(spec.prompts):
        question = from_prompts("", [prompt]).with_system(spec.base.system_prompt)
        ids = template.encode(question.messages, add_generation_prompt=True).input_ids
        stream = TextStream(base.tokenizer)

        def say(_: int, token: int, stream: TextStream = stream, number: int = number) -> None:
            context.check_cancelled()
            if piece := stream.add(token):
                context.emit(Text(prompt=number, text=piece))

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
    context.result("generate", {"answers": answers})
