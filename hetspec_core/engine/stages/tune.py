"""Stage tune: which tree shape and batch size are the fastest here, within a time budget.

All shapes and plain decoding answer the same prompts. The built-in decoding takes turns on every batch of prompts, as a
bench does; a server has one shape, so shapes follow each other in rounds, in reverse order every second time. What the
budget leaves no time for is named, not guessed, and a shape is named as the fastest only where the intervals of the
measurement say so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from hetspec_core.acceptance import AcceptStats
from hetspec_core.catalog import load_card
from hetspec_core.engine.context import LoadWatch, RunContext, machine_facts
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.measure import PLAIN, Track, speculative_tracks
from hetspec_core.engine.decoding.trials import ADVICE, Trial, trial_result, verdict
from hetspec_core.engine.stages.inputs import MeasuredPrompts, decoder_for, load_pair, opening, read_prompts
from hetspec_core.engine.stages.served import draft_folder, measurement_of, open_backend
from hetspec_core.errors import Cancelled, HetSpecError, SpecError
from hetspec_core.events.results import FastestResult, MachineFacts, TrialResult, TunedPrompts, TuneResult
from hetspec_core.spec import DecodingSpec

_SPENT = "the time budget was spent"
_MOST_BATCHES = 8  # that the prompts of a round at a server are cut into: each is a turn
_SHORT = 4  # tokens of an answer before the clock starts


def run(context: RunContext) -> None:
    """Try what the spec names until the budget is spent; the result names the frontier and the best flags.

    Raises:
        SpecError: there is no draft.
        DataError: no prompt is left that can be read and fits the context.
    """
    spec = context.spec
    folder = draft_folder(context)
    if not folder:
        raise SpecError("tuning needs a draft", hint="give one: --draft RUN_OR_DIR")
    if spec.backend == "sglang" and spec.sglang.url:
        raise SpecError(
            f"tuning starts a server for every tree, and sglang.url names {spec.sglang.url}, which has one tree",
            hint="leave sglang.url out, or measure that server: `hetspec-core bench --url`",
        )
    ways = [Track(PLAIN, spec.decoding.model_copy(update={"plain": True}))]
    ways += speculative_tracks(spec.decoding, spec.tune.trees, spec.tune.draft_vocabs)
    prompts = read_prompts(spec.bench.model_copy(update={"first_turn_only": True}))
    measure = _builtin if spec.backend == "builtin" else partial(_served, folder=folder)
    load = LoadWatch()
    trials = measure(context, ways, prompts)
    for number, trial in enumerate(trials, 1):
        context.metric(number, {"tokens_per_s": trial.tokens_per_s, "accept_length": trial.accept_length})
    found = report(trials, backend=spec.backend, decodings={way.label: way.decoding for way in ways})
    about = TunedPrompts(source=prompts.source, conversations=len(prompts), left_out=prompts.record())
    machine = MachineFacts(**machine_facts(context.device, load))
    context.result("tune", found.model_copy(update={"prompts": about, "machine": machine}).to_json())


def report(trials: Sequence[Trial], *, backend: str, decodings: dict[str, DecodingSpec]) -> TuneResult:
    """The trials, and for each batch size the verdict and the shapes that no other beats in speed and accept length."""
    best: dict[str, FastestResult] = {}
    plain = {trial.batch_size: trial for trial in trials if trial.tree == PLAIN}
    rows = [trial_result(trial, plain.get(trial.batch_size)) for trial in trials]
    by_trial = {(row.tree, row.batch_size): row for row in rows}
    for size in sorted({trial.batch_size for trial in trials}):
        here = [trial for trial in trials if trial.batch_size == size]
        found = verdict(here, PLAIN)
        if found is None:
            continue
        fastest = found.fastest
        row = by_trial[fastest.tree, size] if fastest is not None else TrialResult()
        best[str(size)] = FastestResult(
            tree=fastest.tree if fastest is not None else None,
            tokens_per_s=row.tokens_per_s,
            speedup=row.speedup,
            speedup_interval=row.speedup_interval,
            flags=_flags(decodings[fastest.tree], fastest, backend) if fastest is not None else None,
            leading=found.leading.tree,
            verdict=found.sentence,
            advice="" if fastest is not None else ADVICE,
            frontier=[trial.tree for trial in _frontier([each for each in here if each.turns])],
        )
    return TuneResult(backend=backend, trials=rows, best=best)


def _flags(decoding: DecodingSpec, fastest: Trial, backend: str) -> str:
    if fastest.tree == PLAIN:
        return "no speculation"
    card = load_card("backends", backend)
    if "tree_flags" not in card.capabilities:
        return fastest.tree
    return " ".join(card.load_capability("tree_flags")(decoding.tree))


def _frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that none beats in both, by rising accept length."""
    kept: list[Trial] = []
    fastest = 0.0
    for trial in sorted(trials, key=lambda trial: -(trial.accept_length or 1.0)):
        if (trial.tokens_per_s or 0.0) > fastest:
            fastest = trial.tokens_per_s or 0.0
            kept.append(trial)
    return kept[::-1]


# --- the built-in decoding -------------------------------------------------------------------------------------------


def _builtin(context: RunContext, ways: Sequence[Track], prompts: MeasuredPrompts) -> list[Trial]:
    base, draft = load_pair(context)
    template = ChatTemplate.for_tokenizer(base.tokenizer, context.spec.base.chat_template)

    def encode(messages: Sequence[Message]) -> list[int]:
        return template.encode(messages, add_generation_prompt=True).input_ids

    prompts.check(context, encode, room=base.max_length, vocab_size=base.ends.embedding_rows, about=base.name)
    ids = [encode(each) for each in _openings(context, prompts)]
    decoder = decoder_for(context, base)
    for way in ways:
        decoder.generate(ids[:1], way.decoding.model_copy(update={"max_new_tokens": _SHORT}), draft)
        context.check_cancelled()

    def answer(way: Track, trial: Trial, key: tuple[int, int], batch: list[list[int]]) -> None:
        done = decoder.generate(batch, way.decoding, draft)
        stats = AcceptStats.of(done)
        # Rows of a batch advance together. A program that a decoder has to make first is not in their time.
        trial.turns[key] = (sum(len(each.tokens) for each in done), max(each.total_s for each in done))
        trial.steps += stats.num_steps
        trial.committed += sum(step.committed for step in stats.steps)

    def expected(batch: list[list[int]]) -> dict[str, float]:
        """By label of a way: the speed-up that the cost model expects of it."""
        found: dict[str, float] = {}
        for vocabulary in {way.decoding.draft_vocab for way in ways}:
            alike = [way for way in ways if way.decoding.draft_vocab == vocabulary and not way.decoding.plain]
            named = [way for way in alike if not way.decoding.tree.auto]
            if named and draft is not None:
                by_shape = decoder.predict(draft, named[0].decoding, batch, [way.decoding.tree for way in named])
                found |= {way.label: by_shape[way.decoding.tree.label] for way in named}
        return found

    spec, trials = context.spec.tune, []
    limit = time.monotonic() + spec.budget_s
    for number, size in enumerate(spec.batch_sizes):
        now = time.monotonic()
        share = now + (limit - now) / (len(spec.batch_sizes) - number)
        batches = [ids[start : start + size] for start in range(0, len(ids), size)]
        predicted = expected(batches[0])
        trials.append([Trial(way.label, size, predicted=predicted.get(way.label)) for way in ways])
        likely = sorted(range(len(ways)), key=lambda place: (place > 0, -predicted.get(ways[place].label, 1.0)))
        total, part = len(batches) * spec.repeats, (number + 1, len(spec.batch_sizes))
        for turn, key, order in _turns(context, likely, len(batches), until=share):
            note = f"{len(ways)} ways of decoding"
            context.progress(f"tune batch {size}", turn, total, "turns", note, part=part)
            for place in order:
                context.check_cancelled()
                answer(ways[place], trials[-1][place], key, batches[key[1]])
        context.progress(f"tune batch {size}", total, total, "turns", part=part)
        for trial in trials[-1]:
            trial.note = "" if trial.turns else _SPENT
    return [here[place] for place in range(len(ways)) for here in trials]


def _turns(
    context: RunContext, ways: Sequence[int], batches: int, *, until: float
) -> Iterator[tuple[int, tuple[int, int], Iterator[int]]]:
    """The turns that there is time for: number, (repeat, batch), and the ways in the order of the turn.

    The first turn takes the ways as they are given: plain decoding, then those with the highest expected speed. Every
    batch comes once before any comes again, and the way that begins rotates. A turn is begun when the longest so far
    still fits, so that all ways have the same turns; the first is begun in any case, and ends with the time.
    """
    longest = 0.0
    for turn in range(batches * context.spec.tune.repeats):
        began = time.monotonic()
        if turn and began + longest > until:
            return
        start = turn % len(ways)
        order = [*ways[start:], *ways[:start]]
        yield turn, divmod(turn, batches), iter(order) if turn else _while_time(order, until)
        longest = max(longest, time.monotonic() - began)


def _while_time(order: Sequence[int], until: float) -> Iterator[int]:
    """The first of `order`, and each next one that still fits when it takes no longer than the longest so far."""
    longest = 0.0
    for number, place in enumerate(order):
        began = time.monotonic()
        if number and began + longest > until:
            return
        yield place
        longest = max(longest, time.monotonic() - began)


# --- servers ---------------------------------------------------------------------------------------------------------


def _plan(context: RunContext, ways: Sequence[Track], limit: float | None = None) -> Iterator[tuple[Track, int, str]]:
    """What to try next, with the reason if there is no time for it: the longest trial of its kind must still fit.

    The first trial of a way is a kind of its own: a server is started for it.
    """
    limit = time.monotonic() + context.spec.tune.budget_s if limit is None else limit
    longest = {True: 0.0, False: 0.0}
    for way in ways:
        first = True
        for size in context.spec.tune.batch_sizes:
            context.check_cancelled()
            began = time.monotonic()
            reason = "" if began + longest[first] <= limit else _SPENT
            yield way, size, reason
            if not reason:
                longest[first] = max(longest[first], time.monotonic() - began)
                first = False


def _served(context: RunContext, ways: Sequence[Track], prompts: MeasuredPrompts, *, folder: str) -> list[Trial]:
    spec = context.spec
    trials = {(way.label, size): Trial(way.label, size) for way in ways for size in spec.tune.batch_sizes}
    limit = time.monotonic() + spec.tune.budget_s
    with open_backend(context) as backend:
        measurement = measurement_of(context, backend)
        backend.use_draft(folder, "draft")
        measurement.check(prompts, ways)
        ids = [backend.encode(each) for each in _openings(context, prompts)]
        done, total, round_s = 0, len(trials), 0.0
        for number in range(spec.tune.repeats):
            began = time.monotonic()
            if number and began + round_s > limit:
                break  # only whole rounds: a shape that has one round more would be measured at another time
            alive = [way for way in ways if not any(trials[way.label, size].note for size in spec.tune.batch_sizes)]
            for way, size, reason in _plan(context, alive if number % 2 == 0 else alive[::-1], limit):
                trial = trials[way.label, size]
                done += 1
                context.progress("tune", min(done, total), total, "trials", note=f"{way.label}, batch {size}")
                if reason:
                    trial.note = trial.note if number else reason
                    continue
                try:
                    for batch, part in enumerate(_parts(ids, size)):
                        warmup = 0 if batch else spec.bench.warmup
                        found = measurement.throughput(part, way, size, warmup=warmup)
                        trial.turns[number, batch] = (found.completion_tokens or 0, found.total_s or 0.0)
                        trial.steps += found.verify_steps or 0
                        trial.committed += round((found.accept_length or 0.0) * (found.verify_steps or 0))
                except Cancelled:
                    raise
                except HetSpecError as error:  # a shape that this server cannot do is a finding
                    trial.note, trial.turns = error.message, {}
            round_s = time.monotonic() - began
    return list(trials.values())


def _parts(prompts: Sequence[list[int]], size: int) -> list[Sequence[list[int]]]:
    """The prompts in parts of like number, each of at least `size` where there are as many."""
    count = max(1, min(_MOST_BATCHES, len(prompts) // size))
    return [prompts[len(prompts) * part // count : len(prompts) * (part + 1) // count] for part in range(count)]


def _openings(context: RunContext, prompts: MeasuredPrompts) -> list[list[Message]]:
    """The first turns of the prompts, system message included."""
    return [
        [*opening(context, conversation), Message("user", conversation.user_turns[0])]
        for conversation in prompts.conversations
    ]
