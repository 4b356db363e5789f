"""float32 inside SGLang: which form of an operation is taken, and when a server is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetspec_core.engine.backends.sglang_launch import plan_launch
from hetspec_core.engine.backends.sglang_plugin.native import TARGETS, VARIABLE, natively, register_native
from hetspec_core.spec import ResourcesSpec, SGLangSpec, TreeSpec


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
    assert natively(Norm.forward_cuda, Norm(), *inputs) == taken


def test_every_target_is_hooked_around() -> None:
    hooked: list[tuple[str, Any]] = []

    class Registry:
        def register(self, target: str, hook: Any, kind: Any) -> None:
            assert hook is natively
            hooked.append((target, kind))

    register_native(Registry(), "around")
    assert hooked == [(target, "around") for target in TARGETS]


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
    assert (VARIABLE in launch.environment) is helped
    assert (launch.environment.get("TRITON_F32_DEFAULT") == "ieee") is helped
