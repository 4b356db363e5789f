"""Stage bench: speculative and plain decoding on the same prompts, interleaved, in one process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hetspec_core.engine.context import LoadWatch, RunContext, machine_facts, peak_memory_bytes
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Conversation, Message
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.decoder import Decoder, ReferenceDecoder
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.measure import (
    PLAIN,
    Question,
    Track,
    base_gap,
    compared,
    measure_questions,
    plain_report,
    profile,
    speculative_report,
    speculative_tracks,
)
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.reporting import summary
from hetspec_core.engine.stages.inputs import (
    OUTGROWN,
    MeasuredPrompts,
    decoder_for,
    load_pair,
    opening,
    read_prompts,
    turns_of,
)
from hetspec_core.engine.stages.served import draft_folder, measurement_of, open_backend
from hetspec_core.errors import SpecError
from hetspec_core.events.results import BenchResult, BenchSetup, Lossless, SamplingUsed, ServedBy, TreeResult
from hetspec_core.spec import DecodingSpec, TreeSpec


def run(context: RunContext) -> None:
    """Measure and say the result, as an event and in `result.json`.

    Raises:
        DataError: no prompt is left that can be read and fits the context.
    """
    spec = context.spec
    prompts = read_prompts(spec.bench)
    if spec.backend != "builtin":
        _run_served(context, prompts)
        return
    base, draft = load_pair(context)
    if draft is None and not spec.decoding.plain:
        raise _needs_draft()
    template = ChatTemplate.for_tokenizer(base.tokenizer, spec.base.chat_template)
    prompts.check(
        context,
        lambda messages: template.encode(messages, add_generation_prompt=True).input_ids,
        room=base.max_length,
        vocab_size=base.ends.embedding_rows,
        about=base.name,
    )
    tracks = [Track(PLAIN, spec.decoding.model_copy(update={"plain": True}))]
    if draft is not None:
        tracks += speculative_tracks(spec.decoding, spec.bench.trees, spec.bench.draft_vocabs)

    context.prepare("warm up")
    load = LoadWatch()
    decoder = decoder_for(context, base)
    _warm_up(context, decoder, draft, template, prompts.conversations, tracks)
    questions = _measure(context, decoder, draft, template, prompts, tracks, load)
    plain, *speculative = tracks
    reports: list[TreeResult] = []
    for track in speculative:
        assert draft is not None  # else there is no such track
        context.check_cancelled()
        report = speculative_report(base_gap(base), questions, plain, track, bootstrap=spec.bench.bootstrap)
        phases, costs = profile(decoder, draft, questions[: spec.bench.profile_prompts], track.decoding)
        size = proposing_draft(base, draft, track.decoding).vocab_size
        reports.append(report.model_copy(update={"phases": phases, "costs": costs, "draft_vocab_size": size}))
    setup = _setup(context, decoder, draft, template, questions, prompts, load)
    if reports and base.dtype != torch.float32 and spec.bench.proof_prompts:
        proofs = _prove(context, questions[: spec.bench.proof_prompts], speculative)
        reports = [report.model_copy(update={"proof": proof}) for report, proof in zip(reports, proofs, strict=True)]
    _tell(context, BenchResult(setup=setup, plain=plain_report(plain), trees=reports))


def _prove(context: RunContext, questions: list[Question], tracks: list[Track]) -> Sequence[Lossless | None]:
    """Answers in float32 by the reference decoder, held to its plain ones; None for each where memory does not suffice.

    Base and draft are loaded anew: weights of the speed pass may be laid out for its decoder.
    """
    context.prepare("prove in float32")
    try:
        base, draft = load_pair(context, torch.float32)
        decoder = ReferenceDecoder(base)
        limit = min(context.spec.bench.proof_tokens, context.spec.decoding.max_new_tokens)

        def answers(decoding: DecodingSpec) -> list[Completion]:
            short, found = decoding.model_copy(update={"max_new_tokens": limit}), []
            for question in questions:
                context.check_cancelled()
                found += decoder.generate([question.ids], short, draft)
            return found

        plain = answers(context.spec.decoding.model_copy(update={"plain": True}))
        gap = base_gap(base)

        def proof(track: Track) -> Lossless | None:
            ways = _shapes_of(track)
            others = [answer for way in ways for answer in answers(way)]
            return compared(gap, questions * len(ways), plain * len(ways), others) if ways else None

        return [proof(track) for track in tracks]
    except (RuntimeError, MemoryError) as error:  # a CPU without memory raises either; the speeds are measured already
        context.log(f"losslessness is not proved in float32: {summary(error)}", "warning")
        return [None] * len(tracks)


def _shapes_of(track: Track) -> list[DecodingSpec]:
    """The way of a track; of `auto` one for every shape that it took, which are none where it decoded plainly."""
    if not track.decoding.tree.auto:
        return [track.decoding]
    taken = sorted({answer.tree for answer in track.completions} - {PLAIN, ""})
    return [track.decoding.model_copy(update={"tree": TreeSpec.parse(label)}) for label in taken]


def _needs_draft() -> SpecError:
    return SpecError("a bench needs a draft", hint="give one: --draft RUN_OR_DIR; or --plain measures the base alone")


def _tell(context: RunContext, result: BenchResult) -> None:
    context.result("bench", result.to_json())
    if result.trees:
        first = result.trees[0]
        context.metric(0, {"accept_length": first.accept_length, "speedup": first.speedup})


def _run_served(context: RunContext, prompts: MeasuredPrompts) -> None:
    """The same by another backend. The setup leaves out what cannot be seen from outside (parameters, peak memory)."""
    spec = context.spec
    if not draft_folder(context) and not spec.decoding.plain:
        raise _needs_draft()
    load = LoadWatch()
    with open_backend(context) as backend:
        found = measurement_of(context, backend).bench(prompts)
    served = found.served
    setup = BenchSetup(
        **machine_facts(context.device, load),
        **_asked(context, found.questions, prompts),
        dtype=served.dtype or spec.resources.dtype,
        draft=_served_draft(context, served) if spec.draft and not spec.decoding.plain else "",
        draft_parameters=None,
        draft_vocab_size=None,
        batch_size=served.batch_size,
        repeats=served.repeats,
        backend=spec.backend,
        sglang=served,
    )
    _tell(context, BenchResult(setup=setup, plain=found.plain, trees=found.trees))


def _served_draft(context: RunContext, served: ServedBy) -> str:
    """What was measured: the draft that was named, else the one that the running server says it has."""
    draft = context.spec.draft
    assert draft is not None
    return draft.checkpoint or served.draft or draft.name


def _warm_up(
    context: RunContext,
    decoder: Decoder,
    draft: DraftLM | None,
    template: ChatTemplate,
    conversations: list[Conversation],
    tracks: list[Track],
) -> None:
    """Decode a few tokens of the first prompts by every track, off the record."""
    for conversation in conversations[: context.spec.bench.warmup]:
        messages = [*opening(context, conversation), Message("user", conversation.user_turns[0])]
        ids = template.encode(messages, add_generation_prompt=True).input_ids
        for track in tracks:
            short = track.decoding.model_copy(update={"max_new_tokens": min(16, track.decoding.max_new_tokens)})
            decoder.generate([ids], short, draft)
            context.check_cancelled()


def _measure(
    context: RunContext,
    decoder: Decoder,
    draft: DraftLM | None,
    template: ChatTemplate,
    prompts: MeasuredPrompts,
    tracks: list[Track],
    load: LoadWatch,
) -> list[Question]:
    """Answer every turn by every track. Later turns go on from plain decoding's answer, so all tracks see the same."""
    base, bench, conversations = decoder.base, context.spec.bench, prompts.conversations
    total = sum(len(turns_of(conversation, bench)) for conversation in conversations)
    questions: list[Question] = []
    for start in range(0, len(conversations), bench.batch_size):
        talks = [
            _Talk(start + row, c, turns_of(c, bench), opening(context, c))
            for row, c in enumerate(conversations[start : start + bench.batch_size])
        ]
        for turn in range(max(len(talk.turns) for talk in talks)):
            context.check_cancelled()
            going, asked = _ask(talks, turn, template, base.max_length, prompts)
            if not going:
                break
            context.progress("bench", len(questions), total, "prompts", note=going[0].conversation.category)
            measure_questions(decoder, draft, asked, tracks, bench.repeats)
            load.look()
            questions += asked
            for talk, answer in zip(going, tracks[0].completions[-len(going) :], strict=True):
                text = base.tokenizer.decode(answer.tokens, skip_special_tokens=True)
                talk.messages.append(Message("assistant", text))
    context.progress("bench", total, total, "prompts")
    if OUTGROWN in prompts.left_out:
        prompts.warn(context, OUTGROWN)
    return questions


def _ask(
    talks: list[_Talk], turn: int, template: ChatTemplate, room: int, prompts: MeasuredPrompts
) -> tuple[list[_Talk], list[Question]]:
    """The conversations that go on with this turn, and what they ask; one that outgrew the context ends before it."""
    going: list[_Talk] = []
    asked: list[Question] = []
    for talk in talks:
        if turn >= len(talk.turns):
            continue
        question = talk.ask(turn, template)
        if len(question.ids) >= room:
            prompts.leave_out(OUTGROWN, f"{talk.conversation.id}, turn {turn + 1}: {len(question.ids)} tokens")
            talk.turns = talk.turns[:turn]
            continue
        going.append(talk)
        asked.append(question)
    return going, asked


@dataclass
class _Talk:
    """A conversation as far as it has got."""

    number: int
    conversation: Conversation
    turns: tuple[str, ...]
    messages: list[Message]

    def ask(self, turn: int, template: ChatTemplate) -> Question:
        """The next turn as a question, with all that was said before it."""
        self.messages.append(Message("user", self.turns[turn]))
        ids = template.encode(self.messages, add_generation_prompt=True).input_ids
        return Question(self.number, turn, self.conversation.category, ids)


def _setup(
    context: RunContext,
    decoder: Decoder,
    draft: DraftLM | None,
    template: ChatTemplate,
    questions: list[Question],
    prompts: MeasuredPrompts,
    load: LoadWatch,
) -> BenchSetup:
    """Under which conditions the figures hold."""
    spec = context.spec
    return BenchSetup(
        **machine_facts(context.device, load),
        **_asked(context, questions, prompts),
        dtype=str(context.dtype).removeprefix("torch."),
        decoder=decoder.used,
        base_fingerprint=decoder.base.fingerprint,
        draft=(spec.draft.checkpoint or spec.draft.name) if spec.draft and draft is not None else "",
        draft_parameters=draft.num_parameters if draft is not None else 0,
        draft_active_parameters=draft.num_active_parameters if draft is not None else 0,
        draft_vocab_size=draft.vocab_size if draft is not None else 0,
        template_hash=template.hash,
        batch_size=spec.bench.batch_size,
        repeats=spec.bench.repeats,
        peak_memory_bytes=peak_memory_bytes(context.device),
    )


def _asked(context: RunContext, questions: list[Question], prompts: MeasuredPrompts) -> dict[str, Any]:
    """The fields of the setup that describe the request; they are the same for every backend."""
    spec = context.spec
    prompt_ids = json.dumps([question.ids for question in questions], separators=(",", ":"))
    return {
        "base": spec.base.name,
        "prompts": spec.bench.prompts,
        "prompt_ids_hash": hashlib.sha256(prompt_ids.encode()).hexdigest()[:16],
        "conversations": len(prompts),
        "left_out": prompts.record(),
        "questions": len(questions),
        "prompt_tokens": sum(len(question.ids) for question in questions),
        "max_new_tokens": spec.decoding.max_new_tokens,
        "sampling": SamplingUsed(**spec.decoding.sampling.model_dump()),
    }
