"""Building and loading drafts: from a spec, and from a draft directory in any layout (`layouts`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.engine.modeling.backbones import (
    HFBackbone,
    NormTies,
    backbone_config,
    take_final_norm,
    without_older_keys,
)
from hetspec_core.engine.modeling.base_lm import BaseLM, FrozenEnds
from hetspec_core.engine.modeling.device_map import Room, block_bytes, move_parts, place_layers, weight_bytes
from hetspec_core.engine.modeling.draft_files import (
    ACCEPTANCE_RATES,
    VOCAB_KEY,
    DraftFiles,
    LoadReport,
    StoredDraft,
    check_finite,
    native_names,
    parameters_and_buffers,
)
from hetspec_core.engine.modeling.draft_lm import DraftHead, DraftLM, DraftVocab, HeadSizes
from hetspec_core.engine.modeling.token_counts import read_token_counts
from hetspec_core.engine.reporting import first_line
from hetspec_core.errors import CheckpointError, ModelError, NotFoundError
from hetspec_core.spec import AlgorithmSpec, DraftSpec

Part = TypeVar("Part")


def build_draft(
    spec: DraftSpec, algorithm: AlgorithmSpec, base: BaseLM, *, seed: int = 0, vocab: Tensor | None = None
) -> DraftLM:
    """A new draft, initialised as its spec says and bound to the base.

    Args:
        spec: sizes, number of layers and the way of initialisation.
        algorithm: names the head.
        base: gives embedding, head and, for `base_last_layers`, the last decoder layers.
        seed: of the random weights.
        vocab: [Vd] sorted base token ids of a reduced vocabulary.

    Raises:
        ModelError: draft and base do not fit, or the base's last layers have another shape.
    """
    if spec.architecture.vocab_size != base.vocab_size:
        raise ModelError(
            f"draft {spec.name} has vocab_size {spec.architecture.vocab_size}, base {base.name} has {base.vocab_size}",
            hint='set draft.architecture.vocab_size = "base.vocab_size"',
        )
    card = load_card("algorithms", algorithm.name)
    kind: type[DraftHead] = card.load_capability("head")
    sizes = HeadSizes(
        hidden_size=spec.architecture.hidden_size,
        base_hidden_size=base.hidden_size,
        base_layers=base.num_layers,
        vocab_size=base.vocab_size if vocab is None else vocab.numel(),
        norm_eps=spec.architecture.rms_norm_eps,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = kind.build(card.check_options(algorithm.options), sizes)
        backbone = _backbone_class(spec.backbone)(
            backbone_config(spec.architecture, spec.architecture.num_hidden_layers),
            skip_first_input_norm=spec.skip_first_input_norm,
            skip_output_norm=spec.skip_output_norm or kind.owns_output_norm,
            **_pair_options(head),
        )
    backbone.card_name = spec.backbone
    reduced = DraftVocab(vocab, base.vocab_size) if vocab is not None else None
    draft = DraftLM(backbone, head, vocab=reduced, ties=NormTies(spec.tie_layer_norms, spec.tie_output_norm))
    if spec.tie_output_norm:
        take_final_norm(draft.output_norm, base.decoder)
    if spec.init == "base_last_layers":
        head.pass_feature_through()
        _copy_last_layers(base, draft)
    draft.bind(base)
    head.start_output_head(draft.ends, vocab)
    return draft


def _backbone_class(name: str) -> type[HFBackbone]:
    return load_card("backbones", name).load()


def _pair_options(head: DraftHead) -> dict[str, bool]:
    if not head.reads_pairs:
        return {}
    return {"pair_input": True, "norm_before_residual": bool(head.settings.get("norm_before_residual", False))}


def _copy_last_layers(base: BaseLM, draft: DraftLM) -> None:
    """Copy the base's last layers into the backbone, tensor by tensor; the first layer may lack its input norm."""
    if not hasattr(base.decoder, "layers"):
        raise ModelError(
            f"cannot start from the base's last layers: {type(base.decoder).__name__} has no `layers`",
            hint="set draft.init = 'random'",
        )
    source, target = base.decoder.layers, draft.backbone.layers
    if len(source) < len(target):
        raise ModelError(
            f"the base has {len(source)} layers, the draft {len(target)}", hint="set draft.init = 'random'"
        )
    for have, want in zip(list(source)[len(source) - len(target) :], target, strict=True):
        tensors = have.state_dict()
        for name, parameter in want.named_parameters():
            given = tensors.get(name)
            if given is None or given.shape != parameter.shape:
                seen = "is missing" if given is None else f"has shape {list(given.shape)}"
                raise ModelError(
                    f"cannot start from the base's last layers: {name} {list(parameter.shape)} {seen} there",
                    hint="set draft.init = 'random', or give the draft the base's architecture",
                )
            with torch.no_grad():
                parameter.copy_(given)


def load_draft(folder: Path | str, base: BaseLM, *, dtype: torch.dtype | None = None) -> DraftLM:
    """Load a draft directory in any layout and bind it to a base, on the base's device or devices.

    Args:
        folder: the draft directory.
        base: what it drafts for.
        dtype: type of the weights; the base's when absent. Training uses float32.

    Raises:
        CheckpointError: a file is missing, truncated, or has tensors that do not fit.
        ModelError: hidden size or vocabulary differ from the base's, or it reads a layer that the base does not have.
        ResourceError: it does not fit into the memory that a base on several devices leaves.
    """
    stored = read_draft(folder, base_layers=base.num_layers).stored
    check_captured_layers(stored, base.num_layers, base_name=base.name, folder=Path(folder))
    draft = assemble_draft(stored, base.ends, base_name=base.name, folder=Path(folder))
    draft.token_counts = read_token_counts(Path(folder))
    draft.acceptance_rates = _rates(stored.settings)
    draft = draft.to(dtype or base.dtype).eval()
    if base.room is None:
        return draft.to(base.device)
    place_draft(draft, base.room)
    return draft


def place_draft(draft: DraftLM, room: Room) -> list[torch.device]:
    """Move a draft's layers into the memory that the base leaves, the first device first; inputs follow.

    Returns:
        The device of each layer.

    Raises:
        ResourceError: the draft does not fit.
    """
    layers = draft.backbone.layers
    # Layers that share their norms are one block: a tensor has one device.
    blocks = [list(layers)] if draft.ties.layers else [[layer] for layer in layers]
    inside = {id(parameter) for parameter in layers.parameters()}
    ends = sum(weight_bytes(parameter) for parameter in draft.parameters() if id(parameter) not in inside)
    ends += sum(map(weight_bytes, draft.copied_rows))
    sizes = [block_bytes(block) for block in blocks]
    placed = place_layers(sizes, ends, room.left(), what="the draft beside the base", from_last=False)
    move_parts(draft, draft.backbone.decoder, blocks, placed, ends, room)
    return [room.device(index) for index, block in zip(placed, blocks, strict=True) for _ in block]


def check_captured_layers(stored: StoredDraft, base_layers: int, *, base_name: str, folder: Path) -> None:
    """Raises ModelError for a draft that reads a layer which a base of `base_layers` decoder layers does not have."""
    layers = [int(layer) for layer in stored.settings.get("captured_layers") or ()]
    wrong = [layer for layer in layers if not 0 <= layer <= base_layers]
    if wrong:
        raise ModelError(
            f"the draft in {folder} reads layer {', '.join(map(str, wrong))} of its base; base {base_name} has layers "
            f"0 (embeddings) to {base_layers}",
            hint="use it with the base that it was made for, or correct the layer ids in its config.json",
        )


def assemble_draft(stored: StoredDraft, ends: FrozenEnds, *, base_name: str, folder: Path) -> DraftLM:
    """The module of a stored draft with its tensors, bound to the ends of a base.

    Args:
        stored: configuration, settings and tensors.
        ends: embedding and head of the base.
        base_name: of the base, for errors.
        folder: where the draft came from, for errors.

    Raises:
        CheckpointError: a tensor is missing, left over, or of another shape than its place.
        ModelError: hidden size or vocabulary differ from the base's.
    """
    settings, tensors = stored.settings, dict(stored.tensors)
    vocab_ids = tensors.pop(VOCAB_KEY, None)
    device = ends.head.weight.device
    vocab = None if vocab_ids is None else DraftVocab(vocab_ids.to(device), stored.base_vocab_size)
    kind, head_settings = _head_of(settings, folder)
    if head_settings["base_size"] != ends.hidden_size:
        raise ModelError(
            f"the draft in {folder} is for a base of hidden size {head_settings['base_size']}, base {base_name} has "
            f"{ends.hidden_size}",
            hint="use a draft that was made for this base",
        )
    check_finite(tensors, folder)

    def parts() -> tuple[HFBackbone, DraftHead]:
        head = _built(lambda: kind(**head_settings), folder)
        backbone = _build_backbone(
            stored.config,
            folder,
            _backbone_class(settings.get("backbone", "hf")),
            skip_first_input_norm=settings.get("skip_first_input_norm", True),
            skip_output_norm=settings.get("skip_output_norm", True),
            **_pair_options(head),
        )
        backbone.card_name = settings.get("backbone", "hf")
        return backbone, head

    with torch.device("meta"):  # sizes that do not fit the tensors are found before any memory is spent on them
        shadow, shadow_head = parts()
        _refuse(_misfits(parameters_and_buffers(shadow_head) | parameters_and_buffers(shadow.decoder), tensors), folder)
    backbone, head = parts()
    ties = NormTies(bool(settings.get("tie_layer_norms", False)), bool(settings.get("tie_output_norm", False)))
    draft = DraftLM(backbone, head, vocab=vocab, ties=ties)
    _fill(draft, tensors, folder)
    return draft.bind(ends)


def read_draft(folder: Path | str, *, base_layers: int | None = None) -> LoadReport:
    """Read a draft directory in any layout.

    Args:
        folder: HetSpec's own layout, or one of `hetspec_core.engine.modeling.layouts`.
        base_layers: number of the base's decoder layers, where it is known.

    Raises:
        CheckpointError: there is no draft, or it is damaged.
        ModelError: it needs a feature that HetSpec does not have.
    """
    files = DraftFiles(Path(folder))
    try:
        for card in list_cards("layouts"):
            layout = card.load()()
            if layout.recognises(files):
                return layout.read(files, base_layers)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"the draft in {folder} has a value of a wrong type in config.json or its tensors: {first_line(error)}",
            hint="fetch or write the draft again",
        ) from error
    named = files.architecture or "an unnamed"
    known = ", ".join(card.name for card in list_cards("layouts"))
    raise CheckpointError(
        f"{folder} is {named} checkpoint by its config.json; layouts that can be read: {known}",
        hint="see docs/drafts.md",
    )


def read_settings(folder: Path | str) -> dict[str, Any]:
    """The `hetspec` block of a draft directory; empty for foreign checkpoints."""
    found = DraftFiles(Path(folder)).config.get("hetspec", {})
    return found if isinstance(found, dict) else {}


def _rates(settings: dict[str, Any]) -> tuple[float, ...]:
    """The simulated rates of acceptance that a draft was saved with; none where they are not there, or no rates.

    They only say where an estimate begins, so that what cannot be read is left out.
    """
    rates = settings.get(ACCEPTANCE_RATES)
    if not isinstance(rates, list) or not all(isinstance(rate, int | float) and 0 <= rate <= 1 for rate in rates):
        return ()
    return tuple(float(rate) for rate in rates)


def _head_of(settings: dict[str, Any], folder: Path) -> tuple[type[DraftHead], dict[str, Any]]:
    """The head's class and the arguments of its constructor."""
    algorithm = settings.get("algorithm") or {"name": "eagle"}
    try:
        kind = load_card("algorithms", str(algorithm["name"])).load_capability("head")
    except (NotFoundError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the draft in {folder} was made by an algorithm that is not here: {error}",
            hint="install the package that registers it; `hetspec-core catalog algorithms` shows what there is",
        ) from error
    recorded = settings.get("head")
    if not isinstance(recorded, dict) or "base_size" not in recorded:
        raise CheckpointError(
            f"{folder / 'config.json'}: hetspec.head is not a table of a head's settings",
            hint="fetch or write the draft again",
        )
    return kind, dict(recorded)


def _misfits(wanted: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[str]:
    """Where tensors of a file do not fit the parameters of a draft, one entry for each name."""
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"{name} has no place" for name in sorted(tensors.keys() - wanted.keys())]
    return problems + [
        f"{name} has shape {list(tensors[name].shape)}, its place {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]


def _refuse(problems: list[str], folder: Path) -> None:
    if problems:
        raise CheckpointError(
            f"the tensors in {folder} do not fit its config.json: {'; '.join(problems[:6])}"
            + (f" and {len(problems) - 6} more" if len(problems) > 6 else ""),
            hint="check that config.json and the weights belong together",
        )


def _fill(draft: DraftLM, tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy every tensor into its parameter; raises CheckpointError for a missing or an extra one."""
    wanted = native_names(draft)
    problems = _misfits(wanted, tensors)
    first: dict[Tensor, str] = {}
    for name, parameter in draft.backbone.decoder.named_parameters(remove_duplicate=False):  # tied ones have several
        tied = first.setdefault(parameter, name)
        if tied != name and {tied, name} <= tensors.keys() and not torch.equal(tensors[tied], tensors[name]):
            problems.append(f"{name} is tied to {tied} and differs from it")
    _refuse(problems, folder)
    with torch.no_grad():
        for name, place in wanted.items():
            place.copy_(tensors[name])


def _build_backbone(record: dict[str, Any], folder: Path, kind: type[HFBackbone], **options: bool) -> HFBackbone:
    from transformers import AutoConfig

    record = copy.deepcopy(without_older_keys(record))  # a configuration changes the tables that it is given
    values = {key: value for key, value in record.items() if key not in ("hetspec", "model_type", "architectures")}
    values.pop("transformers_version", None)
    values.pop("dtype", None)
    values.pop("torch_dtype", None)
    return _built(lambda: kind(AutoConfig.for_model(record["model_type"], **values), **options), folder)


def _built(build: Callable[[], Part], folder: Path) -> Part:
    """The result of `build`; an error of it means a wrong configuration in the directory."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return build()
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        StrictDataclassError,
    ) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} describes no architecture of a draft: {first_line(error)}",
            hint="see `hetspec-core catalog backbones`",
        ) from error
