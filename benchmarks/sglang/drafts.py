"""Drafts for the check without any training: a Llama draft rewritten as Qwen3, as a mixture of experts, and as latent.

They draft worse than the original. The check needs only that HetSpec's decoding and SGLang's compute the same.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hetspec_core.engine.modeling.draft_files import FORMAT_VERSION, DraftFiles, write_draft_folder

EXPERTS, ZERO = 5, 1


def as_qwen3(source: Path, target: Path) -> None:
    """Write the draft with norms on queries and keys."""
    files = DraftFiles(source)
    config, tensors = dict(files.config), {name: tensor.float() for name, tensor in files.tensors.items()}
    width = int(config["head_dim"])
    for name in ("q_norm", "k_norm"):
        tensors[f"layers.0.self_attn.{name}.weight"] = torch.full((width,), 1.5)
    config |= {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLMEagle"], "attention_bias": False}
    write_draft_folder(target, config, _stored(tensors))


def as_mixture(source: Path, target: Path) -> None:
    """Write the draft as a mixture: its MLP as every expert, a zero-compute expert, and a shared one."""
    as_qwen3(source, target)
    files = DraftFiles(target)
    config, tensors = dict(files.config), {name: tensor.float() for name, tensor in files.tensors.items()}
    generator = torch.Generator().manual_seed(0)
    gate, up, down = (tensors.pop(f"layers.0.mlp.{name}_proj.weight") for name in ("gate", "up", "down"))
    real, hidden = EXPERTS - ZERO, int(config["hidden_size"])
    mixture = "layers.0.mlp"
    tensors[f"{mixture}.gate.weight"] = 0.05 * torch.randn(EXPERTS, hidden, generator=generator)
    tensors[f"{mixture}.experts.gate_up_proj"] = torch.cat([gate, up]).repeat(real, 1, 1)
    tensors[f"{mixture}.experts.down_proj"] = down.repeat(real, 1, 1)
    for name, weight in (("gate", gate), ("up", up), ("down", down)):
        noise = torch.randn(weight.shape, generator=generator)
        tensors[f"{mixture}.shared.{name}_proj.weight"] = 0.02 * noise
    config |= {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLMEagle"],
        "num_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": config["intermediate_size"],
        "norm_topk_prob": True,
        "zero_compute_experts": ZERO,
        "zero_expert_kind": "identity",
        "shared_experts": 1,
    }
    write_draft_folder(target, config, _stored(tensors))


def as_latent(source: Path, target: Path, *, recurrences: int = 2) -> None:
    """Write the draft as a latent draft of `recurrences` passes per token, in which the latent has a small weight.

    Each recurrence reads the fusion of the original, and from the second on a tenth of the latent. So it drafts about
    as well as the original, and every pass has an effect.
    """
    files = DraftFiles(source)
    config, tensors = dict(files.config), {name: tensor.float() for name, tensor in files.tensors.items()}
    hidden = int(config["hidden_size"])
    tensors["fc.weight"] = torch.cat([tensors["fc.weight"], 0.1 * torch.eye(hidden)], dim=1)
    tensors.setdefault("fc.bias", torch.zeros(hidden))
    tensors["up.weight"] = torch.eye(hidden)
    options = {"refinements": 1, "recurrences": recurrences, "repeats": 1, "latent_init": "zeros"}
    config.pop("architectures", None)
    config["hetspec"] = {
        "format_version": FORMAT_VERSION,
        "algorithm": {"name": "latent", "options": options},
        "head": {
            "hidden_size": hidden,
            "base_size": hidden,
            "refinements": 1,
            "recurrences": recurrences,
            "repeats": 1,
            "initial": "zeros",
            "amplitude": 0.0,
            "shift": False,
            "gradient_recurrences": 0,
        },
        "skip_first_input_norm": True,
        "skip_output_norm": True,
        "base_vocab_size": int(config["vocab_size"]),
        "base_hidden_size": hidden,
        "captured_layers": [],
    }
    write_draft_folder(target, config, _stored(tensors))


def _stored(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
