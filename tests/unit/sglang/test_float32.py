"""float32 inside SGLang: which form of an operation is taken, and when a server is told to."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetspec_core.sglang.launch import plan_launch
from hetspec_core.sglang.plugin import NATIVE_VARIABLE, TREES_VARIABLE, hooks
from hetspec_core.sglang.plugin.hooks import NATIVE_TARGETS, call_native
from hetspec_core.spec import ResourcesSpec, SGLangSpec, TreeSpec
from tests.fakes.sglang_site import make_site


class Norm(nn.Module):
    """An operation of SGLang's form, whose kernel knows half precision only."""

    def forward_native(self, x: Tensor, residual: Tensor | None = None) -> str:
        return "native"

    def forward_cuda(self, x: Tensor, residual: Tensor | None = None) -> str:
        return "kernel"


@pytest.mark.parametrize(
    ("inputs", "taken"),
    [
        ((torch.ones(2, dtype=torch.bfloat16),), "kernel"),
        ((torch.ones(2, dtype=torch.float32),), "native"),
        ((torch.arange(2), torch.ones(2, dtype=torch.float32)), "native"),
        ((torch.arange(2), torch.ones(2, dtype=torch.float16)), "kernel"),
        ((torch.arange(2),), "kernel"),
    ],
)
def test_the_first_floating_input_decides_which_form_is_taken(inputs: tuple[Tensor, ...], taken: str) -> None:
    assert call_native(Norm.forward_cuda, Norm(), *inputs) == taken


@pytest.mark.parametrize(
    ("dtype", "flags", "helped"),
    [("bfloat16", (), False), ("float32", (), True), ("bfloat16", ("--dtype", "float32"), True), ("auto", (), False)],
)
def test_a_server_in_float32_is_told_to_take_the_forms_that_know_it(
    tmp_path: Path, dtype: str, flags: tuple[str, ...], helped: bool
) -> None:
    spec = SGLangSpec.model_validate({"flags": flags})
    resources = ResourcesSpec.model_validate({"dtype": dtype})
    launch = plan_launch(spec, base=tmp_path, served=None, tree=TreeSpec(), resources=resources, port=30000)
    assert (NATIVE_VARIABLE in launch.environment) is helped
    assert (launch.environment.get("TRITON_F32_DEFAULT") == "ieee") is helped


@pytest.mark.parametrize(
    ("without", "hooked"),
    [((), {"native", "trees"}), (("RotaryEmbedding",), {"trees"}), (("eagle_sample",), {"native"})],
)
def test_trees_and_float32_are_given_up_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...], hooked: set[str]
) -> None:
    package = make_site(tmp_path / "site", without=without) / "sglang"
    seen: list[str] = []

    class Registry:
        @staticmethod
        def register(target: str, hook: Any, kind: Any) -> None:
            native = target in NATIVE_TARGETS
            assert (hook is call_native, kind) == (native, "around" if native else "after")
            seen.append("native" if native else "trees")

    sglang, plugins = ModuleType("sglang"), ModuleType("sglang.srt.plugins.hook_registry")
    sglang.__dict__.update(__path__=[str(package)], __version__="0.5.20")
    plugins.__dict__.update(HookRegistry=Registry, HookType=SimpleNamespace(AROUND="around", AFTER="after"))
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
        monkeypatch.setitem(sys.modules, name, sglang)
    monkeypatch.setitem(sys.modules, plugins.__name__, plugins)
    monkeypatch.setenv(NATIVE_VARIABLE, "1")
    monkeypatch.setenv(TREES_VARIABLE, str(tmp_path / "socket"))
    monkeypatch.setattr(hooks, "_registered", False)
    hooks.register()
    hooks.register()  # SGLang asks in every process that it starts, and may ask twice
    assert set(seen) == hooked and len(seen) == 5 * ("native" in hooked) + 3 * ("trees" in hooked)
