"""Checks over several keys: whether base, draft, algorithm and settings fit each other and the cards.

Each check gives sentences with the dotted key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hetspec_core.catalog import Card, list_cards, load_card
from hetspec_core.errors import NotFoundError
from hetspec_core.spec import Architecture, BaseSpec, DraftSpec
from hetspec_core.spec.decode import Problem

_SHARED_BY_LAYERS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)


def find_card(axis: str, name: str, key: str) -> tuple[Card | None, list[Problem]]:
    """A card, or the problem that the name under `key` has none."""
    try:
        return load_card(axis, name), []
    except NotFoundError as error:
        return None, [Problem(key, error.message)]


def cross_check(parts: Mapping[str, Any], *, stage: str, algorithm: Card | None) -> list[Problem]:
    """Every problem between parts.

    Args:
        parts: section name -> its spec, for the sections that could be decoded; `draft` is absent or None without one.
        stage: the stage that the spec is for.
        algorithm: card of the algorithm, if there is one of that name.
    """
    base, draft = parts.get("base"), parts.get("draft")
    problems = list(_needs_draft(parts, stage)) if "draft" in parts and "decoding" in parts else []
    if base is not None:
        problems += _heads("base", base.architecture)
        problems += _lengths(parts, base)
        problems += _captured_layers(parts, base)
    if draft is not None:
        problems += _heads("draft", draft.architecture)
        problems += _experts(draft.architecture)
        problems += _backbone(draft)
        problems += _tied_norms(parts, draft, algorithm)
    if base is not None and draft is not None:
        problems += _pair(base, draft, algorithm)
    if base is not None:
        problems += _draft_vocabs(parts, base.architecture.vocab_size)
        problems += _trees(parts, _draft_vocabulary(base, draft))
    if "resources" in parts and parts["resources"].max_memory and stage in ("dataset", "train"):
        text = f"spreads the base over GPUs, and stage {stage} has a worker with all of it on each; leave it out"
        problems.append(Problem("resources.max_memory", text))
    if "dataset" in parts and parts["dataset"].format != "auto":
        problems += find_card("formats", parts["dataset"].format, "dataset.format")[1]
    return problems


def add_captured_layers(parts: dict[str, Any], algorithm: Card | None) -> list[Problem]:
    """Let the dataset store what the algorithm reads of the base, whatever else it stores."""
    base, dataset = parts.get("base"), parts.get("dataset")
    if algorithm is None or base is None or dataset is None:
        return []
    number = base.architecture.num_hidden_layers
    wanted = algorithm.captured_layers(parts["algorithm"].options, number)
    wrong = [layer for layer in wanted if not 0 <= layer < number]
    if wrong:
        text = f"has {', '.join(map(str, wrong))}; the base has 0 (embeddings) to {number - 1}"
        return [Problem("algorithm.options.layers", text)]
    missing = sorted(set(wanted) - set(dataset.layers))
    if missing:
        parts["dataset"] = dataset.model_copy(update={"layers": (*dataset.layers, *missing)})
    return []


def _needs_draft(parts: Mapping[str, Any], stage: str) -> Iterator[Problem]:
    card = load_card("stages", stage)
    needed = card.capabilities.get("needs_draft", False)
    if parts["draft"] is None and needed and not (needed == "unless plain" and parts["decoding"].plain):
        way_out = ", or set decoding.plain = true" if needed == "unless plain" else ""
        yield Problem("draft", f"there is none, and stage {stage} needs one; name a draft preset{way_out}")


def _heads(part: str, sizes: Architecture) -> Iterator[Problem]:
    key = f"{part}.architecture"
    heads, groups = sizes.num_attention_heads, sizes.num_key_value_heads
    if heads % groups:
        yield Problem(f"{key}.num_key_value_heads", f"is {groups}; needs a divisor of num_attention_heads = {heads}")
    width = head_width(sizes)
    if sizes.head_dim is None and sizes.hidden_size % heads:
        text = f"is {heads}; needs a divisor of hidden_size = {sizes.hidden_size}, or a head_dim of its own"
        yield Problem(f"{key}.num_attention_heads", text)
    elif width % 2:
        yield Problem(f"{key}.head_dim", f"is {width}; needs an even number, which the rotary embedding turns in pairs")
    if (sizes.num_experts or 0) < (sizes.num_experts_per_tok or 0):
        text = f"is {sizes.num_experts_per_tok}; needs at most num_experts = {sizes.num_experts or 0}"
        yield Problem(f"{key}.num_experts_per_tok", text)


def _experts(sizes: Architecture) -> Iterator[Problem]:
    """Experts without compute and shared ones; their kinds are those of `engine.modeling.experts`."""
    key, total = "draft.architecture.extra", sizes.num_experts or 0
    zero, shared = sizes.extra.get("zero_compute_experts", 0), sizes.extra.get("shared_experts", 0)
    if (zero or shared) and not total:
        yield Problem(key, "has experts without compute or shared ones; needs num_experts in draft.architecture")
    elif not isinstance(zero, int) or not 0 <= zero < max(1, total):
        yield Problem(f"{key}.zero_compute_experts", f"is {zero}; needs 0 to {total - 1} of num_experts = {total}")
    if not isinstance(shared, int) or shared < 0:
        yield Problem(f"{key}.shared_experts", f"is {shared}; needs a whole number >= 0")
    kind, share = sizes.extra.get("zero_expert_kind", "identity"), sizes.extra.get("zero_expert_share", 0.0)
    if kind not in ("identity", "zero", "constant"):
        yield Problem(f"{key}.zero_expert_kind", f"is {kind!r}; needs identity, zero or constant")
    if isinstance(share, str) or not 0 <= share < 1:
        yield Problem(f"{key}.zero_expert_share", f"is {share!r}; needs a number from 0 to below 1")


def head_width(sizes: Architecture) -> int:
    """Width of one attention head: head_dim, or hidden_size / heads when it is absent."""
    return sizes.head_dim or sizes.hidden_size // sizes.num_attention_heads


def _backbone(draft: DraftSpec) -> Iterator[Problem]:
    card, problems = find_card("backbones", draft.backbone, "draft.backbone")
    yield from problems
    if card is None:
        return
    family = card.capabilities.get("model_type")
    seen = draft.architecture.model_type
    if family is not None and seen != family:
        fitting = [other.name for other in list_cards("backbones") if other.capabilities.get("model_type") == seen]
        way_out = f"; set draft.backbone = '{fitting[0]}'" if fitting else ""
        yield Problem("draft.architecture.model_type", f"is '{seen}'; backbone '{card.name}' needs '{family}'{way_out}")
    if draft.architecture.num_experts and card.capabilities.get("experts") is False:
        text = f"is {draft.architecture.num_experts}; backbone '{card.name}' is dense and has no experts"
        yield Problem("draft.architecture.num_experts", text)


def _tied_norms(parts: Mapping[str, Any], draft: DraftSpec, algorithm: Card | None) -> Iterator[Problem]:
    base, layers = parts.get("base"), draft.architecture.num_hidden_layers
    if draft.tie_layer_norms and layers < 2:
        yield Problem("draft.tie_layer_norms", "is true, and the draft has one layer; needs at least 2, or false")
    if draft.tie_layer_norms and "training" in parts and parts["training"].strategy == "fsdp":
        yield Problem("draft.tie_layer_norms", "is true; strategy 'fsdp' cuts up layer by layer and needs false")
    if not draft.tie_output_norm:
        return
    owned = algorithm is not None and algorithm.capabilities.get("owns_output_norm", False)
    if draft.skip_output_norm and not owned:
        yield Problem(
            "draft.tie_output_norm", "is true, and there is no such norm; needs draft.skip_output_norm = false"
        )
    ours, theirs = draft.architecture.hidden_size, None if base is None else base.architecture.hidden_size
    if theirs not in (None, ours):
        yield Problem("draft.tie_output_norm", f"is true; needs the base's hidden_size {theirs}, the draft's is {ours}")


def _pair(base: BaseSpec, draft: DraftSpec, algorithm: Card | None) -> Iterator[Problem]:
    ours, theirs = draft.architecture, base.architecture
    if ours.vocab_size > theirs.vocab_size:
        text = f"is {ours.vocab_size}; needs at most the base's {theirs.vocab_size}"
        yield Problem("draft.architecture.vocab_size", text)
    if draft.vocab_size is not None and draft.vocab_size > theirs.vocab_size:
        text = f"is {draft.vocab_size}; needs at most the base's vocabulary of {theirs.vocab_size}"
        yield Problem("draft.vocab_size", text)
    if draft.init == "base_last_layers" and draft.checkpoint is None:
        if algorithm is not None and not algorithm.capabilities.get("base_last_layers"):
            yield Problem("draft.init", f"is 'base_last_layers'; algorithm '{algorithm.name}' needs 'random'")
        yield from _last_layers(base.architecture, draft)


def _last_layers(theirs: Architecture, draft: DraftSpec) -> Iterator[Problem]:
    ours = draft.architecture
    if ours.num_hidden_layers > theirs.num_hidden_layers:
        text = f"is {ours.num_hidden_layers}; the base has {theirs.num_hidden_layers} layers to start from"
        yield Problem("draft.architecture.num_hidden_layers", text)
    different = [
        f"{name} {mine} there {base}"
        for name in _SHARED_BY_LAYERS
        if (mine := _layer_size(ours, name)) != (base := _layer_size(theirs, name))
    ]
    if different:
        text = f"is 'base_last_layers', but the layers differ from the base's ({', '.join(different)}); needs 'random'"
        yield Problem("draft.init", text)


def _layer_size(sizes: Architecture, name: str) -> object:
    return head_width(sizes) if name == "head_dim" else getattr(sizes, name)


def _draft_vocabulary(base: BaseSpec, draft: DraftSpec | None) -> int:
    return (draft.vocab_size if draft is not None else None) or base.architecture.vocab_size


def _draft_vocabs(parts: Mapping[str, Any], vocabulary: int) -> Iterator[Problem]:
    for key, size in _asked_vocabs(parts):
        if isinstance(size, int) and size > vocabulary:
            yield Problem(key, f"is {size}; needs at most the base's vocabulary of {vocabulary}")


def _asked_vocabs(parts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Key and value of every draft vocabulary that is named."""
    asked = [("decoding.draft_vocab", parts["decoding"].draft_vocab)] if "decoding" in parts else []
    for section in ("bench", "tune"):
        sizes = parts[section].draft_vocabs if section in parts else ()
        asked += [(f"{section}.draft_vocabs.{index}", size) for index, size in enumerate(sizes)]
    return asked


def _trees(parts: Mapping[str, Any], vocabulary: int) -> Iterator[Problem]:
    trees = [("decoding.tree.top_k", parts["decoding"].tree)] if "decoding" in parts else []
    if "bench" in parts:
        trees += [(f"bench.trees.{index}.top_k", tree) for index, tree in enumerate(parts["bench"].trees)]
    for key, tree in trees:
        if not tree.auto and tree.top_k > vocabulary:
            yield Problem(key, f"is {tree.top_k}; needs at most the draft's vocabulary of {vocabulary}")
    for key, size in _asked_vocabs(parts):
        widest = max((tree.top_k for _, tree in trees if not tree.auto), default=0)
        if isinstance(size, int) and size < widest <= vocabulary:
            yield Problem(key, f"is {size}; needs at least the top_k of every tree, {widest}")


def _lengths(parts: Mapping[str, Any], base: BaseSpec) -> Iterator[Problem]:
    longest = base.architecture.max_position_embeddings
    for section, name in (("dataset", "max_length"), ("training", "max_length"), ("decoding", "max_new_tokens")):
        seen = getattr(parts[section], name) if section in parts else 0
        if seen > longest:
            yield Problem(f"{section}.{name}", f"is {seen}; the base's context has {longest} tokens")


def _captured_layers(parts: Mapping[str, Any], base: BaseSpec) -> Iterator[Problem]:
    if "dataset" not in parts:
        return
    layers, count = parts["dataset"].layers, base.architecture.num_hidden_layers
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong:
        text = f"has {', '.join(map(str, wrong))}; the base has 0 (embeddings) to {count - 1} besides the final state"
        yield Problem("dataset.layers", text)
    if len(set(layers)) != len(layers):
        yield Problem("dataset.layers", f"is {list(layers)}; each layer may be named once")
