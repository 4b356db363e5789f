"""The time that the hooks of the tree plugin take of a verify step, without SGLang: on tensors of SGLang's shapes.

    python -m benchmarks.tree_plugin [--tree 6/10/59] [--device cuda]

Without a viewer: the copy of the scores that is captured into the draft's CUDA graph (the time of a replay with and
without it), and the two hooks that run in Python at each step. With a viewer: the time of the thread that serves, and
of the device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hetspec_core.sglang.plugin.hooks import TreeHooks
from hetspec_core.sglang.plugin.publisher import Publisher
from hetspec_core.sglang.stream import TreeFeed
from hetspec_core.spec import TreeSpec

VOCABULARY = 49152


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", default="6/10/59")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    print(json.dumps(hook_costs(torch.device(options.device), TreeSpec.parse(options.tree)), indent=1))


def hook_costs(device: torch.device, tree: TreeSpec, repeats: int = 400) -> dict[str, Any]:
    """Microseconds per verify step of one request.

    Args:
        device: where the tensors are.
        tree: the shape; its candidates are made at random.
        repeats: steps that are timed.
    """
    step = _Step(device, tree)
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(str(Path(folder) / "trees"))
        hooks = TreeHooks(lambda: publisher)
        found: dict[str, Any] = {"captured copy, device": _captured_copy(step, hooks, repeats)}
        found["no viewer, serving thread"] = _per_call(lambda: step.told_to(hooks), repeats)
        feed = TreeFeed(str(Path(folder) / "trees"))
        if not feed.open():
            raise RuntimeError("the publisher does not answer")
        found |= _with_viewer(step, hooks, repeats)
        found["records"] = {"asked": repeats + 1, "dropped": publisher.dropped, "failed": publisher.failed}
        found["faults"] = hooks.faults
        feed.close()
        publisher.close()
    return found


class _Step:
    """Tensors of one verify step, as SGLang has them."""

    def __init__(self, device: torch.device, tree: TreeSpec) -> None:
        generator = torch.Generator().manual_seed(0)
        top_k, nodes = tree.top_k, tree.num_nodes
        self.device, self.nodes, self.top_k = device, nodes, top_k
        sizes = [(1, 1, top_k), *[(1, top_k, top_k)] * (tree.depth - 1)]
        self.scores = [torch.rand(size, generator=generator).to(device) for size in sizes]
        self.index = torch.arange(nodes, device=device)[None]
        self.parent_list = torch.arange(-1, (tree.depth - 1) * top_k, device=device)[None]
        self.batch = SimpleNamespace(
            forward_mode=SimpleNamespace(is_idle=lambda: False),
            reqs=[SimpleNamespace(rid="a request")],
            seq_lens=torch.tensor([100], device=device),
        )
        self.verify = SimpleNamespace(
            draft_token_num=nodes + 1,
            draft_token=torch.randint(VOCABULARY, (nodes + 1,), generator=generator).to(device),
        )
        self.logits = SimpleNamespace(
            next_token_logits=torch.randn(nodes + 1, VOCABULARY, generator=generator).to(device)
        )
        path = torch.full((1, tree.depth + 1), -1)
        path[0, :2] = torch.tensor([0, 1])
        self.verdict = (
            torch.randint(VOCABULARY, (nodes + 1,), generator=generator).to(device),
            torch.tensor([2], device=device),
            path.to(device),
        )

    def organize(self) -> tuple[Tensor, Tensor]:
        """What the hooked function does before the hook: the best candidates of all."""
        flat = torch.cat(self.scores, dim=1).flatten(1)
        return flat, flat.topk(self.nodes, dim=-1).indices.sort(dim=-1).values

    def told_to(self, hooks: TreeHooks) -> None:
        """The two hooks of a step that are not captured."""
        hooks.after_build(None, self.batch, None, self.parent_list, self.index, topk=self.top_k)
        hooks.after_sample(self.verdict, self.verify, self.batch, self.logits)


def _captured_copy(step: _Step, hooks: TreeHooks, repeats: int) -> float | None:
    """Time of a graph's replay with the hook's copy in it, less that of one without it."""
    hooks.after_organize(step.organize(), step.scores)  # the buffer is made outside of any graph
    if step.device.type != "cuda":
        return None

    def body() -> None:
        step.organize()

    def hooked() -> None:
        hooks.after_organize(step.organize(), step.scores)

    graphs = [_graph(body), _graph(hooked)]
    spent: list[list[float]] = [[], []]
    for turn in range(10):
        for number in (0, 1) if turn % 2 else (1, 0):
            spent[number].append(_device_us(graphs[number].replay, repeats))
    return statistics.median(spent[1]) - statistics.median(spent[0])


def _graph(body: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def _with_viewer(step: _Step, hooks: TreeHooks, repeats: int) -> dict[str, float]:
    """The serving thread's share, and the device's, of steps that are told; a pause stands for the rest of a step."""
    step.told_to(hooks)
    serving, device = [], []
    for _ in range(repeats):
        _synchronize(step.device)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if step.device.type == "cuda" else []
        if events:
            events[0].record()
        began = time.perf_counter()
        step.told_to(hooks)
        serving.append(1e6 * (time.perf_counter() - began))
        if events:
            events[1].record()
            events[1].synchronize()
            device.append(1e3 * events[0].elapsed_time(events[1]))
        time.sleep(0.002)
    found = {"viewer, serving thread": statistics.median(serving)}
    return found | ({"viewer, device from first to last": statistics.median(device)} if device else {})


def _per_call(call: Callable[[], Any], repeats: int) -> float:
    """Microseconds of a call on this thread."""
    call()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e6 * (time.perf_counter() - began) / repeats


def _device_us(call: Callable[[], Any], repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return 1e3 * start.elapsed_time(end) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
