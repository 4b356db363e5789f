"""Which versions of SGLang are supported, and whether an installed one fits what HetSpec runs inside it.

Versions in the range are spoken to over HTTP. Model classes and the tree plugin also need classes and functions of
SGLang itself: `differences` reads SGLang's source and compares names and parameters. Nothing of SGLang is imported, so
this works without a GPU and before anything starts. What a function does cannot be compared; `INSIDE` names the
versions in which HetSpec's parts were run.

SGLang's own interpreter runs this file (`python -c` with its text, see `question`), because it knows the syntax of that
source. HetSpec is not installed there, so this file imports the standard library only.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OLDEST = "0.5.11"
NEWEST = "0.5.23"
"""HetSpec speaks to all versions from the oldest to the newest over HTTP."""

RANGE = f"{OLDEST} to {NEWEST}"
REQUIREMENT = f"sglang>={OLDEST},<={NEWEST}"
"""For pip."""

PYTHON_VARIABLE = "HETSPEC_SGLANG_PYTHON"
"""Environment variable: the interpreter that has SGLang, where no spec names one."""

INSIDE = ("0.5.17",)
"""Versions in which model classes and the tree plugin were run. Other versions get them where their source fits."""

INSIDE_RANGE = ", ".join(INSIDE)


def numbers(version: str) -> tuple[int, int, int] | None:
    """0.5.17 or 0.5.17.post1 as numbers; None for a text that is no version."""
    found: list[int] = []
    for part in version.strip().removeprefix("v").split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            return None
        found.append(int(digits))
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def is_supported(version: str) -> bool:
    """Whether a version is in the supported range."""
    seen, oldest, newest = numbers(version), numbers(OLDEST), numbers(NEWEST)
    return seen is not None and oldest is not None and newest is not None and oldest <= seen <= newest


def inside_is_known(version: str) -> bool:
    """Whether model classes and the tree plugin were run in this version."""
    return numbers(version) in {numbers(known) for known in INSIDE}


_ATTENTION = ("hidden_size", "num_heads", "num_kv_heads", "layer_id", "rope_theta", "rope_scaling")
_ATTENTION += ("max_position_embeddings", "quant_config", "prefix")
_EXPERTS = ("num_experts", "top_k", "layer_id", "hidden_size", "intermediate_size", "quant_config", "prefix")
_TABLE = ("num_embeddings", "embedding_dim")

NEEDS: dict[str, tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]] = {
    "classes": (
        ("models/llama.py", "LlamaAttention", (), ("config", "bias", *_ATTENTION)),
        ("models/qwen2.py", "Qwen2MLP", ("hidden_size", "intermediate_size", "hidden_act"), ("quant_config", "prefix")),
        ("models/qwen3.py", "Qwen3Attention", (), ("head_dim", "rms_norm_eps", "attention_bias", *_ATTENTION)),
        ("models/qwen3.py", "Qwen3Attention.forward", (), ("positions", "hidden_states", "forward_batch")),
        ("layers/layernorm.py", "RMSNorm", ("hidden_size",), ("eps",)),
        ("layers/linear.py", "ReplicatedLinear", ("input_size", "output_size"), ("bias", "prefix")),
        ("layers/logits_processor.py", "LogitsProcessor", ("config",), ()),
        (
            "layers/logits_processor.py",
            "LogitsProcessor.forward",
            ("input_ids", "hidden_states", "lm_head", "logits_metadata", "aux_hidden_states"),
            (),
        ),
        ("layers/vocab_parallel_embedding.py", "VocabParallelEmbedding", _TABLE, ("prefix",)),
        ("layers/vocab_parallel_embedding.py", "ParallelLMHead", _TABLE, ("quant_config", "prefix")),
        ("layers/moe/ep_moe/layer.py", "get_moe_impl_class", ("quant_config",), ()),
        ("layers/moe/fused_moe_triton/layer.py", "FusedMoE", (), _EXPERTS),
        ("layers/moe/topk.py", "StandardTopKOutput", ("topk_weights", "topk_ids", "router_logits"), ()),
        ("model_loader/weight_utils.py", "default_weight_loader", ("param", "loaded_weight"), ()),
        ("distributed/communication_op.py", "tensor_model_parallel_all_reduce", ("input_",), ()),
        ("runtime_context.py", "get_parallel", (), ()),
        ("utils/common.py", "add_prefix", ("name", "prefix"), ()),
    ),
    "plugin": (
        ("plugins/hook_registry.py", "HookRegistry.register", ("target", "hook", "hook_type"), ()),
        ("plugins/hook_registry.py", "HookType", (), ()),
        ("speculative/eagle_utils.py", "organize_draft_results", ("score_list", "token_list", "parents_list"), ()),
        ("speculative/eagle_utils.py", "eagle_sample", ("verify_input", "batch", "logits_output"), ()),
        (
            "speculative/eagle_worker_common.py",
            "build_eagle_verify_input",
            ("batch", "draft_input", "parent_list", "top_scores_index"),
            ("topk",),
        ),
    ),
    "native": tuple(
        (file, f"{name}.{method}", (), ())
        for file, name in (
            ("layers/layernorm.py", "RMSNorm"),
            ("layers/layernorm.py", "GemmaRMSNorm"),
            ("layers/activation.py", "SiluAndMul"),
            ("layers/activation.py", "GeluAndMul"),
            ("layers/rotary_embedding/base.py", "RotaryEmbedding"),
        )
        for method in ("forward_cuda", "forward_native")
    ),
}
"""Part of HetSpec -> file below `sglang/srt`, name, first parameters in order, parameters anywhere."""


@dataclass(frozen=True)
class Installed:
    """An installed SGLang.

    Attributes:
        version: as it reports it.
        classes: where it differs from what HetSpec's model classes call; empty = it fits.
        plugin: where it differs from what the tree plugin calls.
        native: where it differs from what the hooks for float32 call.
    """

    version: str
    classes: tuple[str, ...] = ()
    plugin: tuple[str, ...] = ()
    native: tuple[str, ...] = ()


def read_answer(text: str) -> Installed:
    """Parse what the program of `question` printed.

    Raises:
        ValueError: it is no such answer.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("version"), str):
        raise ValueError("no version of SGLang")
    return Installed(found["version"], **{part: tuple(map(str, found[part])) for part in NEEDS})


NEWER_PYTHON = "install SGLang for Python 3.11 or newer; HetSpec starts it with -P, so that no module of the present \
folder is imported"


def is_too_old(stderr: str) -> bool:
    """Whether a Python refused `-P`, which came with 3.11."""
    return "nknown option: -P" in stderr


def question() -> str:
    """A program for SGLang's interpreter (`python -c`) that prints an answer."""
    return Path(__file__).read_text(encoding="utf-8")


def differences(package: Path, part: str, parse: Callable[[str], ast.Module] = ast.parse) -> list[str]:
    """Where an SGLang differs from what a part of HetSpec calls; none = it fits.

    Args:
        package: directory of the package `sglang`.
        part: one of `NEEDS`.
        parse: parses a file; in a process with threads `hetspec_core.documents.parse_module`.
    """
    found: list[str] = []
    for file, name, first, anywhere in NEEDS[part]:
        path = package / "srt" / file
        try:
            tree = parse(path.read_text(encoding="utf-8-sig"))
        except (OSError, SyntaxError, ValueError) as error:
            found.append(f"srt/{file} cannot be read ({type(error).__name__})")
            continue
        parameters = _parameters(tree, name)
        if parameters is None:
            found.append(f"srt/{file} has no {name}")
            continue
        lacking = [each for each in (*first, *anywhere) if each not in parameters]
        if lacking:
            found.append(f"{name} of srt/{file} does not take {', '.join(lacking)}")
        elif tuple(parameters[: len(first)]) != first:
            found.append(f"{name} of srt/{file} takes its parameters in another order")
    return found


def _parameters(tree: ast.Module, name: str) -> list[str] | None:
    """Parameters of a function, method or class (of `__init__`, or the fields of a tuple); None = it does not exist."""
    owner, _, method = name.partition(".")
    node = _named(tree.body, owner)
    if isinstance(node, ast.ClassDef):
        function = _named(node.body, method or "__init__")
        if function is None and not method:
            fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
            return [target.id for target in fields if isinstance(target, ast.Name)]
        node = function
    if not isinstance(node, ast.FunctionDef):
        return None
    given = node.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names[1:] if names and names[0] in ("self", "cls") else names


def _named(body: list[ast.stmt], name: str) -> ast.stmt | None:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
    return None


def _answer() -> dict[str, object]:
    """Version of the SGLang that this interpreter imports, and where it differs."""
    import importlib.metadata
    import importlib.util

    found: dict[str, object] = {"version": importlib.metadata.version("sglang")}
    place = importlib.util.find_spec("sglang")
    package = next(iter(place.submodule_search_locations or ()), "") if place is not None else ""
    return found | {part: differences(Path(package), part) for part in NEEDS}


if __name__ == "__main__":
    print(json.dumps(_answer()))
