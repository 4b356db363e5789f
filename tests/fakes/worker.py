"""A worker whose stages need no model: the first word of the run's name says what they do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from hetspec_core.engine.worker import main
from hetspec_core.errors import DataError
from tests.fakes import light_torch

if TYPE_CHECKING:
    from hetspec_core.engine.context import RunContext


def act(context: RunContext) -> None:
    """Do what the first word of the run's name says; a resumed run always succeeds."""
    deed = "succeed" if context.attempt > 1 else context.spec.name.split("-")[0]
    context.log(f"deed is {deed}")
    match deed:
        case "fail":
            raise DataError("prompts.jsonl has no assistant turn", hint="use --answers base")
        case "crash":
            raise ValueError("shapes [2, 3] and [4] do not fit")
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.paths.checkpoints / "x"))
        case "die":
            context.progress("work", 3, 10, "steps")
            os.kill(os.getpid(), signal.SIGKILL)
        case "stubborn":
            helper = subprocess.Popen(["sleep", "600"])
            (context.paths.folder / "helper.pid").write_text(str(helper.pid))
            context.progress("work", 1, 10, "steps")
            time.sleep(600)
        case "wait":
            for done in range(60_000):
                context.progress("work", done, 60_000, "steps")
                context.check_cancelled()
                time.sleep(0.01)
        case "hurt":
            mark = context.paths.folder / "hurt"
            if context.share.number == 1 and not mark.exists():
                context.progress("work", 3, 10, "steps")
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            context.progress("work", 10, 10, "steps")
            if context.share.is_whole:
                context.result("dataset", {"samples": 30})
        case "broken":
            if context.share.number == 1:
                raise ValueError("shapes [2, 3] and [4] do not fit")
            for done in range(60_000):
                context.progress("work", done, 60_000, "steps")
                context.check_cancelled()
                time.sleep(0.01)
        case "torn":
            rank = int(os.environ["RANK"])
            context.progress("work", rank, 10, "steps")
            if rank == 1:
                raise DataError("prompts.jsonl has no assistant turn", hint="use --answers base")
            if rank == 2:
                time.sleep(600)  # as in a collective that never returns
            time.sleep(1.0)
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:12345")
        case _:
            for done in range(11):
                context.progress("work", done, 10, "steps")
                context.metric(
                    done, {"loss": 1.0 / (done + 1), "eval/accept_length": 1.0 + done / 10}, tokens=done * 64
                )
            context.paths.draft.mkdir(exist_ok=True)
            (context.paths.draft / "config.json").write_text("{}")
            context.artifact("draft", context.paths.draft, {"parameters": 7})
            context.result("training", {"accept_length": 2.0, "bad": float("nan")})


if __name__ == "__main__":
    light_torch.install()
    sys.exit(main(load_stage=lambda name: act))
