"""The process of SGLang's offline engine, seen from here: its job, its end, and what it measured.

It knows files and a process; SGLang itself is imported in that process alone (`sglang_engine`).
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hetspec_core.engine.backends.sglang_client import sampling_params
from hetspec_core.engine.backends.sglang_counts import tree_flags
from hetspec_core.engine.backends.sglang_export import ServedDraft
from hetspec_core.engine.backends.sglang_launch import (
    MODEL_PACKAGE,
    environment,
    interpreter,
    is_float32,
    link_inside,
    served_dtype,
)
from hetspec_core.engine.backends.sglang_plugin import native
from hetspec_core.engine.backends.sglang_server import (
    Progress,
    StartLog,
    child_environment,
    end_with_parent,
    why_it_ended,
)
from hetspec_core.errors import Cancelled, SpecError, StageFailed
from hetspec_core.spec import DecodingSpec, ResourcesSpec, SGLangSpec, TreeSpec

_LOOK_S = 0.2
_STARTED = 0.5  # of the whole; the rest is measuring
_MEASURED = re.compile(r"measured (\d+) of (\d+)")
MODULE = "hetspec_core.engine.backends.sglang_engine"


@dataclass(frozen=True)
class EngineJob:
    """What the engine shall do.

    Attributes:
        spec: how it is started; `batch_sizes` are measured one after another.
        base: directory of the base.
        served: the draft, or None.
        tree: shape of the draft tree.
        resources: number type.
        prompts: token ids.
        decoding: sampling and limit.
        warmup: short answers before the clock starts.
    """

    spec: SGLangSpec
    base: Path
    served: ServedDraft | None
    tree: TreeSpec
    resources: ResourcesSpec
    prompts: list[list[int]]
    decoding: DecodingSpec
    warmup: int = 1

    def engine_arguments(self) -> dict[str, Any]:
        """Keyword arguments of SGLang's `Engine`; the user's flags are put over ours."""
        found: dict[str, Any] = {"model_path": str(self.base), "tp_size": self.spec.tp_size, "log_level": "info"}
        found |= {
            "dtype": served_dtype(self.resources),
            "disable_cuda_graph": not self.spec.cuda_graph,
            "disable_radix_cache": not self.spec.radix_cache,
            "enable_deterministic_inference": self.spec.deterministic,
        }
        if self.served is not None:
            steps, topk, tokens = tree_flags(self.tree)
            found |= {
                "speculative_algorithm": self.served.algorithm,
                "speculative_draft_model_path": str(self.served.folder),
                "speculative_num_steps": steps,
                "speculative_eagle_topk": topk,
                "speculative_num_draft_tokens": tokens,
            }
            if self.served.token_map is not None:
                found["speculative_token_map"] = str(self.served.token_map)
        return found | flag_arguments(self.spec.flags)


def flag_arguments(flags: tuple[str, ...]) -> dict[str, Any]:
    """Words of SGLang's command line as keyword arguments: --a-b 3 is a_b = 3, a flag without a value is true.

    Raises:
        SpecError: a word belongs to no flag.
    """
    found: dict[str, Any] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            flag, sign, value = word[2:].partition("=")
            name = flag.replace("-", "_")
            found[name] = _value(value) if sign else True
            continue
        if not name:
            raise SpecError(f"{word!r} among SGLang's flags belongs to none", hint="flags are --NAME VALUE")
        before = found[name]
        if before is True:
            found[name] = _value(word)
        else:  # --NAME A B C
            found[name] = [*(before if isinstance(before, list) else [before]), _value(word)]
    return found


def run_engine(
    job: EngineJob,
    log: Path,
    *,
    timeout_s: float,
    on_progress: Progress = lambda label, done: None,
    stop_asked: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Let the engine do a job, to its end.

    Returns:
        `version`, `start_s`, `server`, and per batch size `answers` (tokens, meta, batch_s) and `total_s`.

    Raises:
        StageFailed: it ended badly, or not in time.
        Cancelled: `stop_asked` said so.
    """
    with tempfile.TemporaryDirectory(prefix="hetspec-") as place:
        folder = Path(place)
        question, result = folder / "job.json", folder / "result.json"
        sampling = sampling_params(
            job.decoding.sampling, job.decoding.max_new_tokens, ignore_eos=job.decoding.ignore_eos
        )
        about = {
            "engine": job.engine_arguments(),
            "prompts": job.prompts,
            "sampling": sampling,
            "batch_sizes": list(job.spec.batch_sizes),
            "warmup": job.warmup,
        }
        question.write_text(json.dumps(about), encoding="utf-8")
        variables = environment(job.spec, link_inside(folder / "inside"))
        if job.served is not None and job.served.needs_package:
            variables["SGLANG_EXTERNAL_MODEL_PACKAGE"] = MODEL_PACKAGE
        if is_float32(job.spec, job.resources):
            variables = {**native.ENVIRONMENT, **variables}
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [interpreter(job.spec), "-m", MODULE, str(question), str(result)]
        with log.open("ab") as output:
            began = output.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(variables),
                preexec_fn=end_with_parent(),
                cwd=folder,
            )
        try:
            _follow(process, log, began, timeout_s, on_progress, stop_asked)
        finally:
            _end(process)
        if process.returncode or not result.is_file():
            raise why_it_ended("SGLang's engine", process.returncode, log, began)
        return json.loads(result.read_text(encoding="utf-8"))


def _follow(
    process: subprocess.Popen[bytes],
    log: Path,
    position: int,
    timeout_s: float,
    on_progress: Progress,
    stop_asked: Callable[[], bool],
) -> None:
    told, limit = StartLog(), time.monotonic() + timeout_s
    while True:
        over = process.poll() is not None  # its last words are read all the same
        with log.open("rb") as file:
            file.seek(position)
            new = file.read()
        position += len(new)
        lines = new.decode(errors="replace").splitlines()
        if any([told.read(line) for line in lines]):
            on_progress(told.label, told.done * _STARTED)
        for hit in filter(None, map(_MEASURED.fullmatch, lines)):
            on_progress("prompts are answered", _STARTED + (1 - _STARTED) * int(hit[1]) / int(hit[2]))
        if over:
            break
        if stop_asked():
            raise Cancelled("the engine was asked to stop")
        if time.monotonic() > limit:
            raise StageFailed(f"SGLang's engine was not done after {timeout_s:.0f} s", hint=f"its log is {log}")
        time.sleep(_LOOK_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    if process.poll() is None:
        process.kill()
    process.wait()


def _value(word: str) -> Any:
    """A number or true and false where a word is one."""
    try:
        return json.loads(word)
    except ValueError:
        return word
