"""HetSpec's own decoding as a backend: base and draft in this process, steps streamed as they happen."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hetspec_core.engine.backends.backend import Backend, Watcher, Written, token_name, token_text
from hetspec_core.engine.context import cpu_name, machine_facts, resolve_device, resolve_dtype, set_threads
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.auto import ChoosingDecoder
from hetspec_core.engine.decoding.completion import Listener, PhaseClock
from hetspec_core.engine.decoding.decoder import Decoder
from hetspec_core.engine.decoding.draft_vocab import proposing_draft
from hetspec_core.engine.decoding.opening import can_compile, open_decoder
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import load_draft
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.errors import ModelError
from hetspec_core.events.chat import BaseFacts, DraftFacts, ShapeCost, Step
from hetspec_core.paths import roots
from hetspec_core.spec import BaseSpec, DecodingSpec, ResourcesSpec, TreeSpec

_KEPT_DRAFTS = 2  # two, so that drafts can be compared without loading them again and again


class BuiltinBackend(Backend):
    """Base and up to two drafts in this process."""

    capabilities = ("trees", "every_position", "calibrate", "sampling")

    def __init__(self) -> None:
        super().__init__()
        self._base: BaseLM | None = None
        self._decoder: Decoder | None = None
        self._template: ChatTemplate | None = None
        self._drafts: dict[str, DraftLM] = {}  # the one used last stands last
        self._draft: DraftLM | None = None
        self._texts: dict[int, str] = {}

    @classmethod
    def of(
        cls,
        base: BaseLM,
        draft: DraftLM | None = None,
        template: ChatTemplate | None = None,
        decoder: Decoder | None = None,
    ) -> BuiltinBackend:
        """A backend over models that are in memory; the draft is the present one, under the name `memory`."""
        backend = cls()
        backend._base, backend._template, backend._draft = base, template, draft
        backend._decoder = decoder
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
            base, device=device, dtype=resolve_dtype(resources, device, "chat"), max_memory=resources.max_memory
        )
        self._base = loaded
        self._decoder = self._serving(serving_decoder(loaded, resources, compiles=True))
        self._template = ChatTemplate.for_tokenizer(loaded.tokenizer, base.chat_template)
        return self.facts()

    def _serving(self, decoder: ChoosingDecoder) -> ChoosingDecoder:
        """A decoder that keeps what a conversation has in common, and says what it prepares and what went wrong."""
        decoder.keep_prefixes = True
        decoder.on_notice = lambda notice: self.on_notice(notice)
        decoder.on_compile = lambda program, seconds: self.on_progress(f"compiling {program}, {seconds:.0f} s", 0.0)
        decoder.on_measure = lambda shape, done: self.on_progress(f"timing draft trees {shape}".strip(), done)
        return decoder

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
            decoder="" if self._decoder is None else self._decoder.used,
            decoder_why="" if self._decoder is None else self._decoder.why,
        )

    def use_draft(self, folder: str, name: str) -> DraftFacts | None:
        """As in `Backend`; the two drafts used last stay in memory."""
        if not folder:
            self._draft = None
            return None
        draft = self._drafts.pop(folder, None)
        if draft is None:
            while len(self._drafts) >= _KEPT_DRAFTS:
                oldest = self._drafts.pop(next(iter(self._drafts)))
                if self._decoder is not None:
                    self._decoder.forget(oldest)
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
        if self._decoder is None:
            self._decoder = self._serving(choosing_decoder(open_decoder(self.base)))
        answering = _Answering(self, watcher)
        own = None if decoding.plain else self._draft
        draft = None if own is None else proposing_draft(self.base, own, decoding)
        keep, decoder = self._decoder.keep_prefixes, self._decoder
        decoder.keep_prefixes = keep and not watcher.whole_prompt
        try:
            completion = decoder.generate(
                [prompt],
                decoding,
                draft,
                listener=answering,
                most_per_step=1 if watcher.every_position else None,
            )[0]
        finally:
            decoder.keep_prefixes = keep
        return Written(
            tokens=completion.tokens,
            stop_reason=completion.stop_reason,
            first_token_s=completion.first_token_s,
            decode_s=completion.decode_s,
            draft_vocab_size=0 if draft is None or draft is own else draft.vocab_size,
            tree=completion.tree,
            predicted_speedup=completion.predicted_speedup,
            kept_tokens=completion.kept_tokens,
        )

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
            seen: list[Step] = []
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
        self._base = self._decoder = self._draft = self._template = None
        self._drafts.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def serving_decoder(base: BaseLM, resources: ResourcesSpec, *, compiles: bool) -> ChoosingDecoder:
    """The decoder that `resources` ask for, with `tree = auto`.

    Args:
        base: the model.
        resources: which decoder, and whether its programs are compiled.
        compiles: what `resources.compile = auto` means, where a compiler is there.

    Raises:
        SpecError: the decoder cannot run here.
    """
    wanted = resources.compile == "on" or (resources.compile == "auto" and compiles)
    if wanted := wanted and can_compile():
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(roots().cache / "compiled"))
    return choosing_decoder(open_decoder(base, resources.decoder, compiled=wanted))


def choosing_decoder(decoder: Decoder) -> ChoosingDecoder:
    """The decoder with `tree = auto`, whose measured times are kept in the cache folder."""
    device = decoder.base.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    machine = f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return ChoosingDecoder(decoder, machine, roots().cache / "cycle-times")


def _listener(seen: list[Step], stop_asked: Callable[[], bool]) -> Watcher:
    return Watcher(
        on_tokens=lambda tokens: None,
        on_step=seen.append,
        stop_asked=stop_asked,
        trees=False,
        every_position=True,
        whole_prompt=True,
    )


class _Answering(Listener):
    """Passes on what a decoder tells of one answer."""

    def __init__(self, backend: BuiltinBackend, watcher: Watcher) -> None:
        self.trees = watcher.trees
        self.clock = PhaseClock(backend.base.device) if watcher.phases else None
        self.token_text = backend.token_text
        self.stop_asked = watcher.stop_asked
        self._watcher = watcher

    def on_tokens(self, row: int, tokens: list[int]) -> None:
        self._watcher.on_tokens(tokens)

    def on_step(self, row: int, step: Step) -> None:
        self._watcher.on_step(step)
