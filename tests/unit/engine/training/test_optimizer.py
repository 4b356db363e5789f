from __future__ import annotations

import pytest
import torch
from torch import nn

from hetspec_core.engine.training.loop import build_optimizer, clip_gradients, set_learning_rate
from hetspec_core.engine.training.state import load_optimizer_tensors, optimizer_tensors
from hetspec_core.errors import CheckpointError
from hetspec_core.spec import OptimizerSpec

CPU = torch.device("cpu")


def make(seed: int, width: int = 3) -> tuple[nn.Module, torch.optim.AdamW, dict[nn.Parameter, str]]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, width), nn.LayerNorm(width))
    optimizer = build_optimizer(module.parameters(), OptimizerSpec(weight_decay=0.1), CPU)
    return module, optimizer, {parameter: name for name, parameter in module.named_parameters()}


def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    torch.manual_seed(number)
    set_learning_rate(optimizer, 0.01 / (number + 1))
    module(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_stored_state_continues_bit_by_bit() -> None:
    module, optimizer, names = make(0)
    for number in range(3):
        step(module, optimizer, number)
    stored = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, names).items()}
    other, again, other_names = make(1)
    other.load_state_dict(module.state_dict())
    load_optimizer_tensors(again, other_names, stored)
    for number in range(3, 6):
        step(module, optimizer, number)
        step(other, again, number)
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_only_matrices_decay() -> None:
    module, optimizer, _ = make(0)
    decays = {group["weight_decay"]: [p.ndim for p in group["params"]] for group in optimizer.param_groups}
    assert decays == {0.1: [2], 0.0: [1, 1, 1]}
    assert optimizer.param_groups[0]["fused"]
    assert sum(len(dims) for dims in decays.values()) == len(list(module.parameters()))


def test_a_state_of_another_shape_is_refused() -> None:
    module, optimizer, names = make(0, width=3)
    step(module, optimizer, 0)
    stored = optimizer_tensors(optimizer, names)
    _, other, other_names = make(0, width=5)
    with pytest.raises(CheckpointError, match=r"0\.weight/exp_avg has shape \[3, 4\], not \[5, 4\]"):
        load_optimizer_tensors(other, other_names, stored)
    stored.pop("0.bias/step")
    with pytest.raises(CheckpointError, match=r"0\.bias/step is missing"):
        load_optimizer_tensors(optimizer, names, stored)


def test_clipping_scales_to_the_norm_and_zero_leaves_gradients() -> None:
    module, _, _ = make(0)
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    expected = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]).norm()
    assert clip_gradients(parameters, 0.0) == pytest.approx(float(expected))
    assert torch.equal(parameters[0].grad, torch.full_like(parameters[0], 2.0))  # type: ignore[arg-type]
    assert clip_gradients(parameters, 0.5) == pytest.approx(float(expected))
    assert clip_gradients(parameters, 0.0) == pytest.approx(0.5, rel=1e-4)
