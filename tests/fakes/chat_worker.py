"""A chat worker without a model: what it does is said by the last question, e.g. `burst 500`, `die`, `garbage`.

Its text is the question's words in turn; a step commits two draft tokens and a bonus token.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from queue import SimpleQueue

from hetspec_core.events.chat import (
    Answered,
    Ask,
    BaseFacts,
    Calibrate,
    Calibrated,
    DraftFacts,
    Failed,
    Loading,
    Open,
    Prepare,
    Prepared,
    Quit,
    Ready,
    Refused,
    Request,
    ShapeCost,
    Started,
    Step,
    Stop,
    Tokens,
    decode_request,
    encode,
)
from hetspec_core.events.models import ErrorInfo
from hetspec_core.events.steps import TreeStep
from hetspec_core.process import end_with

COMMAND = [sys.executable, "-m", "tests.fakes.chat_worker"]
CONTEXT = 1000


def say(message: object) -> None:
    sys.stdout.buffer.write(encode(message))  # type: ignore[arg-type]
    sys.stdout.buffer.flush()


def step_of(ask: int, index: int, *, trees: bool = True, kv_tokens: int = 0) -> Step:
    """A step over a tree of four nodes: two accepted below each other, a rejected sibling of each."""
    texts = [f" r{index}", f" a{index}", f" x{index}", f" b{index}", f" y{index}"]
    tree = TreeStep(
        index=index,
        tokens=[10, 11, 12, 13, 14],
        texts=texts,
        parents=[0, 0, 0, 1, 1],
        draft_probs=[1.0, 0.6, 0.3, 0.5, 0.2],
        base_probs=[1.0, 0.7, 0.1, 0.8, 0.1],
        base_ranks=[0, 0, 3, 0, 1],
        path=[1, 3],
        bonus=15,
        bonus_text=f" c{index}",
        bonus_prob=0.9,
        committed=[11, 13, 15],
    )
    return Step(
        ask=ask,
        index=index,
        committed=[11, 13, 15],
        pieces=[f" a{index}", f" b{index}", f" c{index}"],
        accepted=2,
        offered=2,
        kv_tokens=kv_tokens,
        propose_s=0.001,
        verify_s=0.002,
        other_s=0.001,
        elapsed_s=0.01 + 0.004 * (index + 1),
        tree=tree if trees else None,
    )


class FakeWorker:
    """Answers as its questions say."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Request] = SimpleQueue()
        self.stopped: set[int | None] = set()
        self.attached = False  # as to a running server, which has one tree, tells none and cannot decode plainly

    def read(self) -> None:
        for line in sys.stdin.buffer:
            request = decode_request(line)
            if isinstance(request, Stop):
                self.stopped.add(request.ask)
            else:
                self.queue.put(request)
        self.queue.put(Quit())

    def run(self) -> int:
        threading.Thread(target=self.read, daemon=True).start()
        while True:
            request = self.queue.get()
            if isinstance(request, Quit):
                return 0
            if isinstance(request, Open):
                deed = request.base["summary"]
                if deed == "broken":
                    info = ErrorInfo(kind="ModelError", message="the base is not there", hint="install it", exit_code=7)
                    say(Failed(error=info, fatal=True))
                    return 7
                if deed == "mute":
                    time.sleep(600)
                if deed == "chatter":
                    os.write(1, b'Loading weights: 100%\n{"type": "ready"}\n\xff\xfe\n[1, 2]\n')
                say(Loading(what="base", done=0.5))
                self.attached = deed == "served"
                tree = "3/1/3" if self.attached else ""
                say(Ready(pid=os.getpid(), base=BaseFacts(name="fake", context_tokens=CONTEXT, tree=tree)))
            elif isinstance(request, Prepare):
                name = request.settings.draft_name
                say(Prepared(draft=DraftFacts(name=name) if request.settings.draft else None))
            elif isinstance(request, Calibrate) and self.attached:
                say(Failed(error=ErrorInfo(kind="ModelError", message="it always has its draft", hint="name another")))
            elif isinstance(request, Calibrate):
                shapes = [
                    ShapeCost(tree=tree, nodes=4, steps=9, propose_s=0.002, verify_s=0.012, other_s=0.001)
                    for tree in request.trees
                ]
                say(Calibrated(plain_token_s=0.01, kv_tokens=20, shapes=shapes))
            elif isinstance(request, Ask):
                self.answer(request)

    def answer(self, request: Ask) -> None:
        ask, (deed, *words) = request.ask, request.messages[-1].content.split()
        count = int(words[0]) if words and words[0].isdecimal() else 3
        if deed == "refuse":
            say(
                Refused(
                    ask=ask, prompt_tokens=1200, context_tokens=CONTEXT, message="1200 tokens; 1000", hint="shorten"
                )
            )
            return
        if deed == "fail":
            info = ErrorInfo(kind="ResourceError", message="out of memory on the device", hint="smaller", exit_code=8)
            say(Failed(ask=ask, error=info))
            return
        say(Started(ask=ask, prompt_tokens=7, limit_tokens=500, context_tokens=CONTEXT))
        tokens, text = [9], "T"
        say(Tokens(ask=ask, tokens=[9], pieces=["T"], elapsed_s=0.01))
        reason, seconds = "length", 0.0
        for index in range(count):
            if ask in self.stopped:
                reason = "stopped"
                break
            if request.settings.plain:
                say(Tokens(ask=ask, tokens=[11], pieces=[f" a{index}"], elapsed_s=0.01 + 0.01 * (index + 1)))
                tokens, text, seconds = [*tokens, 11], text + f" a{index}", seconds + 0.01
                continue
            step = step_of(ask, index, trees=request.trees and not self.attached)
            say(step)
            tokens, text, seconds = tokens + step.committed, text + "".join(step.pieces), seconds + 0.004
            if deed == "slow":
                time.sleep(0.02)
            if deed == "garbage":
                os.write(1, b"\x00\x1b[2J not json\n{}\n" + b"x" * 100_000 + b"\n")
            if index == 1:
                self.misbehave(deed)
        say(
            Answered(
                ask=ask,
                text=text,
                tokens=tokens,
                stop_reason=reason,
                prompt_tokens=7,
                first_token_s=0.01,
                decode_s=seconds,
            )
        )

    def misbehave(self, deed: str) -> None:
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "exit":
            print("RuntimeError: DefaultCPUAllocator: can't allocate memory", file=sys.stderr, flush=True)
            os._exit(1)
        if deed == "torn":
            os.write(1, b'{"type": "step", "ask": 1, "ind')
            os._exit(3)
        if deed == "stall":
            time.sleep(600)
        if deed == "deaf":
            os.close(1)
            time.sleep(600)
        if deed == "children":
            child = subprocess.Popen(["sleep", "600"])
            say(Loading(what=f"child {child.pid}", done=0.0))
            time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = int(sys.argv[sys.argv.index("--parent") + 1])
    end_with(parent)
    os._exit(FakeWorker().run())
