"""The measurement of SGLang for the stages bench and tune: at servers, or by the offline engine.

The record is that of the built-in bench. A server decodes one way only, so plain decoding and the trees follow each
other instead of taking turns.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hetspec_core.acceptance import AcceptStats, StepCount
from hetspec_core.engine.context import RunContext
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.decoding.measure import (
    PLAIN,
    Question,
    Track,
    plain_report,
    speculative_report,
    speculative_tracks,
)
from hetspec_core.engine.stages.inputs import OUTGROWN, MeasuredPrompts, opening, turns_of
from hetspec_core.engine.stages.served import BenchFigures, Measurement, draft_folder
from hetspec_core.errors import HetSpecError
from hetspec_core.events.results import BatchResult, PhaseSeconds, ServedBy, SGLangCounts, TreeResult
from hetspec_core.sglang.backend import SGLangBackend
from hetspec_core.sglang.launch import tree_flags, tree_of_flags
from hetspec_core.sglang.offline import EngineJob, run_engine
from hetspec_core.sglang.servers import RunningServer
from hetspec_core.sglang.stream import histogram_of, sglang_accept_length, step_counts
from hetspec_core.spec import TreeSpec

Metas = list[dict[str, Any]]

_SHORT = 16  # tokens of an answer before the clock starts


def named_shapes(trees: tuple[TreeSpec, ...]) -> tuple[TreeSpec, ...]:
    """The shapes that a server can have: of `auto` its bounds, unless they are named beside it."""
    shapes = {tree.model_copy(update={"auto": False}): None for tree in trees}
    return tuple(shapes)


class SGLangMeasurement(Measurement):
    """SGLang under measurement."""

    def __init__(self, context: RunContext, backend: SGLangBackend) -> None:
        self._context, self._backend = context, backend

    def bench(self, prompts: MeasuredPrompts) -> BenchFigures:
        """As in `Measurement`. At a server that is attached to, its own tree is measured."""
        context, backend, spec = self._context, self._backend, self._context.spec
        folder = draft_folder(context)
        backend.use_draft(folder, Path(folder).name)
        attached = bool(spec.sglang.url)
        trees = named_shapes(spec.bench.trees) if folder else ()
        if attached and folder:
            at = backend.served(spec.decoding.model_copy(update={"plain": False}))
            trees = (tree_of_flags(*at.facts.tree),) if at.facts.tree else trees[:1]
        tracks = speculative_tracks(spec.decoding, trees, spec.bench.draft_vocabs)
        plain = Track(PLAIN, spec.decoding.model_copy(update={"plain": True}))
        has_plain = not folder or not attached or bool(spec.sglang.plain_url)
        ways = [plain, *tracks] if has_plain else tracks
        room = self.check(prompts, ways)
        answers: _Answers = _Engine(context, backend) if spec.sglang.engine else _Servers(context, backend, room)
        questions: list[Question] = []
        batches: dict[str, list[BatchResult]] = {}
        reports: list[TreeResult] = []
        for number, way in enumerate(ways):
            context.check_cancelled()
            answers.part = (number + 1, len(ways))
            if number == 0:
                questions, metas = answers.first(prompts, way)
            else:
                metas = answers.answer(way, questions)
            batches[way.label] = answers.batches(way, questions)
            if way is plain:
                continue
            # Now, while a server of this base is up: it is asked how close the likeliest tokens are where answers part.
            reference = plain if has_plain else way
            report = speculative_report(answers.gap, questions, reference, way, bootstrap=spec.bench.bootstrap)
            more: dict[str, Any] = {
                "phases": PhaseSeconds(),
                "draft_vocab_size": size if isinstance(size := way.decoding.draft_vocab, int) else None,
                "sglang": _sglang_figures(way, metas, batches[way.label]),
            }
            if not has_plain:  # there is nothing to compare with
                rows = {name: row.model_copy(update={"speedup": None}) for name, row in report.categories.items()}
                more |= {"speedup": None, "speedup_end_to_end": None, "lossless": None, "categories": rows}
            reports.append(report.model_copy(update=more))
        said = None
        if has_plain:
            said = plain_report(plain).model_copy(update={"sglang": SGLangCounts(batches=batches[PLAIN])})
        return BenchFigures(said, reports, answers.setup(), questions)

    def check(self, prompts: MeasuredPrompts, ways: Sequence[Track]) -> int:
        """As in `Measurement`. A server is started for the first way, unless the offline engine measures."""
        spec, backend = self._context.spec, self._backend
        served = None if spec.sglang.engine else backend.served(ways[0].decoding)
        facts = backend.facts()
        room = facts.context_tokens
        if not spec.sglang.url:  # a server that is attached to has left out already what it keeps for its drafts
            if served is not None:
                room = min(room, served.facts.context_tokens or room)
            flags = [tree_flags(way.decoding.tree) for way in ways if not way.decoding.plain]
            room -= max((max(steps * topk, tokens) for steps, topk, tokens in flags), default=0)
        prompts.check(self._context, backend.encode, room=room, vocab_size=facts.vocab_size, about=facts.name)
        return room

    def throughput(self, prompts: Sequence[list[int]], way: Track, size: int, *, warmup: int) -> BatchResult:
        """As in `Measurement`, at the server of this way."""
        return throughput(self._backend, self._backend.served(way.decoding), prompts, way, size, warmup=warmup)


class _Answers(ABC):
    """What answers the questions of a bench, one way of decoding after another.

    Attributes:
        part: number of the present way, and of all, for the progress.
    """

    def __init__(self, context: RunContext, backend: SGLangBackend) -> None:
        self._context, self._backend = context, backend
        self.part: tuple[int, int] = (1, 1)

    @abstractmethod
    def first(self, prompts: MeasuredPrompts, way: Track) -> tuple[list[Question], Metas]:
        """Make the questions, and answer them the first way, which gets the completions.

        Returns:
            The questions, and SGLang's own figures of each answer.
        """

    @abstractmethod
    def answer(self, way: Track, questions: Sequence[Question]) -> Metas:
        """Answer the questions another way, which gets the completions; returns SGLang's own figures of each answer."""

    @abstractmethod
    def batches(self, way: Track, questions: Sequence[Question]) -> list[BatchResult]:
        """Throughput of the way that was answered last, for every batch size that is measured apart."""

    @abstractmethod
    def setup(self) -> ServedBy:
        """Which server or engine answered."""

    @abstractmethod
    def gap(self, context_ids: list[int]) -> float | None:
        """Difference of the log probabilities of the two likeliest tokens after a context; None = not known."""


class _Servers(_Answers):
    """Answers by servers, one request at a time; prompt and answer have `room` tokens."""

    def __init__(self, context: RunContext, backend: SGLangBackend, room: int) -> None:
        super().__init__(context, backend)
        self._room = room
        self._served: RunningServer | None = None

    def first(self, prompts: MeasuredPrompts, way: Track) -> tuple[list[Question], Metas]:
        """As in `_Answers`. The later turns of a conversation continue from the answers of the first way."""
        bench, conversations = self._context.spec.bench, prompts.conversations
        served = self._open(way)
        questions: list[Question] = []
        metas: Metas = []
        for number, conversation in enumerate(conversations):
            self._progress(way, number, len(conversations), conversation.category)
            messages = opening(self._context, conversation)
            for turn, text in enumerate(turns_of(conversation, bench)):
                messages.append(Message("user", text))
                question = Question(number, turn, conversation.category, self._backend.encode(messages))
                if len(question.ids) >= self._room:
                    size = f"{len(question.ids)} tokens"
                    prompts.leave_out(OUTGROWN, f"{conversation.id}, turn {turn + 1}: {size}")
                    break
                questions.append(question)
                metas.append(self._ask(served, question, way))
                messages.append(Message("assistant", self._backend.text(way.completions[-1].tokens)))
        self._progress(way, len(conversations), len(conversations))
        if OUTGROWN in prompts.left_out:
            prompts.warn(self._context, OUTGROWN)
        return questions, metas

    def answer(self, way: Track, questions: Sequence[Question]) -> Metas:
        served = self._open(way)
        metas: Metas = []
        for number, question in enumerate(questions):
            self._progress(way, number, len(questions), question.category)
            metas.append(self._ask(served, question, way))
        self._progress(way, len(questions), len(questions))
        return metas

    def _progress(self, way: Track, done: int, total: int, category: str = "") -> None:
        self._context.progress(f"bench {way.label}", done, total, "prompts", category, part=self.part)

    def batches(self, way: Track, questions: Sequence[Question]) -> list[BatchResult]:
        """Throughput with several requests at once, for every batch size beyond one."""
        served, found = self._served, []
        assert served is not None
        for size in self._context.spec.sglang.batch_sizes:
            if size > 1:
                self._context.check_cancelled()
                prompts = [each.ids for each in questions]
                warmup = self._context.spec.bench.warmup
                found.append(throughput(self._backend, served, prompts, way, size, warmup=warmup))
        return found

    def setup(self) -> ServedBy:
        assert self._served is not None
        facts = self._served.facts
        return ServedBy(
            mode="server",
            version=facts.version,
            model=facts.model,
            url=self._served.client.url,
            dtype=_text(facts.args.get("dtype")),
            draft=facts.draft,
            batch_size=1,
            repeats=self._context.spec.bench.repeats,
        )

    def gap(self, context_ids: list[int]) -> float | None:
        """As in `_Answers`; the present server is asked."""
        assert self._served is not None
        with contextlib.suppress(HetSpecError):
            best = self._served.client.next_log_probs(context_ids)
            return best[0][0] - best[1][0] if len(best) > 1 else None
        return None

    def _open(self, way: Track) -> RunningServer:
        self._served = served = self._backend.served(way.decoding)
        short = way.decoding.model_copy(update={"max_new_tokens": min(_SHORT, way.decoding.max_new_tokens)})
        for _ in range(self._context.spec.bench.warmup):
            self._backend.complete(served, self._backend.encode([Message("user", "Hello.")]), short)
        return served

    def _ask(self, served: RunningServer, question: Question, way: Track) -> dict[str, Any]:
        """Ask one question; the way gets the completion of the median repeat. Returns the server's figures of it."""
        runs: list[tuple[Completion, dict[str, Any]]] = []
        for _ in range(self._context.spec.bench.repeats):
            self._context.check_cancelled()
            served.client.flush_cache()  # otherwise the prompt of a repeat is not computed
            runs.append(self._backend.complete(served, question.ids, way.decoding))
        ordered = sorted(runs, key=lambda run: run[0].total_s)
        completion, meta = ordered[(len(ordered) - 1) // 2]
        way.completions.append(completion)
        return meta


class _Engine(_Answers):
    """Answers by SGLang's offline engine: first turns, all batch sizes in one process per way."""

    def __init__(self, context: RunContext, backend: SGLangBackend) -> None:
        super().__init__(context, backend)
        self._found: dict[str, Any] = {}
        self._version = ""

    def first(self, prompts: MeasuredPrompts, way: Track) -> tuple[list[Question], Metas]:
        """As in `_Answers`; the questions are the first turns of the conversations."""
        questions = []
        for number, conversation in enumerate(prompts.conversations):
            messages = [*opening(self._context, conversation), Message("user", conversation.user_turns[0])]
            questions.append(Question(number, 0, conversation.category, self._backend.encode(messages)))
        return questions, self.answer(way, questions)

    def answer(self, way: Track, questions: Sequence[Question]) -> Metas:
        """As in `_Answers`; the engine runs once."""
        context, spec = self._context, self._context.spec
        plain = way.decoding.plain
        self._found = run_engine(
            EngineJob(
                spec=self._backend.pool.spec,
                base=self._backend.pool.base_folder,
                served=None if plain else self._backend.exported(way.decoding),
                tree=way.decoding.tree,
                resources=spec.resources,
                prompts=[question.ids for question in questions],
                decoding=way.decoding,
                warmup=spec.bench.warmup,
            ),
            context.paths.logs / f"sglang-engine-{way.label.replace('/', '-')}.log",
            timeout_s=spec.sglang.start_timeout_s + spec.sglang.request_timeout_s * len(questions),
            on_progress=lambda label, done: context.progress(
                f"engine {way.label}", done, 1.0, note=label, part=self.part
            ),
            stop_asked=context.cancelled.is_set,
        )
        self._version = str(self._found["version"])
        answers = self._found["batches"][0]["answers"]
        if self._found["ended"]:
            sizes = ", ".join(map(str, self._unmeasured()))
            context.log(f"{way.label}: {self._found['ended']}; not measured: batch size {sizes}", "warning")
        depth = way.decoding.tree.depth
        size = int(self._found["batches"][0]["batch_size"])
        way.batches = [min(size, len(questions) - start) for start in range(0, len(questions), size)]
        for question, answer in zip(questions, answers, strict=True):
            tokens, meta = answer["tokens"], answer["meta"]
            finish = meta.get("finish_reason")
            stopped = isinstance(finish, dict) and finish.get("type") == "stop"
            completion = Completion(
                prompt_tokens=len(question.ids),
                tokens=tokens,
                stop_reason="stop" if stopped else "length",
                steps=[] if plain else step_counts(meta, len(tokens), depth),
                total_s=answer["batch_s"],  # of its whole batch, see `Track.batches`
            )
            way.completions.append(completion)
        return [answer["meta"] for answer in answers]

    def batches(self, way: Track, questions: Sequence[Question]) -> list[BatchResult]:
        """Throughput of every batch size."""
        found = []
        for batch in self._found["batches"]:
            tokens = sum(len(answer["tokens"]) for answer in batch["answers"])
            counts = [
                count
                for answer in batch["answers"]
                for count in step_counts(answer["meta"], len(answer["tokens"]), way.decoding.tree.depth)
            ]
            found.append(_batch(batch["batch_size"], tokens, batch["total_s"], counts))
        lacking: dict[str, Any] = {"completion_tokens": 0, "total_s": None, "tokens_per_s": None, "accept_length": None}
        note = self._found["ended"]
        return [*found, *(BatchResult(batch_size=size, **lacking, note=note) for size in self._unmeasured())]

    def _unmeasured(self) -> tuple[int, ...]:
        return self._context.spec.sglang.batch_sizes[len(self._found["batches"]) :]

    def setup(self) -> ServedBy:
        return ServedBy(
            mode="engine",
            version=self._version,
            start_s=self._found.get("start_s"),
            dtype=_text(self._found.get("server", {}).get("dtype")),
            batch_size=self._context.spec.sglang.batch_sizes[0],
            repeats=1,
        )

    def gap(self, context_ids: list[int]) -> float | None:
        """As in `_Answers`; the engine has ended by then, and the gap is not known."""
        return None


def throughput(
    backend: SGLangBackend, served: RunningServer, prompts: Sequence[list[int]], way: Track, size: int, *, warmup: int
) -> BatchResult:
    """All prompts, `size` requests at once.

    Args:
        backend: who asks.
        served: the server.
        prompts: token ids of each.
        way: how they are answered.
        size: requests at once.
        warmup: short rounds of as many requests before the clock starts: kernels for a batch size that the server has
            not seen are compiled when it first comes.
    """
    short = way.decoding.model_copy(update={"max_new_tokens": min(_SHORT, way.decoding.max_new_tokens)})
    with ThreadPoolExecutor(size) as pool:
        for _ in range(warmup):
            list(pool.map(lambda prompt: backend.complete(served, prompt, short), prompts[:size]))
        served.client.flush_cache()
        began = time.perf_counter()
        done = list(pool.map(lambda prompt: backend.complete(served, prompt, way.decoding)[0], prompts))
        took = time.perf_counter() - began
    steps = [step for completion in done for step in completion.steps]
    return _batch(size, sum(len(completion.tokens) for completion in done), took, steps)


def _batch(size: int, tokens: int, total_s: float, steps: Sequence[StepCount]) -> BatchResult:
    return BatchResult(
        batch_size=size,
        completion_tokens=tokens,
        total_s=total_s,
        tokens_per_s=tokens / total_s if total_s > 0 else None,
        accept_length=AcceptStats(list(steps)).accept_length,
        verify_steps=len(steps),
    )


def _text(value: Any) -> str | None:
    """A word of a server, whose JSON may hold anything."""
    return None if value is None else str(value)


def _sglang_figures(track: Track, metas: Metas, batches: list[BatchResult]) -> SGLangCounts:
    """The same measurement as SGLang counts it."""
    steps = sum(int(meta.get("spec_verify_ct") or 0) for meta in metas)
    tokens = sum(int(meta.get("completion_tokens") or 0) for meta in metas)
    histogram: list[int] = []
    for meta in metas:
        for length, count in enumerate(histogram_of(meta)):
            histogram += [0] * (length + 1 - len(histogram))
            histogram[length] += count
    return SGLangCounts(
        flags=list(tree_flags(track.decoding.tree)),
        completion_tokens=tokens,
        spec_verify_ct=steps,
        accept_length=sglang_accept_length(tokens, steps),
        correct_drafts_histogram=histogram,
        batches=batches,
    )
