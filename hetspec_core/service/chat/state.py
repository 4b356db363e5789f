"""Everything that is seen of a chat, as the worker's events make it. It knows events, not their process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hetspec_core.errors import UsageError
from hetspec_core.events.chat import (
    Answered,
    Ask,
    BaseFacts,
    Calibrate,
    Calibrated,
    ChatEvent,
    ChatSettings,
    DraftFacts,
    Failed,
    Garbage,
    Loading,
    Prepared,
    Ready,
    Refused,
    Started,
    Step,
    Tokens,
    WorkerDied,
)
from hetspec_core.events.models import ErrorInfo
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.comparison import Comparison
from hetspec_core.service.chat.conversation import ChatHistory
from hetspec_core.service.chat.meters import Figures, SessionTotals
from hetspec_core.service.chat.recorder import Recorder

SessionState = Literal["new", "loading", "ready", "answering", "calibrating", "dead", "closed"]


class ChatState:
    """What a chat has come to.

    Args:
        settings: of the next answer.
        conversation: the turns so far.
        record: folder for a trace of every answer; None = none.

    Attributes:
        state: what is under way.
        stopping: whether the worker was told to end what is under way, and has not done so yet.
        settings: of the next answer.
        conversation: the turns so far.
        answer: the present or last answer; None before the first.
        comparison: the present or last A/B; None before the first.
        meters: figures pooled over the session, and the last calibration.
        loading: what is being loaded, and how far (0 to 1).
        base, draft: facts, once known.
        death: how the worker ended, while it is dead.
        problem: the last failure that was not an answer's.
        garbage: lines of the worker that were no messages.
        recorder: writes traces; `recorder.last` is the newest one.
    """

    def __init__(self, settings: ChatSettings, conversation: ChatHistory, record: Path | None) -> None:
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
        self._queued: Ask | Calibrate | None = None  # said before the base was loaded

    @property
    def busy(self) -> bool:
        """Whether an answer or a calibration is under way."""
        return self.state in ("answering", "calibrating") or self._queued is not None

    @property
    def figures(self) -> Figures:
        """What the meters show now."""
        context = self.base.context_tokens if self.base else 0
        return self.meters.figures(self.answer, self.settings.label, context)

    @property
    def compares(self) -> bool:
        """Whether the present answer belongs to the comparison and not to the conversation."""
        answers = self.comparison.answers if self.comparison is not None else ()
        return any(answer is self.answer for _, answer in answers)

    def check_tree(self, tree: str) -> None:
        """See that a tree is not another than the only one that a running server has.

        Args:
            tree: depth/top_k/num_draft_tokens; "" = plain decoding, which has none.

        Raises:
            UsageError: it is another one.
        """
        if self.base is not None and self.base.tree and tree not in ("", self.base.tree):
            raise UsageError(
                f"the running server drafts trees of {self.base.tree}, not {tree}",
                hint="leave the URL out, so that a server is started for every tree",
            )

    def apply(self, event: ChatEvent) -> None:
        """Take one event."""
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
            self.died(event)
        elif isinstance(event, Failed) and event.ask is None:
            self.problem = event
            if self.state == "calibrating":
                self._ready()
        elif isinstance(event, Started | Tokens | Step | Answered | Refused | Failed):
            self._apply_to_answer(event)

    def _take_tree(self, tree: str) -> None:
        """A running server has a tree of its own; what was asked before that was known is counted under it too."""
        if not tree:
            return
        self.settings = self.settings.changed(tree=tree)
        if self.answer is not None and not self.answer.ended:
            self.answer.settings = self.answer.settings.changed(tree=tree)
        if self._queued is not None:
            self._queued = self._queued.model_copy(update={"settings": self._queued.settings.changed(tree=tree)})

    def _apply_to_answer(self, event: Started | Tokens | Step | Answered | Refused | Failed) -> None:
        answer = self.answer
        if answer is None or event.ask != answer.ask or answer.ended:
            return
        answer.apply(event)
        self._not_recorded(self.recorder.add(event))
        if answer.ended:
            self._ended(answer)

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

    def died(self, event: WorkerDied) -> None:
        """The worker is gone; what there is of its answer is kept."""
        problem = self.problem
        if problem is not None and problem.fatal:  # it said itself why
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
