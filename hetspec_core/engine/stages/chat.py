"""Stage chat: a process that holds base and draft and answers questions of the desk, one JSON object a line.

`python -m hetspec_core.engine.stages.chat`: requests on stdin, replies on stdout (`events.chat`), everything else on
stderr. It is no run and has no folder; it ends with the desk that started it. It knows one backend and the messages.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from hetspec_core.catalog import load_card
from hetspec_core.engine.backends.backend import Backend, BackendTokenizer, TextStream, Watcher, Written
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.reporting import describe_error
from hetspec_core.errors import Cancelled, DataError, HetSpecError, SpecError
from hetspec_core.events.chat import (
    PROTOCOL,
    Answered,
    Ask,
    Calibrate,
    Calibrated,
    DraftFacts,
    Failed,
    Loading,
    Notice,
    Open,
    Prepare,
    Prepared,
    Quit,
    Ready,
    Refused,
    Reply,
    Request,
    Started,
    Step,
    Stop,
    Tokens,
    decode_request,
    encode,
)
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.events.models import ErrorInfo
from hetspec_core.process import end_with
from hetspec_core.spec import BaseSpec, ResourcesSpec

_QUIT_S = 1.0  # a backend that has not closed by then is left to the kernel


class ChatWorker:
    """Answers requests one after another; a reader thread takes them, so that a stop is seen at once.

    Args:
        requests: binary stream of lines from the desk.
        replies: binary stream of lines to the desk.
        backend: one that is open already; else `Open` names its card.
    """

    def __init__(self, requests: IO[bytes], replies: IO[bytes], backend: Backend | None = None) -> None:
        self._requests, self._replies = requests, replies
        self._backend: Backend | None = None
        self._queue: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._stopped: set[int | None] = set()
        self._asking: int | None = None
        self._leaving = False
        self._left = threading.Event()
        if backend is not None:
            self._take(backend)

    def run(self) -> int:
        """Work until the desk quits or is gone; returns the exit status.

        From the desk's last word on there is a second to leave in: a backend that keeps `run` longer than that is ended
        with the whole process.
        """
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        try:
            return self._work()
        finally:
            self._left.set()

    def _work(self) -> int:
        while True:
            request = self._queue.get()
            if isinstance(request, Quit) or self._leaving:
                self._close()
                return 0
            try:
                self._do(request)
            except BrokenPipeError:
                return 0
            except Exception as error:
                self._report(request, error)
                if isinstance(request, Open):
                    return describe_error(error).exit_code

    # --- taking requests ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        for line in self._requests:
            if not line.strip():
                continue
            try:
                request = decode_request(line)
            except ValueError as error:
                first = str(error).splitlines()[0]
                info = ErrorInfo(kind="SpecError", message=f"a request cannot be read: {first}", exit_code=3)
                self._say(Failed(error=info))
                continue
            if isinstance(request, Stop):
                self._stopped.add(request.ask)
            elif isinstance(request, Quit):
                break
            else:
                self._queue.put(request)
        self._leaving = True
        self._queue.put(Quit())
        if not self._left.wait(_QUIT_S):
            os._exit(0)

    def _stop_asked(self, ask: int | None) -> bool:
        return self._leaving or ask in self._stopped or None in self._stopped

    # --- answering them ----------------------------------------------------------------------------------------------

    def _do(self, request: Request) -> None:
        if isinstance(request, Open):
            self._open(request)
        elif isinstance(request, Prepare):
            self._say(Prepared(draft=self._use(request.settings)))
        elif isinstance(request, Ask):
            self._answer(request)
        elif isinstance(request, Calibrate):
            self._calibrate(request)

    def _open(self, request: Open) -> None:
        if request.protocol != PROTOCOL:
            raise SpecError(
                f"the desk speaks chat protocol {request.protocol}, this engine {PROTOCOL}",
                hint="install desk and engine of the same version",
            )
        base = BaseSpec.model_validate(request.base)
        self._say(Loading(what=f"base {base.name}", done=0.0))
        backend: Backend = load_card("backends", request.backend).load()()
        backend.configure(request.options)
        self._take(backend)
        facts = self.backend.open(base, ResourcesSpec.model_validate(request.resources))
        self._say(Loading(what=f"base {base.name}", done=1.0))
        self._say(Ready(pid=os.getpid(), base=facts))

    def _take(self, backend: Backend) -> None:
        backend.on_progress = lambda label, done: self._say(Loading(what=label, done=done))
        backend.on_notice = lambda notice: self._say(Notice(text=notice))
        backend.stop_asked = lambda: self._stop_asked(self._asking)
        self._backend = backend

    @property
    def backend(self) -> Backend:
        """The open backend.

        Raises:
            SpecError: there is none yet.
        """
        if self._backend is None:
            raise SpecError("no base is open", hint="the first request must be `open`")
        return self._backend

    def _use(self, settings: ChatSettings) -> DraftFacts | None:
        if settings.draft:
            self._say(Loading(what=f"draft {settings.draft_name or 'draft'}", done=0.0))
        facts = self.backend.use_draft(settings.draft, settings.draft_name)
        if settings.draft:
            self._say(Loading(what=f"draft {settings.draft_name or 'draft'}", done=1.0))
        return facts

    def _encode(self, messages: Sequence[ChatMessage], settings: ChatSettings) -> list[int]:
        turns = [Message(message.role, message.content) for message in messages]
        if settings.system_prompt:
            turns.insert(0, Message("system", settings.system_prompt))
        return self.backend.encode(turns)

    def _answer(self, request: Ask) -> None:
        ask, settings = request.ask, request.settings
        self._asking = ask
        self._stopped.discard(None)  # meant for what was answered before
        backend = self.backend
        facts = backend.facts()
        backend.use_draft(settings.draft, settings.draft_name)
        prompt = self._encode(request.messages, settings)
        room = facts.context_tokens - len(prompt)
        if room < 1:
            error = DataError(
                f"the conversation has {len(prompt)} tokens; the context of {facts.name} is {facts.context_tokens}, "
                "answer included",
                hint=f"shorten it by {1 - room} tokens or more, or begin a new conversation",
            )
            self._say(
                Refused(
                    ask=ask,
                    prompt_tokens=len(prompt),
                    context_tokens=facts.context_tokens,
                    message=error.message,
                    hint=error.hint,
                )
            )
            return
        self._say(
            Started(
                ask=ask,
                prompt_tokens=len(prompt),
                limit_tokens=min(room, settings.decoding.max_new_tokens),
                context_tokens=facts.context_tokens,
            )
        )
        stream, index, began = TextStream(BackendTokenizer(backend)), 0, time.perf_counter()

        def on_tokens(tokens: list[int]) -> None:
            elapsed_s = time.perf_counter() - began
            pieces = [stream.add(token) for token in tokens]
            self._say(Tokens(ask=ask, tokens=tokens, pieces=pieces, elapsed_s=elapsed_s))

        def on_step(step: Step) -> None:
            nonlocal index
            elapsed_s = time.perf_counter() - began
            pieces = [stream.add(token) for token in step.committed]
            told = {"ask": ask, "index": index, "pieces": pieces, "elapsed_s": elapsed_s}
            self._say(step.model_copy(update=told))
            index += 1

        watcher = Watcher(
            on_tokens=on_tokens,
            on_step=on_step,
            stop_asked=lambda: self._stop_asked(ask),
            trees=request.trees,
            every_position=request.every_position,
            whole_prompt=request.whole_prompt,
        )
        try:
            written = backend.answer(prompt, settings.decoding, watcher)
        except Cancelled:  # before the first token: a server was still being started
            written = Written(stop_reason="stopped")
        rest = stream.finish()
        self._say(
            Answered(
                ask=ask,
                text=stream.text,
                tokens=written.tokens,
                rest=rest,
                stop_reason=written.stop_reason,
                prompt_tokens=len(prompt),
                first_token_s=written.first_token_s,
                decode_s=written.decode_s,
                counts=written.counts if written.counts is not None and len(written.counts) != index else None,
                draft_vocab_size=written.draft_vocab_size,
                tree=written.tree,
                predicted_speedup=written.predicted_speedup,
                kept_tokens=written.kept_tokens,
            )
        )

    def _calibrate(self, request: Calibrate) -> None:
        self._asking = None
        self._stopped.discard(None)
        self._use(request.settings)
        prompt = self._encode(request.messages, request.settings)
        decoding = request.settings.decoding.model_copy(update={"max_new_tokens": request.tokens})
        plain_s, shapes = self.backend.calibrate(prompt, decoding, request.trees, lambda: self._stop_asked(None))
        self._say(
            Calibrated(
                plain_token_s=plain_s,
                kv_tokens=len(prompt) + request.tokens // 2,
                load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
                shapes=shapes,
            )
        )

    # --- speaking ----------------------------------------------------------------------------------------------------

    def _say(self, reply: Reply) -> None:
        self._replies.write(encode(reply))
        self._replies.flush()

    def _report(self, request: Request, error: Exception) -> None:
        if not isinstance(error, HetSpecError):
            sys.excepthook(type(error), error, error.__traceback__)
        ask = request.ask if isinstance(request, Ask) else None
        self._say(Failed(ask=ask, error=describe_error(error), fatal=isinstance(request, Open)))

    def _close(self) -> None:
        if self._backend is not None:
            self._backend.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the chat worker."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.stages.chat", description="Answer a desk's questions.")
    parser.add_argument("--parent", type=int, default=0, help="process that this one ends with")
    given = parser.parse_args(arguments)
    faulthandler.enable()
    gc.freeze()  # a full collection would read all objects of torch: 0.2 seconds in the middle of an answer
    if given.parent:
        end_with(given.parent)
    # Libraries print as they like: descriptor 1 becomes the log, and replies go through a copy that only we know.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return ChatWorker(os.fdopen(os.dup(0), "rb"), replies).run()


if __name__ == "__main__":
    # Not sys.exit: the reader thread still waits for a line, and nothing of this process is worth taking down neatly.
    status = main()
    sys.stderr.flush()
    os._exit(status)
