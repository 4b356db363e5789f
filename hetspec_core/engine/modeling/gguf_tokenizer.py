"""The tokenizer that a GGUF file holds: its token list with scores or merges, built as llama.cpp reads them.

Two kinds occur in language models. SentencePiece BPE (`tokenizer.ggml.model = llama`) joins the neighbours whose union
has the highest score. Byte-level BPE (`gpt2`) applies a list of merges to pieces of text, cut by a regular expression
that `tokenizer.ggml.pre` names. It knows the file format, not models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetspec_core.errors import ModelError

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # values of tokenizer.ggml.token_type
_NO_MERGE = frozenset((_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE))
_SPACE = "\u2581"  # SentencePiece's sign for a space

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",)
_DIGITS = (r"\p{N}", *_GPT2)
_LLAMA3 = (_CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL,)
_QWEN2 = (_CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL,)
_QWEN35 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}" + _CASED_TAIL,)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    r"|\p{N}{1,3}" + _CASED_TAIL,
)
_PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {
    name: expressions
    for expressions, names in (
        (_GPT2, "gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling exaone4"),
        (_DIGITS, "starcoder refact command-r smollm codeshell exaone minerva-7b"),
        (
            _LLAMA3,
            "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe chatglm-bpe glm4 glm5",
        ),
        (_QWEN2, "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan grok-2 solar-open"),
        (_QWEN35, "qwen35"),
        (_DEEPSEEK3, "deepseek-v3 hunyuan-dense joyai-llm"),
        (_TEKKEN, "tekken"),
        (_GPT4O, "gpt-4o llama4 kanana2"),
    )
    for name in names.split()
}
_BEGIN = frozenset(["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"])
"""Pre-tokenizers with which a bos token is put first unless the file says no."""
_WHOLE_WORDS = _BEGIN | {"glm4", "glm5"}
"""Pre-tokenizers whose pieces are looked up as a whole before merges are applied."""


def read_tokenizer_keys(file: Path) -> dict[str, Any]:
    """The values of a GGUF file below `tokenizer.`, by the rest of their names, without `ggml.` too."""
    from gguf import GGUFReader

    keys = {}
    for name, entry in GGUFReader(file).fields.items():
        if name.startswith("tokenizer."):
            keys[name.removeprefix("tokenizer.").removeprefix("ggml.")] = entry.contents()
    return keys


def build_tokenizer(keys: Mapping[str, Any]) -> Any:
    """A fast Hugging Face tokenizer of what a GGUF file says.

    Args:
        keys: from `read_tokenizer_keys`.

    Raises:
        ModelError: the file has no token list, or a kind of tokenizer or pre-tokenizer that is not known.
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    tokens, types = _tokens(keys)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    match keys.get("model"):
        case "llama":
            tokenizer = _sentence_piece(keys, vocabulary, types)
        case "gpt2":
            tokenizer = _byte_level(keys, vocabulary)
        case other:
            raise ModelError(f"the file has a tokenizer of kind {other!r}; known are llama and gpt2")
    for special, kinds in ((True, (_UNKNOWN, _CONTROL)), (False, (_USER_DEFINED,))):
        added = [token for token, kind in zip(tokens, types, strict=True) if kind in kinds]
        items = [AddedToken(token, normalized=False, special=special) for token in added]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(items)
    names = {
        f"{name}_token": tokens[number]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if isinstance(number := keys.get(f"{key}_token_id"), int) and 0 <= number < len(tokens)
    }
    ends = {"bos": keys.get("model") == "llama" or keys.get("pre") in _BEGIN, "eos": False}
    parts, used = ["$A:0"], []
    for end, at in (("bos", 0), ("eos", len(parts) + 1)):
        token = names.get(f"{end}_token")
        if token is not None and keys.get(f"add_{end}_token", ends[end]):
            parts.insert(at, f"{token}:0")
            used.append((token, vocabulary[token]))
    if used:
        tokenizer.post_processor = processors.TemplateProcessing(single=parts, special_tokens=used)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
    if isinstance(template := keys.get("chat_template"), str):
        fast.chat_template = template
    return fast


def _tokens(keys: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Names of the tokens, each of them once, and their types."""
    listed = keys.get("tokens")
    if not isinstance(listed, list) or not listed:
        raise ModelError("the file has no list of tokens")
    last = {token: number for number, token in enumerate(listed)}  # of several with one name, the last is meant
    tokens = [token if token and last[token] == number else f"[TOKEN_{number}]" for number, token in enumerate(listed)]
    types = [int(kind) for kind in keys.get("token_type") or [1] * len(tokens)]
    if len(types) != len(tokens):
        raise ModelError(f"the file has {len(tokens)} tokens and {len(types)} types of them")
    return tokens, types


def _sentence_piece(keys: Mapping[str, Any], vocabulary: dict[str, int], types: Sequence[int]) -> Any:
    """Neighbours are joined in the order of their union's score: as merges, each way to make a token ranked by it."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = keys.get("scores")
    if not isinstance(scores, list) or len(scores) != len(vocabulary):
        raise ModelError(f"the file has {len(vocabulary)} tokens and {len(scores or [])} scores of them")
    plain = {token: number for token, number in vocabulary.items() if types[number] not in _NO_MERGE}
    merges = []
    for token in sorted(plain, key=lambda token: -scores[plain[token]]):
        for cut in range(1, len(token)):
            if token[:cut] in plain and token[cut:] in plain:
                merges.append((token[:cut], token[cut:]))
    unknown = keys.get("unknown_token_id")
    names = list(vocabulary)
    model = models.BPE(
        vocab=vocabulary,
        merges=merges,
        unk_token=names[unknown] if isinstance(unknown, int) and 0 <= unknown < len(names) else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = bool(keys.get("add_space_prefix", True))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _byte_level(keys: Mapping[str, Any], vocabulary: dict[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    name = keys.get("pre")
    if name not in _PRE_TOKENIZERS:
        raise ModelError(f"the file names the pre-tokenizer {name!r}, which is not known")
    merges = []
    for line in keys.get("merges") or []:
        left, _, right = line[1:].partition(" ")  # the first sign may be a space itself
        merges.append((line[:1] + left, right))
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name in _WHOLE_WORDS)
    tokenizer = Tokenizer(model)
    cuts = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in _PRE_TOKENIZERS[name]]
    prefix = bool(keys.get("add_space_prefix", False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
