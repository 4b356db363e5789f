"""HetSpec's own decoding as a backend: base and draft in this process, steps streamed as they happen."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hetspec_core.acceptance import StepCount
from hetspec_core.engine.backends.backend import Backend, StepSeen, Watcher, Written, token_name, token_text
from hetspec_core.engine.context import resolve_device, resolve_dtype, set_threads
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.completion import VerifyStep
from hetspec_core.engine.decoding.generate import generate
from hetspec_core.engine.decoding.measure import PhaseClock
from hetspec_core.engine.machine import machine_facts
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.errors import ModelError
from hetspec_core.events.chat import BaseFacts, DraftFacts, ShapeCost
from hetspec_core.events.steps import TreeStep
from hetspec_core.spec import BaseSpec, DecodingSpec, ResourcesSpec, TreeSpec

_KEPT_DRAFTS = 2  # two, so that drafts can be compared without loading them again and again


class _Stopped(Exception):
    """Unwinds a generation between two steps."""


class BuiltinBackend(Backend):
    """Base and up to two drafts in this process."""

    capabilities = ("trees", "every_position", "calibrate", "sampling")

    def __init__(self) -> None:
        super().__init__()
        self._base: BaseLM | None = None
        self._template: ChatTemplate | None = None
        self._drafts: dict[str, DraftLM] = {}  # the one used last stands last
        self._draft: DraftLM | None = None
        self._texts: dict[int, str] = {}

    @classmethod
    def of(cls, base: BaseLM, draft: DraftLM | None = None) -> BuiltinBackend:
        """A backend over models that are in memory already; the draft is the one named `memory`."""
        backend = cls()
        backend._base = base
        if draft is not None:
            backend._drafts["memory"] = draft
        return backend

    @property
    def base(self) -> BaseLM:
        """The base.

        Raises:
            ModelError: none is loaded.
        """
        if self._base is None:
            raise ModelError("no base is loaded", hint="open one first")
        return self._base

    def open(self, base: BaseSpec, resources: ResourcesSpec) -> BaseFacts:
        """As in `Backend`."""
        set_threads(resources)
        device = resolve_device(resources)
        loaded = BaseLM.load(
            base, device=device, dtype=resolve_dtype(resources, device), max_memory=resources.max_memory
        )
        self._base = loaded
        self._template = ChatTemplate.for_tokenizer(loaded.tokenizer, base.chat_template)
        return self.facts()

    def facts(self) -> BaseFacts:
        """What is loaded, and what it runs on."""
        base = self.base
        return BaseFacts(
            name=base.name,
            fingerprint=base.fingerprint,
            context_tokens=base.max_length,
            vocab_size=base.vocab_size,
            device=base.device.type,
            dtype=str(base.dtype).removeprefix("torch."),
            threads=torch.get_num_threads(),
            machine=machine_facts(base.device),
            backend="builtin",
            capabilities=self.capabilities,
        )

    def use_draft(self, folder: str, name: str) -> DraftFacts | None:
        """As in `Backend`; the two drafts used last stay in memory."""
        if not folder:
            self._draft = None
            return None
        draft = self._drafts.pop(folder, None)
        if draft is None:
            while len(self._drafts) >= _KEPT_DRAFTS:
                del self._drafts[next(iter(self._drafts))]
            self._draft = None
            gc.collect()
            draft = load_draft(Path(folder), self.base)
        self._drafts[folder] = self._draft = draft
        return DraftFacts(name=name, parameters=draft.num_parameters, vocab_size=draft.vocab_size)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """As in `Backend`."""
        if self._template is None:
            self._template = ChatTemplate.for_tokenizer(self.base.tokenizer)
        return self._template.encode(messages, add_generation_prompt=True).input_ids

    def text(self, tokens: Sequence[int]) -> str:
        """As in `Backend`."""
        return self.base.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def answer(self, prompt: list[int], decoding: DecodingSpec, watcher: Watcher) -> Written:
        """As in `Backend`."""
        pen = _Pen(self, prompt, watcher)
        draft = None if decoding.plain else self._draft
        try:
            completion = generate(
                self.base,
                draft,
                [prompt],
                decoding,
                on_token=pen.on_token,
                on_commit=None if draft is None else pen.on_commit,
                on_step=pen.on_step if draft is not None and watcher.trees else None,
                clock=pen.clock,
                most_per_step=1 if watcher.every_position else None,
            )[0]
        except _Stopped:
            pen.written.stop_reason = "stopped"
        else:
            pen.written.stop_reason = completion.stop_reason
        pen.written.decode_s = pen.last - pen.started - pen.written.first_token_s
        return pen.written

    def token_text(self, token: int) -> str:
        """What one token says; the vocabulary's own name for a piece of a character."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = token_text(self.base.tokenizer, token)
        return text

    def token_name(self, token: int) -> str:
        """As in `Backend`."""
        return token_name(self.base.tokenizer, token)

    def calibrate(
        self, prompt: list[int], decoding: DecodingSpec, trees: Sequence[str], stop_asked: Callable[[], bool]
    ) -> tuple[float, list[ShapeCost]]:
        """As in `Backend`. The first plain tokens are decoded off the record."""
        endless = decoding.model_copy(update={"ignore_eos": True, "plain": True})
        costs: list[ShapeCost] = []
        self.answer(prompt, endless.model_copy(update={"max_new_tokens": 3}), _listener([], stop_asked))
        plain = self.answer(prompt, endless, _listener([], stop_asked))
        plain_s = plain.decode_s / max(1, len(plain.tokens) - 1)
        for label in trees if self._draft is not None else ():
            tree = TreeSpec.parse(label)
            settings = endless.model_copy(update={"plain": False, "tree": tree})
            seen: list[StepSeen] = []
            self.answer(prompt, settings, _listener(seen, stop_asked))
            if stop_asked() or not seen:
                break
            steps = seen[1:] or seen  # the first step of a shape allocates
            costs.append(
                ShapeCost(
                    tree=label,
                    nodes=tree.num_nodes,
                    steps=len(steps),
                    propose_s=statistics.median(step.propose_s for step in steps),
                    verify_s=statistics.median(step.verify_s for step in steps),
                    other_s=statistics.median(step.other_s for step in steps),
                )
            )
        return plain_s, costs

    def close(self) -> None:
        """As in `Backend`."""
        self._base = self._draft = self._template = None
        self._drafts.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _listener(seen: list[StepSeen], stop_asked: Callable[[], bool]) -> Watcher:
    return Watcher(
        on_tokens=lambda tokens: None, on_step=seen.append, stop_asked=stop_asked, trees=False, every_position=True
    )


class _Pen:
    """Takes what `generate` says of one answer and tells a watcher."""

    def __init__(self, backend: BuiltinBackend, prompt: list[int], watcher: Watcher) -> None:
        self.written = Written()
        self.clock = PhaseClock(backend.base.device)
        self.started = self.last = time.perf_counter()
        self._backend, self._prompt_tokens, self._watcher = backend, len(prompt), watcher
        self._spent: dict[str, float] = {}
        self._step: StepSeen | None = None
        self._speculates = False

    def on_token(self, _: int, token: int) -> None:
        """The first token, and those of plain decoding; tokens of steps come by `on_commit`."""
        if self._speculates and self.written.tokens:
            return
        now = time.perf_counter()
        if not self.written.tokens:
            self.written.first_token_s = now - self.started
            self._speculates = "prefill" in self.clock.seconds  # plain decoding uses no clock
        self.last = now
        self.written.tokens.append(token)
        self._watcher.on_tokens([token])
        self._check()

    def on_commit(self, _: int, count: StepCount, tokens: list[int]) -> None:
        """A verify step; told at once, or with its tree when that follows."""
        now = time.perf_counter()
        propose_s, verify_s = self._phase("propose"), self._phase("verify")
        step = StepSeen(
            count=count,
            tokens=tokens,
            kv_tokens=self._prompt_tokens + len(self.written.tokens) - 1,
            propose_s=propose_s,
            verify_s=verify_s,
            other_s=max(0.0, now - self.last - propose_s - verify_s),
        )
        self.last = now
        self.written.tokens.extend(tokens)
        if self._watcher.trees:
            self._step = step
            return
        self._watcher.on_step(step)
        self._check()

    def on_step(self, step: VerifyStep) -> None:
        """The tree of the step that was just committed."""
        seen = self._step
        if seen is None:
            return
        tree = _tree_step(step, seen, self._backend.token_text)
        self._watcher.on_step(StepSeen(**{**vars(seen), "tree": tree}))
        self._check()

    def _phase(self, name: str) -> float:
        total = self.clock.seconds.get(name, 0.0)
        spent, self._spent[name] = total - self._spent.get(name, 0.0), total
        return spent

    def _check(self) -> None:
        if self._watcher.stop_asked():
            raise _Stopped


def _tree_step(step: VerifyStep, seen: StepSeen, text: Callable[[int], str]) -> TreeStep:
    return TreeStep(
        index=step.index,
        tokens=step.tokens,
        texts=[text(token) for token in step.tokens],
        parents=step.parents,
        draft_probs=[_rounded(value) for value in step.draft_log_probs],
        base_probs=[_rounded(value) for value in step.base_log_probs],
        base_ranks=step.base_ranks,
        path=step.path,
        bonus=step.bonus,
        bonus_text=text(step.bonus),
        bonus_prob=_rounded(step.bonus_log_prob),
        committed=step.committed,
        kv_tokens=seen.kv_tokens,
        propose_s=seen.propose_s,
        verify_s=seen.verify_s,
        other_s=seen.other_s,
    )


def _rounded(log_prob: float) -> float:
    """The probability to seven significant digits: what float32 holds, and a line stays short."""
    return float(f"{math.exp(log_prob):.7g}")
