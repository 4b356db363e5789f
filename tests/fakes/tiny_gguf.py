"""An importable package that holds a GGUF file of a tiny Llama, as packages ship small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hetspec_core.spec import PackageSource

PACKAGE = "tiny_gguf_package"
SOURCE = PackageSource(package=PACKAGE, file="tiny.gguf", requirement="tiny-gguf-package==1.0")
_WIDTH, _INNER, _HEADS, _KV_HEADS, _LAYERS = 64, 64, 2, 1, 1
_TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "abc"]


def write_package(site: Path, *, seed: int = 0, tokenizer: dict[str, Any] | None = None) -> Path:
    """Write the package into `site`, which the caller puts on the import path; returns the GGUF file.

    Args:
        site: the folder for packages.
        seed: of the weights.
        tokenizer: values of a SentencePiece tokenizer by their names below `tokenizer.ggml.`; None = a small BPE.
    """
    tokens = tokenizer["tokens"] if tokenizer else _TOKENS
    folder = site / PACKAGE
    folder.mkdir(parents=True)
    # Importing it must never be needed: only its place is asked for.
    (folder / "__init__.py").write_text("raise ImportError('this package needs something that is not here')\n")
    file = folder / SOURCE.file
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(tokens)
    if tokenizer:
        writer.add_tokenizer_model(tokenizer["model"])
        writer.add_token_scores(tokenizer["scores"])
        writer.add_token_types(tokenizer["token_type"])
        writer.add_add_space_prefix(tokenizer["add_space_prefix"])
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
        writer.add_token_merges(["a b", "ab c"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(seed)
    kv_width = _WIDTH // _HEADS * _KV_HEADS
    shapes = {"token_embd": (len(tokens), _WIDTH), "output": (len(tokens), _WIDTH), "output_norm": (_WIDTH,)}
    for layer in range(_LAYERS):
        names = {
            "attn_q": (_WIDTH, _WIDTH),
            "attn_k": (kv_width, _WIDTH),
            "attn_v": (kv_width, _WIDTH),
            "attn_output": (_WIDTH, _WIDTH),
            "ffn_gate": (_INNER, _WIDTH),
            "ffn_up": (_INNER, _WIDTH),
            "ffn_down": (_WIDTH, _INNER),
            "attn_norm": (_WIDTH,),
            "ffn_norm": (_WIDTH,),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in names.items()}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 2 and name.startswith("blk"):
            quantised = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(f"{name}.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
