"""The messages between the desk and the chat worker: one JSON object a line, requests down, replies up.

The messages are the same for every backend, and the desk reads them without torch. A saved stream of the replies to one
question is a trace (`events.trace`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from hetspec_core.acceptance import StepCount
from hetspec_core.events.chat_settings import ChatMessage, ChatRecord, ChatSettings
from hetspec_core.events.models import ErrorInfo
from hetspec_core.events.steps import TreeStep

PROTOCOL = 2
"""Version of the messages. A worker refuses another one; unknown keys are ignored on both sides."""

StopReason = Literal["stop", "length", "context", "stopped"]
"""Why an answer ended: a stop token, the token limit, the context length, or a request."""


# --- requests --------------------------------------------------------------------------------------------------------


class Open(ChatRecord):
    """Load the base; the first request, once.

    `base` and `resources` are dumps of BaseSpec and ResourcesSpec, `options` of the options model of the
    backend's card.
    """

    type: Literal["open"] = "open"
    protocol: int = PROTOCOL
    backend: str = "builtin"
    options: dict[str, Any] = Field(default_factory=dict)
    base: dict[str, Any]
    resources: dict[str, Any] = Field(default_factory=dict)


class Prepare(ChatRecord):
    """Load the draft of these settings now, so that the next answer begins at once."""

    type: Literal["prepare"] = "prepare"
    settings: ChatSettings


class Ask(ChatRecord):
    """Answer a conversation that ends with the user.

    Attributes:
        ask: number of the question, chosen by the desk; its replies carry it.
        trees: send the draft tree of every verify step.
        every_position: commit one token per step, so that a tree is seen at every position (for the simulator).
        whole_prompt: read all of the prompt, whatever was kept of the answer before, as a comparison does.
    """

    type: Literal["ask"] = "ask"
    ask: int
    messages: list[ChatMessage]
    settings: ChatSettings
    trees: bool = True
    every_position: bool = False
    whole_prompt: bool = False


class Stop(ChatRecord):
    """End the answer to this question at the next step; None = whatever is being answered."""

    type: Literal["stop"] = "stop"
    ask: int | None = None


class Calibrate(ChatRecord):
    """Measure on this machine what a plain token and a verify step of each tree cost.

    Attributes:
        settings: the draft.
        trees: shapes to measure.
        messages: conversation that is answered meanwhile.
        tokens: tokens decoded per shape.
    """

    type: Literal["calibrate"] = "calibrate"
    settings: ChatSettings
    trees: list[str] = Field(default_factory=list)
    messages: list[ChatMessage]
    tokens: int = Field(default=24, gt=1)


class Quit(ChatRecord):
    """End the process."""

    type: Literal["quit"] = "quit"


# --- replies ---------------------------------------------------------------------------------------------------------


class Loading(ChatRecord):
    """What is being loaded or, during an answer, prepared; and how far it is (0 to 1)."""

    type: Literal["loading"] = "loading"
    what: str
    done: float


class Notice(ChatRecord):
    """A sentence for the reader: something did not go as planned, and the answer goes on."""

    type: Literal["notice"] = "notice"
    text: str


class DraftFacts(ChatRecord):
    """The draft that is loaded."""

    name: str
    parameters: int = 0
    vocab_size: int = 0


class BaseFacts(ChatRecord):
    """The base that is loaded, and what it runs on.

    Attributes:
        name, fingerprint: which weights.
        context_tokens: prompt and answer together.
        device, dtype, threads: how it computes.
        machine: processor, GPU, versions.
        backend: who runs it.
        capabilities: what the backend can do: trees, every_position, calibrate, sampling.
        tree: the only tree that its drafts can have, of a running server; empty = any.
        decoder, decoder_why: which of the built-in decoders answers, and why no faster one does.
    """

    name: str
    fingerprint: str = ""
    context_tokens: int
    vocab_size: int = 0
    device: str = ""
    dtype: str = ""
    threads: int = 0
    machine: dict[str, Any] = Field(default_factory=dict)
    backend: str = "builtin"
    capabilities: tuple[str, ...] = ()
    tree: str = ""
    decoder: str = ""
    decoder_why: str = ""


class Ready(ChatRecord):
    """The base is loaded; questions may come."""

    type: Literal["ready"] = "ready"
    protocol: int = PROTOCOL
    pid: int = 0
    base: BaseFacts


class Prepared(ChatRecord):
    """The draft of the settings is loaded; None = plain decoding."""

    type: Literal["prepared"] = "prepared"
    draft: DraftFacts | None = None


class Started(ChatRecord):
    """An answer begins.

    Attributes:
        prompt_tokens: tokens of the conversation, template included.
        limit_tokens: most tokens of the answer.
        context_tokens: what the base can hold.
    """

    type: Literal["started"] = "started"
    ask: int
    prompt_tokens: int
    limit_tokens: int
    context_tokens: int


class Tokens(ChatRecord):
    """Tokens that no draft proposed: the first one of every answer, and all of plain decoding.

    Attributes:
        pieces: text that became certain with each token; joined with those of the steps they are the answer.
        elapsed_s: seconds since the question was taken.
    """

    type: Literal["tokens"] = "tokens"
    ask: int
    tokens: list[int]
    pieces: list[str]
    elapsed_s: float = 0.0


class Step(ChatRecord):
    """One verify step. A decoder makes it; the chat worker adds `ask` and `pieces`.

    Attributes:
        ask: number of the question.
        index: number of the step in its answer, from 0.
        committed: tokens added to the answer: the first `accepted` of them are the draft's, then the bonus token.
        pieces: text that became certain with each of them.
        accepted, offered: as in `acceptance.StepCount`.
        kv_tokens: committed tokens in the base's cache before the step.
        propose_s, verify_s, other_s: seconds of the step; `other_s` is commit, transfers and streaming.
        elapsed_s: seconds since the question was taken; from a decoder, since the batch began.
        tree: the whole tree, when the viewer wants trees.
    """

    type: Literal["step"] = "step"
    ask: int = 0
    index: int
    committed: list[int]
    pieces: list[str] = Field(default_factory=list)
    accepted: int
    offered: int
    kv_tokens: int = 0
    propose_s: float = 0.0
    verify_s: float = 0.0
    other_s: float = 0.0
    elapsed_s: float = 0.0
    tree: TreeStep | None = None

    @property
    def count(self) -> StepCount:
        """The numbers that statistics need."""
        return StepCount(len(self.committed), self.accepted, self.offered)


class Answered(ChatRecord):
    """The answer is complete, or was stopped.

    Attributes:
        text: all of it, special tokens left out.
        tokens: all of it, the stop token included.
        rest: what the pieces so far lack of `text` (an unfinished character).
        first_token_s: seconds from the question to the first token.
        decode_s: seconds after the first token.
        counts: all verify steps, where `Step` replies lack some: a server's stream may bring several at once.
        draft_vocab_size: tokens that the draft proposed, where these are fewer than it has; 0 = all of its own.
        tree: the shape that `tree = auto` took, or `plain`; empty where it was not asked to choose.
        predicted_speedup: over plain decoding, of the best shape for `auto`.
        kept_tokens: of the prompt, whose keys and values were kept from the answer before.
    """

    type: Literal["answered"] = "answered"
    ask: int
    text: str
    tokens: list[int]
    rest: str = ""
    stop_reason: StopReason
    prompt_tokens: int
    first_token_s: float = 0.0
    decode_s: float = 0.0
    counts: list[StepCount] | None = None
    draft_vocab_size: int = 0
    tree: str = ""
    predicted_speedup: float | None = None
    kept_tokens: int = 0

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens after the first / seconds after the first token."""
        return (len(self.tokens) - 1) / self.decode_s if self.decode_s > 0 and len(self.tokens) > 1 else None


class Refused(ChatRecord):
    """The conversation does not fit the context; nothing was computed."""

    type: Literal["refused"] = "refused"
    ask: int
    prompt_tokens: int
    context_tokens: int
    message: str
    hint: str = ""


class ShapeCost(ChatRecord):
    """What a verify step of one tree costs here: medians over `steps` steps, in seconds."""

    tree: str
    nodes: int
    steps: int
    propose_s: float
    verify_s: float
    other_s: float

    @property
    def step_s(self) -> float:
        """Seconds of a whole step."""
        return self.propose_s + self.verify_s + self.other_s


class Calibrated(ChatRecord):
    """Costs measured on this machine: seconds per token of plain decoding, and per step of each tree."""

    type: Literal["calibrated"] = "calibrated"
    plain_token_s: float
    kv_tokens: int
    load_average: float | None = None
    shapes: list[ShapeCost] = Field(default_factory=list)


class Failed(ChatRecord):
    """A request could not be done; `ask` None = it was not a question. After a fatal one the worker ends."""

    type: Literal["failed"] = "failed"
    ask: int | None = None
    error: ErrorInfo
    fatal: bool = False


# --- events that the desk adds ---------------------------------------------------------------------------------------


class Garbage(ChatRecord):
    """A line of the worker that is no message of this protocol."""

    type: Literal["garbage"] = "garbage"
    line: str


class WorkerDied(ChatRecord):
    """The worker has ended without being asked to.

    Attributes:
        exit_status: its status; a negative one is a signal; None = it could not be started.
        message, hint: what was seen, what to do.
        log: where its stderr is.
    """

    type: Literal["worker_died"] = "worker_died"
    exit_status: int | None
    message: str
    hint: str = ""
    log: str = ""


Request = Open | Prepare | Ask | Stop | Calibrate | Quit
Reply = Loading | Notice | Ready | Prepared | Started | Tokens | Step | Answered | Refused | Calibrated | Failed
ChatEvent = Reply | Garbage | WorkerDied
"""What a chat session hands out."""

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="type")])
_SHOWN_GARBAGE = 500


def encode(message: BaseModel) -> bytes:
    """A message as one line."""
    return message.model_dump_json().encode() + b"\n"


def decode_request(line: bytes) -> Request:
    """A request from its line.

    Raises:
        ValueError: the line is none.
    """
    return _REQUEST.validate_json(line)


def decode_reply(line: bytes) -> Reply | Garbage:
    """A reply from its line; what is none is kept as `Garbage`."""
    try:
        return _REPLY.validate_json(line)
    except ValidationError:
        return Garbage(line=line[:_SHOWN_GARBAGE].decode(errors="replace").rstrip("\n"))


def decode_replies(lines: Iterable[bytes]) -> list[Reply | Garbage]:
    """Replies of complete lines; blank ones are none."""
    return [decode_reply(line) for line in lines if line.strip()]
