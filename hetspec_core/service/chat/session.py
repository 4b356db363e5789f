"""A chat: one worker, one conversation, and the state that the worker's events make.

The caller never waits: requests are queued, and `poll` takes what has come. All state changes inside `poll` or `wait`,
so what a caller sees is exactly the events it was given; a lock lets several threads use one session.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hetspec_core.errors import RunError, UsageError
from hetspec_core.events.chat import (
    Answered,
    Ask,
    BaseFacts,
    Calibrate,
    Calibrated,
    ChatEvent,
    DraftFacts,
    Failed,
    Garbage,
    Loading,
    Open,
    Prepare,
    Prepared,
    Ready,
    Refused,
    Started,
    Step,
    Stop,
    Tokens,
    WorkerDied,
)
from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.events.models import ErrorInfo
from hetspec_core.paths import roots
from hetspec_core.service.chat.answer import Answer, Recorder
from hetspec_core.service.chat.conversation import ChatHistory
from hetspec_core.service.chat.meters import Comparison, Figures, SessionTotals
from hetspec_core.service.chat.setup import ChatConfig, change_settings, check_tree
from hetspec_core.service.chat.worker_link import WorkerLink, new_log, worker_command

CALIBRATION_PROMPT = "Explain in a few sentences how the tides work."

SessionState = Literal["new", "loading", "ready", "answering", "calibrating", "dead", "closed"]


class ChatSession:
    """One chat. Close it, and the models are freed with the worker.

    Args:
        config: base, resources, first settings.
        command: the worker's command line; the engine's when absent.
        conversation: one to go on with.
        record: write a trace of every answer into this folder; None = none.
        trees: ask for the tree of every step.

    Attributes:
        state: what is under way.
        stopping: whether the worker was told to end what is under way, and has not done so yet.
        settings: of the next answer.
        answer: the present or last answer; None before the first.
        comparison: the present or last A/B; None before the first.
        meters: figures pooled over the session, and the last calibration.
        loading: what is being loaded or, during an answer, prepared; and how far (0 to 1).
        base, draft: facts, once known.
        death: how the worker ended, while it is dead.
        problem: the last failure that was not an answer's.
        garbage: lines of the worker that were no messages.
        recorder: writes traces; `recorder.last` is the newest one.
    """

    def __init__(
        self,
        config: ChatConfig,
        *,
        command: Sequence[str] | None = None,
        conversation: ChatHistory | None = None,
        record: Path | None = None,
        trees: bool = True,
    ) -> None:
        settings = config.settings
        if conversation is None:
            conversation = ChatHistory(base=config.base.name, system_prompt=settings.system_prompt)
        else:
            settings = settings.model_copy(update={"system_prompt": conversation.system_prompt})
        self.config = config
        self.trees = trees
        self.state: SessionState = "new"
        self.stopping = False
        self.settings = settings
        self.conversation = conversation
        self.answer: Answer | None = None
        self.comparison: Comparison | None = None
        self.meters = SessionTotals()
        self.loading: Loading | None = None
        self.base: BaseFacts | None = None
        self.draft: DraftFacts | None = None
        self.death: WorkerDied | None = None
        self.problem: Failed | None = None
        self.garbage = 0
        self.recorder = Recorder(record)
        self._command = list(command or worker_command())
        self._link: WorkerLink | None = None
        self._lock = threading.RLock()
        self._taking = threading.Lock()  # one taker at a time, so that events are applied in their order
        self._asked = 0
        self._queued: Ask | Calibrate | None = None  # asked before the base was loaded
        self._compare_trees = trees

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker and have it load base and draft; returns at once.

        Raises:
            RunError: it is started already, or the session is closed.
        """
        with self._lock:
            if self.state not in ("new", "dead"):
                raise RunError(f"the chat is {self.state}", hint="close it and begin another")
            if self._link is not None:
                self._link.close(0.0)
            self.state, self.death, self.problem, self.draft = "loading", None, None, None
            self._link = WorkerLink(self._command, new_log(roots().chat_logs))
            self._link.start()
            config = self.config
            self._link.send(
                Open(
                    backend=config.backend,
                    options=dict(config.backend_options),
                    base=config.base.model_dump(mode="json"),
                    resources=config.resources.model_dump(mode="json"),
                )
            )
            self._link.send(Prepare(settings=self.settings))

    def restart(self) -> None:
        """Start a new worker in the place of one that died, or that does not answer; the conversation is kept.

        Raises:
            RunError: the session is closed.
        """
        with self._lock:
            if self.state == "closed":
                raise RunError("the chat is closed", hint="begin another")
            if self._link is not None:
                self._link.close(0.0)
            if self.answer is not None and not self.answer.ended:
                self._died(WorkerDied(exit_status=None, message="the worker was restarted"))
            self.state = "dead"
            self.start()

    def close(self, grace_s: float = 0.5) -> None:
        """End the worker; its memory is free when this returns, in less than two seconds."""
        with self._lock:
            link, self._link = self._link, None
            self.state = "closed"
            self.recorder.finish()
        if link is not None:
            link.close(grace_s)

    def __enter__(self) -> ChatSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        return self._link.pid if self._link is not None else None

    @property
    def busy(self) -> bool:
        return self.state in ("answering", "calibrating") or self._queued is not None

    @property
    def figures(self) -> Figures:
        context = self.base.context_tokens if self.base else 0
        return self.meters.figures(self.answer, self.settings.label, context)

    @property
    def compares(self) -> bool:
        """Whether the present answer belongs to the comparison and not to the conversation."""
        answers = self.comparison.answers if self.comparison is not None else ()
        return any(answer is self.answer for _, answer in answers)

    # --- asking ------------------------------------------------------------------------------------------------------

    def send(self, text: str, *, every_position: bool = False) -> Answer:
        """Ask; the answer fills as `poll` is called. While the base is still loading, the question waits for it.

        Raises:
            RunError: something else is under way, or the worker is dead or closed.
            UsageError: the text is empty.
        """
        with self._lock:
            self._check_free()
            if every_position:
                self.config.check_can("every_position", "commit one token per step", self.base)
            self.conversation.ask(text)
            return self._ask(self.settings, every_position=every_position)

    def regenerate(self) -> Answer:
        """Answer the last question anew; when sampling, with the next seed.

        Raises:
            RunError, UsageError: as `send`.
        """
        with self._lock:
            self._check_free()
            self.conversation.drop_answer()
            if not self.settings.sampling.greedy:
                self.settings = self.settings.changed(seed=self.settings.sampling.seed + 1)
            return self._ask(self.settings)

    def edit(self, index: int, text: str) -> Answer | None:
        """Change turn `index`. A changed question is answered anew and what followed it goes; an answer stays changed.

        Raises:
            RunError, UsageError: as `send`, or there is no such turn.
        """
        with self._lock:
            self._check_free()
            self.conversation.edit(index, text)
            return self._ask(self.settings) if self.conversation.turns[-1].role == "user" else None

    def compare(
        self, text: str, left: ChatSettings, right: ChatSettings, *, rounds: int = 1, trees: bool | None = None
    ) -> Comparison:
        """Ask both ways of decoding the same, one after the other; the conversation does not change.

        Args:
            text: the question after the conversation.
            left, right: the two ways.
            rounds: answers of each side; the sides begin in turns.
            trees: ask for trees (a little slower); as the session when absent.

        Raises:
            RunError, UsageError: as `send`.
        """
        with self._lock:
            self._check_free()
            if not text.strip():
                raise UsageError("the question is empty", hint="write something")
            if rounds < 1:
                raise UsageError(f"rounds is {rounds}; needs 1 or more")
            for side in (left, right):
                check_tree("" if side.plain else side.tree, self.base)
            messages = [*self.conversation.messages, ChatMessage(role="user", content=text)]
            self.comparison = Comparison(messages, left, right, rounds)
            self._compare_trees = self.trees if trees is None else trees
            self._next_side()
            return self.comparison

    def calibrate(self, trees: Sequence[str] | None = None, tokens: int = 24) -> None:
        """Measure plain decoding and the steps of some trees on this machine, now; a few seconds.

        Args:
            trees: shapes; the present one when absent.
            tokens: tokens decoded per shape.

        Raises:
            RunError: as `send`.
        """
        with self._lock:
            self._check_free()
            messages = self.conversation.messages
            if not messages or messages[-1].role != "user":
                messages = [*messages, ChatMessage(role="user", content=CALIBRATION_PROMPT)]
            shapes = [self.settings.tree] if trees is None else list(trees)
            self.config.check_can("calibrate", "be calibrated, which takes plain decoding", self.base)
            for shape in shapes:
                check_tree(shape, self.base)
            self._submit(Calibrate(settings=self.settings, trees=shapes, messages=messages, tokens=tokens))

    def stop(self) -> None:
        """End the present answer, comparison or calibration at the next step; what there is of it is kept."""
        with self._lock:
            self._queued = None if self.state == "loading" else self._queued
            if self.comparison is not None:
                self.comparison.order.clear()
            if self._link is None:
                return
            if self.state == "answering" and self.answer is not None:
                self._link.send(Stop(ask=self.answer.ask))
                self.stopping = True
            elif self.state == "calibrating":
                self._link.send(Stop())
                self.stopping = True
            elif self.answer is not None and not self.answer.ended:  # it waits for the base
                self.answer.state = "stopped"

    def change(self, **values: Any) -> ChatSettings:
        """Change settings of the answers to come, e.g. `tree="3/2/6"`; the base is not loaded again.

        Raises:
            UsageError: a value is not allowed; the message says why.
        """
        with self._lock:
            changed = change_settings(self.settings, values, self.base)
            another_draft = changed.draft != self.settings.draft
            self.settings = changed
            self.conversation.system_prompt = changed.system_prompt
            if another_draft and self._link is not None and self.state in ("loading", "ready"):
                self._link.send(Prepare(settings=changed))
            return changed

    def replace_conversation(self, conversation: ChatHistory | None = None) -> None:
        """Go on with another conversation, or with an empty one; its system prompt becomes the present one.

        Raises:
            RunError: an answer is under way.
        """
        with self._lock:
            if self.busy:
                raise RunError("an answer is under way", hint="stop it first")
            if conversation is not None:
                self.settings = self.settings.model_copy(update={"system_prompt": conversation.system_prompt})
            self.conversation = conversation or ChatHistory(
                base=self.config.base.name, system_prompt=self.settings.system_prompt
            )
            self.answer = None

    def save(self, path: Path) -> None:
        """Write the conversation to a file.

        Raises:
            ResourceError: it cannot be written.
        """
        with self._lock:
            self.conversation.save(path)

    def _check_free(self) -> None:
        if self.state == "dead":
            raise RunError("the chat worker is dead", hint="restart it; the conversation is kept")
        if self.state in ("new", "closed"):
            raise RunError(f"the chat is {'not started' if self.state == 'new' else 'closed'}")
        if self.busy:
            raise RunError("an answer is under way", hint="stop it first")

    def _ask(
        self,
        settings: ChatSettings,
        messages: list[ChatMessage] | None = None,
        *,
        every_position: bool = False,
        trees: bool | None = None,
        whole_prompt: bool = False,
    ) -> Answer:
        self._asked += 1
        messages = self.conversation.messages if messages is None else messages
        self.answer = Answer(self._asked, messages, settings, every_position)
        self._submit(
            Ask(
                ask=self._asked,
                messages=messages,
                settings=settings,
                trees=self.trees if trees is None else trees,
                every_position=every_position,
                whole_prompt=whole_prompt,
            )
        )
        return self.answer

    def _submit(self, request: Ask | Calibrate) -> None:
        if self.state == "loading" or self._link is None:
            self._queued = request
            return
        self._queued, self.stopping = None, False
        self.state = "answering" if isinstance(request, Ask) else "calibrating"
        if isinstance(request, Ask):
            self._not_recorded(self.recorder.begin(request, self.base))
        self._link.send(request)

    def _next_side(self) -> None:
        comparison = self.comparison
        if comparison is None or not comparison.order:
            return
        side = comparison.order.pop(0)
        answer = self._ask(comparison.settings(side), comparison.messages, trees=self._compare_trees, whole_prompt=True)
        comparison.answers.append((side, answer))

    # --- events of the worker ----------------------------------------------------------------------------------------

    def poll(self, limit: int = 1000) -> list[ChatEvent]:
        """Take what has come since the last call, at most `limit` events; returns at once."""
        if not self._taking.acquire(blocking=False):  # another thread takes them just now
            return []
        try:
            with self._lock:
                return self._take(self._link.drain(limit) if self._link is not None else [])
        finally:
            self._taking.release()

    def wait(self, timeout_s: float | None = None) -> list[ChatEvent]:
        """Wait for the next event and take what came with it; none when the time is over."""
        with self._taking:
            link = self._link
            events = link.wait(timeout_s) if link is not None else []
            with self._lock:
                return self._take(events)

    def events(self, timeout_s: float | None = None) -> Iterator[ChatEvent]:
        """Events until nothing is under way any more, or nothing came for `timeout_s`."""
        while self.busy or self.state == "loading":
            events = self.wait(timeout_s)
            yield from events
            if not events:
                return

    def _take(self, events: list[ChatEvent]) -> list[ChatEvent]:
        for event in events:
            self._apply(event)
            if self.state != "ready":
                continue
            if self._queued is not None:  # a question from before the base was loaded
                self._submit(self._queued)
            elif self.compares and self.answer is not None and self.answer.state == "done":
                self._next_side()
        return events

    def _apply(self, event: ChatEvent) -> None:
        if isinstance(event, Loading):
            self.loading = event
        elif isinstance(event, Ready):
            self.base, self.state, self.loading = event.base, "ready", None
            self._take_tree(event.base.tree)
        elif isinstance(event, Prepared):
            self.draft, self.loading = event.draft, None
        elif isinstance(event, Calibrated):
            self.meters.calibrated(event)
            self._ready()
        elif isinstance(event, Garbage):
            self.garbage += 1
        elif isinstance(event, WorkerDied):
            self._died(event)
        elif isinstance(event, Failed) and event.ask is None:
            self.problem = event
            if self.state == "calibrating":
                self._ready()
        elif isinstance(event, Started | Tokens | Step | Answered | Refused | Failed):
            answer = self.answer
            if answer is None or event.ask != answer.ask or answer.ended:
                return
            answer.apply(event)
            self.loading = None  # what an answer prepared is done when it goes on
            self._not_recorded(self.recorder.add(event))
            if answer.ended:
                self._ended(answer)

    def _take_tree(self, tree: str) -> None:
        """Count what was asked before the base was known under the tree of a running server, which has only one."""
        if not tree:
            return
        self.settings = self.settings.changed(tree=tree)
        if self.answer is not None and not self.answer.ended:
            self.answer.settings = self.answer.settings.changed(tree=tree)
        if self._queued is not None:
            self._queued = self._queued.model_copy(update={"settings": self._queued.settings.changed(tree=tree)})

    def _ended(self, answer: Answer) -> None:
        self.recorder.finish()
        self.meters.add(answer)
        self._ready()
        if not self.compares:
            self.conversation.answer(answer)

    def _ready(self) -> None:
        self.stopping = False
        if self.state in ("answering", "calibrating"):
            self.state = "ready"

    def _died(self, event: WorkerDied) -> None:
        """Take the end of the worker; what there is of its answer is kept."""
        problem = self.problem
        if problem is not None and problem.fatal:  # the worker reported the reason itself
            event = event.model_copy(update={"message": problem.error.message, "hint": problem.error.hint})
        self.death, self.state, self.loading, self._queued = event, "dead", None, None
        self.stopping = False
        answer = self.answer
        if answer is not None and not answer.ended:
            answer.apply(event)
            self._ended(answer)

    def _not_recorded(self, why: str) -> None:
        if why:
            self.problem = Failed(error=ErrorInfo(kind="ResourceError", message=why))
