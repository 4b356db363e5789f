"""SGLang as a backend: a running server, or servers that are started for the base, the draft and the tree.

The base's tokenizer encodes and decodes here; the server takes and returns token ids. Nothing of SGLang is imported.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetspec_core.engine.backends.backend import Backend, Capability, Watcher, Written, token_name, token_text
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.decoding.completion import Completion
from hetspec_core.engine.modeling.base_lm import load_tokenizer
from hetspec_core.engine.modeling.sources import fingerprint, materialize
from hetspec_core.errors import Cancelled, DataError, ModelError, SpecError, StageFailed
from hetspec_core.events.chat import BaseFacts, DraftFacts, ShapeCost, Step
from hetspec_core.paths import roots
from hetspec_core.sglang.client import SGLangClient, sampling_params
from hetspec_core.sglang.export import ServedDraft, stop_ids
from hetspec_core.sglang.launch import tree_of_flags
from hetspec_core.sglang.servers import RunningServer, ServerPool, check_draft, check_model
from hetspec_core.sglang.stream import AnswerStream
from hetspec_core.spec import BaseSpec, DecodingSpec, ResourcesSpec, SGLangSpec, TreeSpec


class SGLangBackend(Backend):
    """One base, served by SGLang."""

    capabilities: tuple[Capability, ...] = ("trees", "calibrate", "sampling")

    def __init__(self) -> None:
        super().__init__()
        self.spec = SGLangSpec()
        self._base: BaseSpec | None = None
        self._tokenizer: Any = None
        self._template: ChatTemplate | None = None
        self._pool: ServerPool | None = None
        self._attached: RunningServer | None = None
        self._plain: RunningServer | None = None
        self._draft: ServedDraft | None = None
        self._draft_folder = ""
        self._stop_ids: list[int] = []
        self._context = self._base_context = 0
        self.folder = roots().cache / "sglang"
        self.logs = roots().chat_logs / f"sglang-{os.getpid()}"
        self._texts: dict[int, str] = {}

    def configure(self, options: Mapping[str, Any]) -> None:
        """As in `Backend`; the options are those of `SGLangSpec`."""
        self.spec = SGLangSpec.model_validate(dict(options))

    def use_folders(self, work: Path, logs: Path) -> None:
        """As in `Backend`; drafts are exported into `work`."""
        self.folder, self.logs = work, logs

    def open(self, base: BaseSpec, resources: ResourcesSpec) -> BaseFacts:
        """As in `Backend`. A running server reports its facts; other servers are started for the first answer."""
        folder = materialize(base.source)
        self._base = base
        self._tokenizer = load_tokenizer(base)
        self._template = ChatTemplate.for_tokenizer(self._tokenizer, base.chat_template)
        self._stop_ids = stop_ids(folder, self._tokenizer)
        self._context = self._base_context = base.architecture.max_position_embeddings
        if self.spec.url:
            self._attached = self._attach(self.spec.url, base)
            self._plain = self._attach(self.spec.plain_url, base) if self.spec.plain_url else None
            facts = self._attached.facts
            self._context = (facts.context_tokens or self._context) - facts.reserved_tokens
        else:
            self._context = self._base_context = self.spec.number("--context-length") or self._context
            self._pool = ServerPool(
                self.spec,
                base,
                resources,
                folder=self.folder,
                logs=self.logs,
                on_progress=lambda label, done: self.on_progress(label, done),
                stop_asked=lambda: self.stop_asked(),
            )
        return self.facts()

    def facts(self) -> BaseFacts:
        base = self._need_base()
        machine: dict[str, Any] = {}
        tree = ""
        if self._attached is not None:
            facts = self._attached.facts
            machine = {"sglang": facts.version, "url": self._attached.client.url}
            tree = tree_of_flags(*facts.tree).label if facts.tree else ""
        elif self._pool is not None:
            machine = {"sglang": self._pool.version}
        capabilities = self.capabilities
        if self._attached is not None:  # its plugin serves another process; and calibrating takes plain decoding
            plain = self._plain is not None or not self._attached.facts.speculates
            capabilities = ("calibrate", "sampling") if plain else ("sampling",)
        return BaseFacts(
            name=base.name,
            fingerprint=fingerprint(materialize(base.source)),
            context_tokens=self._context,
            vocab_size=base.architecture.vocab_size,
            device="sglang",
            machine=machine,
            backend="sglang",
            capabilities=capabilities,
            tree=tree,
        )

    def use_draft(self, folder: str, name: str) -> DraftFacts | None:
        """As in `Backend`. The draft is exported; a server with it starts for the first answer.

        Raises:
            ModelError: SGLang cannot serve the draft, or the running server has none or another one.
        """
        if not folder:
            self._draft, self._draft_folder = None, ""
            return None
        if self._attached is not None:
            if not self._attached.facts.speculates:
                raise ModelError(
                    f"{self._attached.client.url} serves without a draft",
                    hint="decode with --plain, or start it with a draft: `hetspec-core serve`",
                )
            check_draft(self._attached, folder, self.spec.url)
            self._draft_folder = folder
            return DraftFacts(name=name)
        if folder != self._draft_folder:
            self._draft, self._draft_folder = self.pool.export(Path(folder)), folder
        return DraftFacts(name=name, vocab_size=self._need_base().architecture.vocab_size)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        if self._template is None:
            raise SpecError("no base is open", hint="open one first")
        return self._template.encode(messages, add_generation_prompt=True).input_ids

    def text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def token_text(self, token: int) -> str:
        """The text of one token; the vocabulary's own name for a piece of a character."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = token_text(self._tokenizer, token)
        return text

    def token_name(self, token: int) -> str:
        return token_name(self._tokenizer, token)

    @property
    def pool(self) -> ServerPool:
        """The servers that are started here.

        Raises:
            SpecError: no base is open, or a running server is used.
        """
        if self._pool is None:
            raise SpecError("no base is open", hint="open one first")
        return self._pool

    def exported(self, decoding: DecodingSpec) -> ServedDraft | None:
        """The present draft in SGLang's layout, with the vocabulary of this way of decoding.

        Raises:
            ModelError, SpecError: it cannot have this vocabulary.
        """
        if self._draft is None or not isinstance(decoding.draft_vocab, int):
            return self._draft
        return self.pool.export(Path(self._draft_folder), decoding.draft_vocab)

    def served(self, decoding: DecodingSpec) -> RunningServer:
        """The server that decodes this way.

        Raises:
            ModelError: the running server decodes another way.
            ResourceError, StageFailed: it cannot be started.
        """
        plain = decoding.plain or not self._draft_folder
        if self._attached is not None:
            if isinstance(decoding.draft_vocab, int) and not plain:
                raise ModelError(
                    f"decoding.draft_vocab is {decoding.draft_vocab}, and the draft of {self._attached.client.url} has "
                    "the vocabulary that the server was started with",
                    hint="leave it out, or start a server with it: `hetspec-core serve --draft-vocab N`",
                )
            if not plain or not self._attached.facts.speculates:
                return self._attached
            if self._plain is not None:
                return self._plain
            raise ModelError(
                f"{self._attached.client.url} makes every answer with its draft; SGLang cannot leave it out",
                hint="name a second server without one: --set sglang.plain_url=http://HOST:PORT",
            )
        return self.pool.server(None if plain else self.exported(decoding), decoding.tree)

    def answer(self, prompt: list[int], decoding: DecodingSpec, watcher: Watcher) -> Written:
        return self._write(self.served(decoding), prompt, decoding, watcher).written

    def complete(
        self, served: RunningServer, prompt: list[int], decoding: DecodingSpec
    ) -> tuple[Completion, dict[str, Any]]:
        """Answer a prompt for a measurement, with the steps that the server counted.

        Returns:
            The answer, and the server's own figures of it.

        Raises:
            Cancelled: `stop_asked` returned true.
        """
        quiet = Watcher(stop_asked=self.stop_asked, trees=False)
        stream = None if self.stop_asked() else self._write(served, prompt, decoding, quiet)
        if stream is None or (stream.written.stop_reason == "stopped" and self.stop_asked()):
            raise Cancelled("the measurement was asked to stop")
        written = stream.written
        completion = Completion(
            prompt_tokens=len(prompt),
            tokens=written.tokens,
            stop_reason="length" if written.stop_reason == "stopped" else written.stop_reason,
            steps=written.counts or [],
            first_token_s=written.first_token_s,
            total_s=written.first_token_s + written.decode_s,
        )
        return completion, stream.meta

    def _write(
        self, served: RunningServer, prompt: list[int], decoding: DecodingSpec, watcher: Watcher
    ) -> AnswerStream:
        request_id = uuid.uuid4().hex
        facts = served.facts
        # SGLang refuses a request that could overrun its context, instead of ending the answer there.
        room = (facts.context_tokens or self._base_context) - facts.reserved_tokens - len(prompt)
        size = self._need_base().architecture.vocab_size
        if not 0 <= min(prompt, default=0) <= max(prompt, default=0) < size:
            wrong = next(token for token in prompt if not 0 <= token < size)
            raise DataError(
                f"the prompt has token id {wrong}; the base has {size} tokens",
                hint="use the tokenizer that belongs to the base",
            )
        if room < 1:
            kept = f" besides the {facts.reserved_tokens} tokens that SGLang keeps for drafts" * facts.speculates
            raise DataError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer in a context of "
                f"{room + len(prompt) + facts.reserved_tokens}{kept}",
                hint=f"shorten it by {1 - room} tokens or more",
            )
        limit = min(decoding.max_new_tokens, room)
        sampling = sampling_params(decoding.sampling, limit, ignore_eos=decoding.ignore_eos)
        if not decoding.ignore_eos:
            sampling["stop_token_ids"] = self._stop_ids
        speculates = facts.speculates
        depth = facts.tree[0] if facts.tree else decoding.tree.depth
        feed = served.feed if watcher.trees else None
        stream = AnswerStream(self.token_text, watcher, len(prompt), depth, feed, request_id)
        chunks = served.client.generate(prompt, sampling, request_id=request_id, stop_asked=watcher.stop_asked)
        try:
            for chunk in chunks:
                if beyond := [token for token in chunk.tokens if not isinstance(token, int) or not 0 <= token < size]:
                    raise DataError(
                        f"{served.client.url} answered with token id {beyond[0]}; the base has {size} tokens",
                        hint="it serves another model than the recipe's base",
                    )
                stream.take(chunk, speculates)
        except StageFailed as error:
            raise served.why_it_broke_off(error) from error
        finally:
            if served.feed is not None:
                served.feed.forget(request_id)
        if stream.written.stop_reason == "length" and limit < decoding.max_new_tokens:
            stream.written.stop_reason = "context"
        return stream

    def calibrate(
        self, prompt: list[int], decoding: DecodingSpec, trees: Sequence[str], stop_asked: Callable[[], bool]
    ) -> tuple[float, list[ShapeCost]]:
        """As in `Backend`. Whole requests are timed, because the phases of a step cannot be seen from outside."""
        own = self.facts().tree
        if other := [label for label in trees if own and label != own]:
            raise ModelError(
                f"{self.spec.url} drafts trees of {own}, not {other[0]}",
                hint="leave the URL out, so that a server is started for every tree",
            )
        endless = decoding.model_copy(update={"ignore_eos": True, "plain": True})
        quiet = Watcher(stop_asked=stop_asked, trees=False)
        self.answer(prompt, endless.model_copy(update={"max_new_tokens": 3}), quiet)
        plain = self.answer(prompt, endless, quiet)
        plain_s = plain.decode_s / max(1, len(plain.tokens) - 1)
        costs: list[ShapeCost] = []
        for label in trees if self._draft_folder else ():
            tree = TreeSpec.parse(label)
            steps: list[Step] = []
            watcher = Watcher(on_step=steps.append, stop_asked=stop_asked, trees=False)
            written = self.answer(prompt, endless.model_copy(update={"plain": False, "tree": tree}), watcher)
            if stop_asked() or not steps:
                break
            step_s = written.decode_s / len(steps)
            nodes, count = tree.num_nodes, len(steps)
            costs.append(ShapeCost(tree=label, nodes=nodes, steps=count, propose_s=0, verify_s=0, other_s=step_s))
        return plain_s, costs

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = self._attached = self._plain = None

    def _attach(self, url: str, base: BaseSpec) -> RunningServer:
        client = SGLangClient(url, self.spec.request_timeout_s)
        facts = client.facts()
        check_model(facts, base, url)
        return RunningServer(client, facts)

    def _need_base(self) -> BaseSpec:
        if self._base is None:
            raise SpecError("no base is open", hint="open one first")
        return self._base
