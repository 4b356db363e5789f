"""SGLang's offline engine as a child of this process: its job, its progress, and what it measured.

The child runs `offline_program`, which imports SGLang.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetspec_core.errors import Cancelled, StageFailed
from hetspec_core.sglang.child import ChildProcess, Progress
from hetspec_core.sglang.client import sampling_params
from hetspec_core.sglang.export import ServedDraft
from hetspec_core.sglang.launch import (
    inside_variables,
    interpreter,
    link_inside,
    server_words,
)
from hetspec_core.spec import DecodingSpec, ResourcesSpec, SGLangSpec, TreeSpec

_LOOK_S = 0.2
_STARTED = 0.5  # of the whole; the rest is measuring
_MEASURED = re.compile(r"measured (\d+) of (\d+)")
MODULE = "hetspec_core.sglang.offline_program"


@dataclass(frozen=True)
class EngineJob:
    """A job for the offline engine.

    Attributes:
        spec: how the engine is started; `batch_sizes` are measured one after another.
        base: directory of the base.
        served: the draft, or None.
        tree: shape of the draft tree.
        resources: number type.
        prompts: token ids.
        decoding: sampling and limit.
        warmup: rounds of short answers before the clock starts.
    """

    spec: SGLangSpec
    base: Path
    served: ServedDraft | None
    tree: TreeSpec
    resources: ResourcesSpec
    prompts: list[list[int]]
    decoding: DecodingSpec
    warmup: int = 1

    @property
    def words(self) -> list[str]:
        """The settings of the engine as words of a server's command line."""
        return server_words(self.spec, base=self.base, served=self.served, tree=self.tree, resources=self.resources)


def run_engine(
    job: EngineJob,
    log: Path,
    *,
    timeout_s: float,
    on_progress: Progress = lambda label, done: None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run the engine until its job is done.

    Returns:
        `version`, `start_s`, `server`; in `batches` the `answers` (tokens, meta, batch_s) and `total_s` per batch size;
        in `ended` why batch sizes are missing, empty when none are.

    Raises:
        StageFailed: the engine ended, or was not done in time, before the first batch size was measured.
        Cancelled: `stop_asked` returned true.
    """
    with tempfile.TemporaryDirectory(prefix="hetspec-") as place:
        folder = Path(place)
        question, result = folder / "job.json", folder / "result.json"
        sampling = sampling_params(
            job.decoding.sampling, job.decoding.max_new_tokens, ignore_eos=job.decoding.ignore_eos
        )
        about = {
            "words": job.words,
            "prompts": job.prompts,
            "sampling": sampling,
            "batch_sizes": list(job.spec.batch_sizes),
            "warmup": job.warmup,
        }
        question.write_text(json.dumps(about), encoding="utf-8")
        variables = inside_variables(job.spec, link_inside(folder / "inside"), job.served, job.resources)
        child = ChildProcess("SGLang's engine", log)
        child.start([interpreter(job.spec), "-P", "-m", MODULE, str(question), str(result)], variables, folder=folder)
        late: StageFailed | None = None
        try:
            _follow(child, timeout_s, on_progress, stop_asked)
        except StageFailed as error:
            late = error
        finally:
            child.stop()
        found = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {"batches": []}
        short = len(found["batches"]) < len(job.spec.batch_sizes)
        why = (late or child.why_it_ended()) if short else None
        if why is not None and not found["batches"]:
            raise why
        return found | {"ended": why.message if why is not None else ""}


def _follow(child: ChildProcess, timeout_s: float, on_progress: Progress, stop_asked: Callable[[], bool]) -> None:
    limit = time.monotonic() + timeout_s
    while True:
        over = not child.alive  # the rest of its log is read nevertheless
        lines, news = child.read_log()
        if news:
            on_progress(child.start_log.label, child.start_log.done * _STARTED)
        for hit in filter(None, map(_MEASURED.fullmatch, lines)):
            on_progress("prompts are answered", _STARTED + (1 - _STARTED) * int(hit[1]) / int(hit[2]))
        if over:
            break
        if stop_asked():
            raise Cancelled("the engine was asked to stop")
        if time.monotonic() > limit:
            raise StageFailed(f"SGLang's engine was not done after {timeout_s:.0f} s", hint=f"its log is {child.log}")
        time.sleep(_LOOK_S)
