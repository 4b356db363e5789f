"""AdamW, clipping, and the optimizer's state as named tensors. It knows no loop, no schedule and no files."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hetspec_core.engine.training.sharding import cut_like, full
from hetspec_core.errors import CheckpointError
from hetspec_core.spec import OptimizerSpec

_STATE = ("exp_avg", "exp_avg_sq", "step")


def build_optimizer(
    parameters: Iterable[nn.Parameter], options: OptimizerSpec, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; only matrices decay. Fused where the device has such a kernel.

    Args:
        parameters: all of the draft's.
        options: betas and decay; the learning rate is set before every step.
        device: where the parameters are.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.lr,
        betas=options.betas,
        fused=device.type in ("cuda", "cpu"),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `max_norm` (0 = leave them).

    Returns:
        The norm before clipping, a scalar on the device: reading it is left to the caller.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = full(torch.nn.utils.get_total_norm(gradients))
    if max_norm > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors: `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step` per parameter.

    Of a draft that is cut up over ranks they are put together, so every rank has to ask.
    """
    return {
        f"{name}/{key}": full(optimizer.state[parameter][key].detach())
        for parameter, name in names.items()
        for key in _STATE
        if key in optimizer.state.get(parameter, {})
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave, on the devices of the parameters.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = {f"{names[parameter]}/{key}" for parameter in parameters for key in _STATE}
    problems = [f"{name} is missing" for name in sorted(wanted - tensors.keys())]
    problems += [f"{name} has no place" for name in sorted(tensors.keys() - wanted)]
    for parameter in parameters:
        for key in ("exp_avg", "exp_avg_sq"):
            found = tensors.get(f"{names[parameter]}/{key}")
            if found is not None and found.shape != parameter.shape:
                problems.append(f"{names[parameter]}/{key} has shape {list(found.shape)}, not {list(parameter.shape)}")
    if problems:
        raise CheckpointError(
            f"the optimizer state does not fit the draft: {'; '.join(problems[:4])}"
            + (f" and {len(problems) - 4} more" if len(problems) > 4 else ""),
            hint="the checkpoint belongs to a draft of another shape; start a new run from it with --from",
        )
    whole = optimizer.state_dict()
    whole["state"] = {
        index: {
            key: tensor if key == "step" else cut_like(tensor, parameter)
            for key in _STATE
            for tensor in [tensors[f"{names[parameter]}/{key}"]]
        }
        for index, parameter in enumerate(parameters)
    }
    optimizer.load_state_dict(whole)
