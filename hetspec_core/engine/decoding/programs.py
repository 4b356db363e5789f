"""Programs of the fast decoder: a cycle or a step over tables of fixed shape, captured as a CUDA graph and replayed.

What a program did is copied to the host asynchronously; two copies may be under way, so that one is read while the next
cycle runs.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hetspec_core.engine.decoding.answers import TreesOnHost, packed_trees
from hetspec_core.engine.decoding.completion import Listener
from hetspec_core.engine.decoding.kv_cache import SlotCache, SlotTables
from hetspec_core.engine.decoding.prompts import PromptPart
from hetspec_core.engine.decoding.rows import PlainRows, SpeculativeRows
from hetspec_core.engine.decoding.tree import DraftTree, Verdict
from hetspec_core.engine.modeling.base_lm import BaseLM, BaseOutput
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.modeling.experts import fixed_shapes, has_experts
from hetspec_core.engine.modeling.regions import Regions, fuse
from hetspec_core.errors import Cancelled
from hetspec_core.spec import SamplingSpec

_PREFILL_STEPS = ((512, 64), (1024, 128), (2048, 256))  # up to a width, widths that graphs are made for
_WIDEST_PREFILL = _PREFILL_STEPS[-1][0]  # tokens of all rows; with more, operations take longer than their launches
_WARM_UPS = 2  # before a capture: libraries choose their kernels and allocate their workspaces


class _Asked(KeyboardInterrupt):
    """A signal asked to stop; a compiler lets it pass, as it would not let an ordinary error."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal that asks to stop end a compilation, which looks at no flag for minutes.

    The handlers of SIGINT and SIGTERM that a worker has set run as before. Without such handlers, and outside of the
    main thread, signals do what they do anyway.

    Raises:
        Cancelled: such a signal has arrived.
    """
    before: dict[int, Callable[..., Any]] = {}
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        before[number](number, frame)
        if not asked:  # what is raised here may be lost in a callback; the end of the block looks again
            asked = True
            raise _Asked

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                before[number] = handler
                signal.signal(number, ask)
    try:
        yield
    except _Asked:
        pass  # told below
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise Cancelled("the run was asked to stop while programs were compiled")


@contextlib.contextmanager
def told_seconds(tell: Callable[[float], None], every_s: float = 1.0) -> Iterator[None]:
    """Tell how long the block has taken: at its begin, then every second from a thread, which ends with it."""
    began, ended = time.monotonic(), threading.Event()

    def count() -> None:
        while not ended.wait(every_s):
            tell(time.monotonic() - began)

    tell(0.0)
    thread = threading.Thread(target=count, name="seconds", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error or what it came from is exhausted memory: a graph that cannot be ended hides it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def reason_of(error: Exception) -> str:
    """The line of an error that says what happened: of a compiler's process the last one of its own error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split("(")[0].split(":")[0]]
    return (named or lines or [type(error).__name__])[-1 if named else 0]


class Replay:
    """Work over tensors that stay where they are: captured as a CUDA graph, or called as it is.

    Args:
        work: changes tensors in place; what it returns stays in the graph's memory until the next replay.
        pool: memory that the graphs of a decoder share; None = no graph.
    """

    def __init__(self, work: Callable[[], Any], pool: Any | None) -> None:
        self._work, self._graph = work, None
        self.result: Any = None
        if pool is None:
            self()  # so that what cannot be compiled is known before anything is answered
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), fixed_shapes():
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool), fixed_shapes():
            self.result = work()
        self._graph.replay()  # a capture computes nothing, and what comes next may read the result

    def __call__(self) -> None:
        """Do the work once."""
        if self._graph is None:
            with fixed_shapes():
                self.result = self._work()
        else:
            self._graph.replay()


class Prefills:
    """Reads prompts by graphs of a few widths; a prompt that has none of them, or is long, is read as it is.

    Launching the operations of one forward takes longer than a GPU needs for few tokens.

    Args:
        rows: that read parts; they read through this from now on.
        caches: of the rows.
        pool: as in `Replay`.
        models: those that read; mixtures of experts are read as they are, because fixed shapes cost them more.
    """

    def __init__(
        self,
        rows: SpeculativeRows | PlainRows,
        caches: Sequence[SlotCache],
        pool: Any | None,
        models: Sequence[BaseLM | DraftLM],
    ) -> None:
        self._read, self._pool = rows.read_part, pool
        self._rows, self._device = caches[0].num_rows, rows.base.device
        room = min(rows.base.max_length, *(cache.capacity for cache in caches))
        self._widest = (
            0 if any(has_experts(model.config) for model in models) else min(room, _WIDEST_PREFILL // self._rows)
        )
        self._made: dict[int, tuple[PromptPart, Replay]] = {}
        rows.read, rows.padded = self, self.padded

    def padded(self, width: int) -> int:
        """The width that a part of fresh rows is padded to."""
        step = next((step for most, step in _PREFILL_STEPS if width <= most), 1)
        wide = -(-width // step) * step
        return wide if wide <= self._widest else width

    def prepare(self, prompts: list[list[int]]) -> None:
        """Make the graph that these prompts need, if there is none; it overwrites what the tables hold.

        A graph that cannot be made is done without.
        """
        width = self.padded(max(map(len, prompts)))
        if width > self._widest or width % _PREFILL_STEPS[0][1] or width in self._made:
            return
        try:
            self._made[width] = self._make(width)
        except RuntimeError:  # an operation that a graph cannot hold, or no memory
            self._widest = 0

    def _make(self, width: int) -> tuple[PromptPart, Replay]:
        device = self._device
        ids = torch.zeros(self._rows, width, dtype=torch.int64, device=device)
        slots = torch.arange(width, device=device).repeat(self._rows, 1)
        ends = torch.zeros(self._rows, dtype=torch.int64, device=device)
        part = PromptPart(ids, ids.clone(), slots, None, None, 0, ends, slots >= 0, last=True)
        return part, Replay(lambda: self._read(part), self._pool)

    def __call__(self, part: PromptPart) -> Any:
        """What `read` returns; of a graph, until the next replay."""
        made = self._made.get(part.ids.shape[1])
        if made is None or part.mask is not None or not part.last:
            return self._read(part)
        own, replay = made
        for name in ("ids", "following", "ends", "behind"):
            getattr(own, name).copy_(getattr(part, name))
        replay()
        return replay.result


class HostCopy:
    """Copies a tensor to the host behind the work that fills it; two copies may be under way.

    Args:
        source: on the device; of fixed shape.
    """

    def __init__(self, source: Tensor) -> None:
        self._source, self._next = source, 0
        on_gpu = source.is_cuda
        self._hosts = [torch.empty_like(source, device="cpu", pin_memory=on_gpu) for _ in range(2)]
        self._events = [torch.cuda.Event() for _ in range(2)] if on_gpu else None

    def start(self) -> Callable[[], list[Any]]:
        """Queue a copy; what is returned waits for it and gives it as lists."""
        index = self._next
        self._next = 1 - index
        self._hosts[index].copy_(self._source, non_blocking=True)
        if self._events is not None:
            self._events[index].record()

        def read() -> list[Any]:
            if self._events is not None:
                self._events[index].synchronize()
            return self._hosts[index].tolist()

        return read


@dataclass(frozen=True)
class CycleFacts:
    """What a cycle did, on the host.

    Attributes:
        packed: as `SpeculativeRows.packed`.
        phases: seconds per phase, where they are measured.
        trees: for a viewer, or None.
    """

    packed: list[list[int]]
    phases: dict[str, float]
    trees: TreesOnHost | None


class Cycle:
    """A program of speculative decoding.

    Args:
        rows: with fixed caches.
        pool: as in `Replay`.
        phased: a graph for every phase instead of one for all, so that phases can be timed.
        compiled: fuse what proposes and what judges with `torch.compile`, and the base's layers one by one.
    """

    def __init__(self, rows: SpeculativeRows, pool: Any | None, phased: bool, compiled: bool = False) -> None:
        self.rows, self._pool = rows, pool
        self.copy = HostCopy(rows.packed)
        self._trees: tuple[Replay, HostCopy] | None = None  # made when a viewer asks for them
        rows.prefill([[0]] * rows.root.shape[0])  # gives the tables and the state their shapes
        self.prefills = Prefills(rows, self.caches, pool, (rows.base, rows.draft))
        self._phases: list[tuple[str, Replay]] = []
        if phased:
            propose_tree, verify_tree, commit_path = rows.propose, rows.verify, rows.commit
            if compiled:
                regions = Regions(rows.base.decoder)
                stage, judge = fuse(rows.stage), fuse(rows.judge)
                propose_tree, commit_path = regions.run(fuse(propose_tree)), regions.run(fuse(commit_path))
                verify_tree = regions.run(lambda tree: judge(tree, rows.forward(tree, *stage(tree))))
            propose = Replay(propose_tree, pool)
            verify = Replay(lambda: verify_tree(propose.result), pool)

            def commit_and_keep() -> None:
                commit_path(propose.result, *verify.result[:2])
                rows.keep(verify.result[0])

            commit = Replay(commit_and_keep, pool)
            self._phases = [("propose", propose), ("verify", verify), ("commit", commit)]
            self._seen: Callable[[], Any] = lambda: (propose.result, verify.result[0], verify.result[2])
        else:
            begin, end = self._begin, self._end
            regions = Regions(rows.base.decoder) if compiled else None
            if regions is not None:
                begin, end = fuse(begin), fuse(end)

            def cycle() -> tuple[Any, Any, Tensor]:
                tree, (positions, mask, bounds) = begin()
                verdict, logits = end(tree, rows.forward(tree, positions, mask, bounds))
                rows.keep(verdict)
                return tree, verdict, logits

            whole = Replay(cycle if regions is None else regions.run(cycle), pool)
            self._phases = [("cycle", whole)]
            self._seen = lambda: whole.result

    def _begin(self) -> tuple[DraftTree, tuple[Tensor, Tensor, Tensor | None]]:
        tree = self.rows.propose()
        return tree, self.rows.stage(tree)

    def _end(self, tree: DraftTree, output: BaseOutput) -> tuple[Verdict, Tensor]:
        verdict, features, logits = self.rows.judge(tree, output)
        self.rows.commit(tree, verdict, features)
        return verdict, logits

    @property
    def caches(self) -> tuple[SlotCache, ...]:
        """Those that the program writes to."""
        return self.rows.base_cache, self.rows.draft_cache

    def launch(self, listener: Listener) -> Callable[[], CycleFacts]:
        """One cycle; what is returned gives what it did.

        Args:
            listener: whether it wants trees, and the clock of the phases.
        """
        for name, replay in self._phases:
            with listener.phase(name):
                replay()
        packed, phases = self.copy.start(), listener.lap()
        trees = self._copy_of_trees() if listener.trees else None

        def read() -> CycleFacts:
            seen = None if trees is None else TreesOnHost(trees(), self.rows.shape.depth)
            return CycleFacts(packed(), phases(), seen)

        return read

    def _copy_of_trees(self) -> Callable[[], list[Any]]:
        if self._trees is None:
            packed = torch.empty_like(packed_trees(*self._seen()))
            self._trees = Replay(lambda: packed.copy_(packed_trees(*self._seen())), self._pool), HostCopy(packed)
        replay, copy = self._trees
        replay()
        return copy.start()


class ReplayedRows(PlainRows):
    """Rows of plain decoding whose step is replayed.

    Args:
        base, num_rows, length, sampling, tables: as in `PlainRows`.
        pool, compiled: as in `Cycle`.
    """

    def __init__(
        self,
        base: BaseLM,
        num_rows: int,
        length: int,
        sampling: SamplingSpec,
        tables: SlotTables,
        pool: Any | None,
        compiled: bool = False,
    ) -> None:
        super().__init__(base, num_rows, length, sampling, fixed=True, tables=tables)
        rows = list(range(num_rows))
        self.admit(rows, [[0]] * num_rows, rows)  # gives the tables their shapes
        self.prefills = Prefills(self, self.caches, pool, (base,))
        advance = super().advance
        if compiled:
            tuned = num_rows == 1
            regions, stage, choose = (
                Regions(base.decoder, tuned=tuned),
                fuse(self.stage, tuned=tuned),
                fuse(self.choose, tuned=tuned),
            )
            advance = regions.run(lambda: choose(self.forward(*stage())))
        self._replay = Replay(advance, pool)
        self.copy = HostCopy(self.last)

    @property
    def caches(self) -> tuple[SlotCache, ...]:
        """As in `Cycle`."""
        return (self.cache,)

    def advance(self) -> None:
        """As in `PlainRows`."""
        self._replay()
