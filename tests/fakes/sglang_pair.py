"""A tiny pair and servers of the fake SGLang that serve it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.sglang.client import SGLangClient, sampling_params
from hetspec_core.sglang.servers import ServerPool, SGLangServer
from hetspec_core.spec import (
    AlgorithmSpec,
    BaseSpec,
    DecodingSpec,
    DraftSpec,
    ResourcesSpec,
    SamplingSpec,
    SGLangSpec,
    TreeSpec,
)
from tests.fakes.sglang_site import site_spec
from tests.fakes.tiny_base import make_tiny_base

CHAIN = TreeSpec.parse("3/1/3")
GREEDY = DecodingSpec(max_new_tokens=9, ignore_eos=True, tree=CHAIN)
Pair = tuple[BaseSpec, DraftSpec]


def make_pair(folder: Path) -> Pair:
    """A tiny base and a draft for it, written below the folder."""
    base_spec = make_tiny_base(folder / "base")
    base = BaseLM.load(base_spec, device="cpu", dtype=torch.float32)
    sizes = base_spec.architecture.model_copy(update={"num_hidden_layers": 1})
    draft_spec = DraftSpec(name="tiny", architecture=sizes, checkpoint=str(folder / "draft"))
    save_draft(build_draft(draft_spec, AlgorithmSpec(), base), folder / "draft", algorithm=AlgorithmSpec(), facts={})
    return base_spec, draft_spec


def pool_of(pair: Pair, spec: SGLangSpec, tmp_path: Path, **more: Any) -> ServerPool:
    return ServerPool(spec, pair[0], ResourcesSpec(), folder=tmp_path / "exports", logs=tmp_path / "logs", **more)


@contextmanager
def running(pair: Pair, site: Path, tmp_path: Path, mode: str = "well", draft: bool = True) -> Iterator[SGLangServer]:
    """A server of the fake, with the tiny draft or without."""
    tmp_path.mkdir(exist_ok=True)  # the run folder, which the product never makes anew
    pool = pool_of(pair, site_spec(site, mode, trees=False), tmp_path)
    served = pool.export(Path(str(pair[1].checkpoint))) if draft else None
    try:
        found = pool.server(served, CHAIN).server
        assert found is not None
        yield found
    finally:
        pool.close()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def chunks_of(client: SGLangClient, limit: int = 9, **more: Any) -> list[Any]:
    return list(client.generate([1, 2], sampling_params(SamplingSpec(), limit, ignore_eos=True), **more))
