"""The fast decoder where something fails: it gives up what it must, says so once, and the answers stay the same."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.engine.decoding import fast as module
from hetspec_core.engine.decoding.decoder import ReferenceDecoder
from hetspec_core.engine.decoding.fast import FastDecoder
from hetspec_core.engine.decoding.programs import Cycle
from hetspec_core.engine.decoding.rows import SpeculativeRows
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.reporting import describe_error
from hetspec_core.spec import DecodingSpec, TreeSpec
from tests.fakes.tiny_models import ragged_prompts, tiny_base, tiny_draft

PROMPTS = ragged_prompts((7, 70, 19))
WAY = DecodingSpec(tree=TreeSpec.parse("3/2/6"), max_new_tokens=12, ignore_eos=True)
GIVEN_UP = "the reference decoder answers in place of the fast one: "


def answers(decoder: Any, draft: DraftLM | None, rows: int = 3, way: DecodingSpec = WAY) -> list[list[int]]:
    return [answer.tokens for answer in decoder.generate(PROMPTS[:rows], way, draft)]


@pytest.fixture
def base() -> BaseLM:
    return tiny_base()


@pytest.fixture
def draft(base: BaseLM) -> DraftLM:
    return tiny_draft(base)


def make_cycles(monkeypatch: pytest.MonkeyPatch, check: Callable[[SpeculativeRows], None]) -> None:
    def make(rows: SpeculativeRows, *rest: Any) -> Cycle:
        check(rows)
        return Cycle(rows, *rest)

    monkeypatch.setattr(module, "Cycle", make)


def test_other_programs_are_given_up_for_one_that_has_no_room(
    base: BaseLM, draft: DraftLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = FastDecoder(base)
    for rows in (1, 2):
        answers(fast, draft, rows)
    others = [weakref.ref(program) for program in fast._programs.values()]

    def check(rows: SpeculativeRows) -> None:
        if any(other() is not None for other in others):
            raise torch.OutOfMemoryError("no room")

    make_cycles(monkeypatch, check)
    assert answers(fast, draft) == answers(ReferenceDecoder(base), draft)
    assert fast.used == "fast" and len(fast._programs) == 1
    assert fast.notices == [
        "the device has no memory left for 3 programs of the fast decoder: it keeps at most 1 from now on"
    ]
    others.clear()
    answers(fast, draft, 1)
    assert len(fast._programs) == 1 and len(fast.notices) == 1


def test_tables_without_room_for_longer_answers_are_tried_before_the_reference(
    base: BaseLM, draft: DraftLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_made: list[weakref.ref[SpeculativeRows]] = []

    def check(rows: SpeculativeRows) -> None:
        assert all(other() is None for other in half_made)  # what failed is freed before more is asked for
        if rows.base_cache.capacity > 192:
            half_made.append(weakref.ref(rows))
            raise torch.OutOfMemoryError("no room")

    make_cycles(monkeypatch, check)
    fast = FastDecoder(base)
    assert answers(fast, draft) == answers(ReferenceDecoder(base), draft)
    assert answers(fast, draft, 1) == answers(ReferenceDecoder(base), draft, 1)
    assert fast.used == "fast" and len(half_made) == 1
    assert fast.notices == [
        "the device is short of memory: the tables of the fast decoder get no room for longer answers"
    ]


def test_memory_that_runs_out_inside_a_capture_is_recognised_behind_the_error_of_the_graph(
    base: BaseLM, draft: DraftLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(rows: SpeculativeRows) -> None:
        try:
            raise torch.OutOfMemoryError("no room")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    make_cycles(monkeypatch, check)
    fast = FastDecoder(base)
    for _ in range(2):
        assert answers(fast, draft) == answers(ReferenceDecoder(base), draft)
    assert fast.used == "reference"
    assert fast.notices == [
        "the device is short of memory: the tables of the fast decoder get no room for longer answers",
        GIVEN_UP + "the device has no memory left for its tables",
    ]


@pytest.mark.parametrize("speculative", [True, False])
def test_a_prompt_that_finds_no_memory_is_read_in_smaller_parts(
    base: BaseLM, draft: DraftLM, speculative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(ReferenceDecoder(base), draft if speculative else None)
    monkeypatch.setattr("hetspec_core.engine.decoding.prompts.FEWEST_PREFILLED", 1)
    monkeypatch.setattr(module, "FEWEST_PREFILLED", 1)
    forward = base.forward

    def short(input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.numel() > 100:
            raise torch.OutOfMemoryError("no room")
        return forward(input_ids, **options)

    monkeypatch.setattr(base, "forward", short)
    fast = FastDecoder(base)
    assert answers(fast, draft if speculative else None) == expected
    monkeypatch.setattr(base, "forward", lambda *_, **__: short(torch.zeros(101)))
    with pytest.raises(torch.OutOfMemoryError):  # ... and ends where no part is small enough
        answers(fast, draft if speculative else None)


def test_a_draft_at_the_address_of_a_refused_one_is_not_refused(
    base: BaseLM, draft: DraftLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(rows: SpeculativeRows) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(module, "id", lambda _: 1, raising=False)  # all drafts are at one address
    fast, refused = FastDecoder(base), copy.copy(draft)
    with monkeypatch.context() as patch:
        make_cycles(patch, check)
        answers(fast, refused)
    notices = len(fast.notices)
    answers(fast, draft)
    assert len(fast._programs) == 1 and len(fast.notices) == notices


def test_a_compiler_that_fails_is_noticed_once_and_the_same_programs_answer_uncompiled(
    base: BaseLM, draft: DraftLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(work: Any, **_: Any) -> Any:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("the compiler is broken")

        return fail  # torch.compile compiles at the first call

    monkeypatch.setattr(torch, "compile", broken)
    fast = FastDecoder(base, compiled=True)
    for each in (draft, None):
        assert answers(fast, each) == answers(ReferenceDecoder(base), each)
    assert fast.used == "fast"
    assert fast.notices == ["decoding goes on without torch.compile: the compiler is broken"]


COMPILED = """
import os, sys, torch
torch.set_num_threads(1)
from tests.unit.engine.test_decoder_failures import FastDecoder, ReferenceDecoder, answers, tiny_base
os.environ["TORCHINDUCTOR_CACHE_DIR"] = sys.argv[1]  # as the stages do
base = tiny_base()
fast = FastDecoder(base, compiled=True)
assert answers(fast, None, 1) == answers(ReferenceDecoder(base), None, 1)
assert fast.used == "fast"
print(*fast.notices, sep="\\n")
"""


def compiled_child(cache: Path, **environment: str) -> list[str]:
    """The notices of a process that decodes with a compiler."""
    child = subprocess.run(
        [sys.executable, "-c", COMPILED, str(cache)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["compiler", "cache is a file"])
def test_a_compiler_or_a_cache_that_does_not_work_is_noticed_once(fault: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    if fault == "cache is a file":
        cache.write_text("")
    (notice,) = compiled_child(cache, **({"CXX": "/bin/false"} if fault == "compiler" else {}))
    assert notice.startswith("decoding goes on without torch.compile: ")


@pytest.mark.slow
def test_a_damaged_cache_of_compiled_programs_changes_no_answer(tmp_path: Path) -> None:
    assert compiled_child(tmp_path) == [""]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:40])
    assert len(compiled_child(tmp_path)) == 1


def test_the_engine_starts_where_the_environment_names_a_cache_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    child = subprocess.run(
        [sys.executable, "-c", "import hetspec_core.engine.modeling.attention"],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "file" / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    (line,) = child.stderr.splitlines()
    assert line.startswith("TORCHINDUCTOR_CACHE_DIR is not used: ")


def test_a_lost_device_ends_decoding_with_its_own_error_and_no_word_on_graphs(
    base: BaseLM, draft: DraftLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost:
        """A device that computes nothing any more."""

        type = "cuda"

    def check(rows: SpeculativeRows) -> None:
        monkeypatch.setattr(BaseLM, "device", Lost())
        monkeypatch.setattr(torch, "zeros", fail)
        fail()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    make_cycles(monkeypatch, check)
    fast = FastDecoder(base, compiled=True)
    with pytest.raises(RuntimeError) as caught:
        answers(fast, draft)
    assert fast.notices == []
    told = describe_error(caught.value)
    assert told.message == "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert told.hint and "fault of the program" not in told.hint


INTERRUPTED = """
import os, sys, threading, torch
torch.set_num_threads(1)
from tests.unit.engine.test_decoder_failures import FastDecoder, answers, tiny_base
from hetspec_core.engine.worker import _signals_set
from hetspec_core.errors import Cancelled
os.environ["TORCHINDUCTOR_CACHE_DIR"] = sys.argv[1]
cancelled = threading.Event()
fast = FastDecoder(tiny_base(), compiled=True)
fast.on_compile = lambda program, seconds: print(program, flush=True) if seconds == 0 else None
with _signals_set(cancelled):
    try:
        answers(fast, None, 1)
    except Cancelled as end:
        assert cancelled.is_set() and not fast.notices
        print(end, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("wait_s", [0.5, 4.0])
def test_a_signal_inside_a_compilation_ends_it_and_leaves_no_process(
    number: int, wait_s: float, tmp_path: Path
) -> None:
    compiler = tmp_path / "slow"  # never ends by itself
    compiler.write_text("#!/bin/sh\nexec sleep 600\n")
    compiler.chmod(0o755)
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "cache")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CXX": str(compiler)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "program 1\n"
        time.sleep(wait_s)
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
        assert out == "the run was asked to stop while programs were compiled\n", err
        assert child.returncode == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(child.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
