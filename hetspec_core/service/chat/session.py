"""A chat: one worker, one conversation, and everything that is seen of it.

The caller never waits: requests are queued, and `poll` takes what has come. All state changes inside `poll` or `wait`,
so what a caller sees is exactly the events it was given; a lock lets several threads use one session. It knows messages
and a process, not models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hetspec_core.catalog import load_card
from hetspec_core.errors import RunError, UsageError
from hetspec_core.events.chat import (
    SHORT_KEYS,
    Ask,
    Calibrate,
    ChatEvent,
    ChatMessage,
    ChatSettings,
    Open,
    Prepare,
    Stop,
    WorkerDied,
)
from hetspec_core.paths import roots
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.comparison import Comparison
from hetspec_core.service.chat.conversation import ChatHistory
from hetspec_core.service.chat.setup import ChatConfig
from hetspec_core.service.chat.state import ChatState
from hetspec_core.service.chat.worker_link import WorkerLink, new_log, worker_command

CALIBRATION_PROMPT = "Explain in a few sentences how the tides work."


class ChatSession(ChatState):
    """One chat; what is seen of it is in `ChatState`. Close it, and the models are freed with the worker.

    Args:
        config: base, resources, first settings.
        command: the worker's command line; the engine's when absent.
        conversation: one to go on with.
        record: write a trace of every answer into this folder; None = none.
        trees: ask for the tree of every step.
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
        super().__init__(settings, conversation, record)
        self.config = config
        self.trees = trees
        self._command = list(command or worker_command())
        self._link: WorkerLink | None = None
        self._lock = threading.RLock()
        self._asked = 0
        self._taking = threading.Lock()  # one taker at a time, so that events are applied in their order
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
                self.died(WorkerDied(exit_status=None, message="the worker was restarted"))
            self.state = "dead"
            self.start()

    def close(self, grace_s: float = 0.5) -> None:
        """End the worker; its memory is free when this returns, in less than two seconds whatever it does."""
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
        """Process of the worker."""
        return self._link.pid if self._link is not None else None

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
                self._check_can("every_position", "commit one token per step")
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
        """Ask both ways of decoding the same, one after the other; the conversation stays as it is.

        Args:
            text: the question, put behind the conversation.
            left, right: the two ways.
            rounds: how often each answers; the sides begin in turns.
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
                self.check_tree("" if side.plain else side.tree)
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
            self._check_can("calibrate", "be calibrated, which takes plain decoding")
            for shape in shapes:
                self.check_tree(shape)
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
            UsageError: a value is not allowed; it says why.
        """
        with self._lock:
            known = (*ChatSettings.model_fields, *SHORT_KEYS)
            unknown = [key for key in values if key not in known]
            if unknown:
                allowed = ", ".join(known)
                raise UsageError(f"there is no setting {', '.join(unknown)}", hint=f"there are: {allowed}")
            try:
                changed = self.settings.changed(**values)
            except ValidationError as error:
                first = error.errors()[0]
                raise UsageError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
            self.check_tree(changed.tree)
            another_draft = changed.draft != self.settings.draft
            self.settings = changed
            self.conversation.system_prompt = changed.system_prompt
            if another_draft and self._link is not None and self.state in ("loading", "ready"):
                self._link.send(Prepare(settings=changed))
            return changed

    # --- conversation ------------------------------------------------------------------------------------------------

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

    # --- what comes --------------------------------------------------------------------------------------------------

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

    # --- inside ------------------------------------------------------------------------------------------------------

    def _check_free(self) -> None:
        if self.state == "dead":
            raise RunError("the chat worker is dead", hint="restart it; the conversation is kept")
        if self.state in ("new", "closed"):
            raise RunError(f"the chat is {'not started' if self.state == 'new' else 'closed'}")
        if self.busy:
            raise RunError("an answer is under way", hint="stop it first")

    def _check_can(self, capability: str, what: str) -> None:
        """See that the backend can do what is asked: by what it has said, or by its card while it loads.

        Raises:
            UsageError: it cannot.
        """
        card = load_card("backends", self.config.backend)
        known = self.base.capabilities if self.base is not None else card.capabilities.get("decoding", ())
        if known and capability not in known:
            where = f" at {url}" if (url := self.config.backend_options.get("url")) else ""
            raise UsageError(
                f"the backend {card.name}{where} cannot {what}",
                hint="the built-in one can: leave --backend and --url out",
            )

    def _ask(
        self,
        settings: ChatSettings,
        messages: list[ChatMessage] | None = None,
        *,
        every_position: bool = False,
        trees: bool | None = None,
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
        answer = self._ask(comparison.settings(side), comparison.messages, trees=self._compare_trees)
        comparison.answers.append((side, answer))

    def _take(self, events: list[ChatEvent]) -> list[ChatEvent]:
        for event in events:
            self.apply(event)
            if self.state == "ready":
                self._go_on()
        return events

    def _go_on(self) -> None:
        """Ask what waits: a question from before the base was loaded, or the next side of a comparison."""
        if self._queued is not None:
            self._submit(self._queued)
        elif self.compares and self.answer is not None and self.answer.state == "done":
            self._next_side()
