"""Why is a draft worse than in training? `python -m hetspec_core.engine.stages.draft_doctor DRAFT`.

Every property that training and decoding must agree on is checked. An earlier property affects the later ones, so the
first that does not hold is the one to correct.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from hetspec_core.catalog import load_card
from hetspec_core.engine.context import resolve_device
from hetspec_core.engine.data.chat import ChatTemplate, tokenizer_hash
from hetspec_core.engine.data.conversation import Message
from hetspec_core.engine.data.hidden_states import HiddenStateStore
from hetspec_core.engine.data.manifest import resolve_store
from hetspec_core.engine.modeling.backbones import take_final_norm
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import assemble_draft, read_draft
from hetspec_core.engine.modeling.draft_files import VOCAB_KEY, DraftFiles, LoadReport, not_finite
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.engine.reporting import answer
from hetspec_core.engine.stages.dataset_verify import LEAST_COSINE, compare_sample
from hetspec_core.engine.stages.draft_comparison import compare_copies, compare_modes
from hetspec_core.errors import HetSpecError
from hetspec_core.spec import BaseSpec, ResourcesSpec

State = Literal["ok", "wrong", "doubtful", "not checked"]
_TEXT = (Message("user", "What is the capital of France, and why?"), Message("assistant", "It is Paris."))
_MOST_TOKENS = 48
_FEW_ROWS = 0.01
"""Share of the vocabulary whose embeddings may differ: a fine-tune of the base has new rows for its new tokens."""


@dataclass(frozen=True)
class Finding:
    """The result of checking one property.

    Attributes:
        name: the property.
        state: wrong = decoding is not what training was; doubtful = it may be meant.
        seen: the observation.
        advice: what to do; may be empty.
    """

    name: str
    state: State
    seen: str
    advice: str = ""


@dataclass
class Patient:
    """The subject: a draft, its base, and the dataset that it was trained on, if one is named."""

    folder: Path
    reading: LoadReport
    base: BaseLM
    template: ChatTemplate
    store: HiddenStateStore | None
    samples: int = 4
    draft: DraftLM | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        return self.reading.stored.settings


def examine(folder: Path, base_spec: BaseSpec, dataset: Path | None, *, device: str = "cpu") -> dict[str, Any]:
    """Check every property. A check that raises counts as wrong with its message, and the next ones still run.

    Args:
        folder: the draft, in any layout.
        base_spec: its base.
        dataset: the hidden states that it was trained on, or None.
        device: auto, cpu or cuda.

    Raises:
        CheckpointError: the draft cannot be read.
        ModelError: the base is not on this machine.
        NotFoundError, CorruptFileError: the dataset cannot be opened.
    """
    reading = read_draft(folder, base_layers=base_spec.architecture.num_hidden_layers)
    where = resolve_device(ResourcesSpec.model_validate({"device": device}))
    base = BaseLM.load(base_spec, device=where, dtype=torch.float32)  # rounding would look like a fault
    template = ChatTemplate.for_tokenizer(base.tokenizer, base_spec.chat_template)
    store = HiddenStateStore([resolve_store(dataset)]) if dataset is not None else None
    patient = Patient(folder, reading, base, template, store)
    for name, check in CHECKS.items():
        try:
            patient.findings += [Finding(name, *found) for found in check(patient)]  # type: ignore[arg-type]
        except HetSpecError as error:
            patient.findings.append(Finding(name, "wrong", error.message, error.hint))
    first = next((finding for finding in patient.findings if finding.state == "wrong"), None)
    return {
        "folder": str(folder),
        "layout": reading.layout,
        "base": base.name,
        "dataset": str(store.folders[0]) if store else None,
        "ok": first is None,
        "first": asdict(first) if first else None,
        "findings": [asdict(finding) for finding in patient.findings],
    }


Found = tuple[State, str] | tuple[State, str, str]


# --- what the files say -----------------------------------------------------------------------------------------------


def _numbers(patient: Patient) -> Iterator[Found]:
    """Types on disk, and NaN or infinity."""
    tensors = patient.reading.stored.tensors
    types = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()})
    if bad := not_finite(tensors):
        yield "wrong", f"{', '.join(bad[:3])} holds NaN or infinity", "fetch the draft again, or take an earlier step"
    elif len(types) > 1:
        yield "doubtful", f"tensors are of several types: {', '.join(types)}", "export it with --dtype to have one"
    else:
        yield "ok", f"{', '.join(types)}, all finite"


def _base(patient: Patient) -> Iterator[Found]:
    """The base that it was trained on, by the fingerprint of its weights."""
    recorded = patient.settings.get("base_fingerprint")
    if recorded is None:
        yield "not checked", "the draft does not record the weights of its base"
    elif recorded != patient.base.fingerprint:
        yield (
            "wrong",
            f"trained on {patient.settings.get('base', 'a base')} with fingerprint {recorded}; "
            f"{patient.base.name} has {patient.base.fingerprint}",
            "use the base that it was trained on, at the same revision and quantisation, or train it again",
        )
    else:
        yield "ok", f"{patient.base.name}, fingerprint {recorded}"


def _tokenizer(patient: Patient) -> Iterator[Found]:
    seen = tokenizer_hash(patient.base.tokenizer)
    recorded = {"draft": patient.settings.get("tokenizer_hash")}
    if patient.store is not None:
        recorded["dataset"] = patient.store.identity.tokenizer_hash or None
    yield from _same_hash("tokenizer", recorded, seen, "use the tokenizer that it was trained with")


def _template(patient: Patient) -> Iterator[Found]:
    recorded = {"draft": patient.settings.get("template_hash")}
    if patient.store is not None:
        recorded["dataset"] = patient.store.identity.template_hash or None
    advice = "set base.chat_template and base.system_prompt as the dataset had them, or generate it again with this one"
    yield from _same_hash("chat template", recorded, patient.template.hash, advice)


def _same_hash(what: str, recorded: dict[str, str | None], seen: str, advice: str) -> Iterator[Found]:
    odd = [f"the {who}'s is {value}" for who, value in recorded.items() if value is not None and value != seen]
    if odd:
        yield "wrong", f"{' and '.join(odd)}; the base's {what} is {seen} here", advice
    elif any(recorded.values()):
        yield "ok", seen
    else:
        yield "not checked", f"nothing records the {what}; here it is {seen}", ""


def _norms(patient: Patient) -> Iterator[Found]:
    """The flags of norms against the tensors that are there."""
    tensors, settings = patient.reading.stored.tensors, patient.settings
    pairs = {"skip_first_input_norm": "layers.0.input_layernorm.weight", "skip_output_norm": "norm.weight"}
    algorithm = load_card("algorithms", patient.reading.stored.algorithm)
    if algorithm.capabilities.get("owns_output_norm"):
        yield "ok", f"the layers and the head of {algorithm.name} have all of their norms"
        return
    wrong = [
        f"{flag} is {settings[flag]}, and {tensor} is {'there' if tensor in tensors else 'not there'}"
        for flag, tensor in pairs.items()
        if isinstance(settings.get(flag), bool) and settings[flag] == (tensor in tensors)
    ]
    if wrong:
        yield (
            "wrong",
            "; ".join(wrong),
            "set the flag in the hetspec block of config.json as the draft was trained, or import its original again",
        )
    else:
        yield "ok", ", ".join(f"{flag} {settings.get(flag, 'by default')}" for flag in pairs)


def _layers(patient: Patient) -> Iterator[Found]:
    """Captured layers: as recorded, within the base, and stored in the dataset."""
    wanted = [int(layer) for layer in patient.settings.get("captured_layers") or ()]
    head = [int(layer) for layer in patient.reading.stored.head.get("layers") or ()]
    depth = patient.base.num_layers
    outside = [layer for layer in {*wanted, *head} if not 0 <= layer < depth]
    if outside:
        yield (
            "wrong",
            f"reads layers {sorted(outside)} of a base with layers 0 (embeddings) to {depth - 1}",
            "ids are Hugging Face's, 0 = embeddings; other programs count from the first layer: add 1 to theirs",
        )
    elif head and head != wanted:
        yield "wrong", f"its head reads {head}, captured_layers says {wanted}", "make both the same in config.json"
    elif patient.store is not None and (missing := sorted(set(wanted) - set(patient.store.identity.layers))):
        yield (
            "wrong",
            f"reads layers {wanted}; the dataset has {list(patient.store.identity.layers)}, without {missing}",
            f"generate the dataset with dataset.layers = {wanted}",
        )
    else:
        for doubt in patient.reading.warnings:
            yield "doubtful", doubt, "compare its accept length with eagle_aux_hidden_state_layer_ids counted both ways"
        yield "ok", f"layers {wanted}" if wanted else "the final state alone"


def _vocabulary(patient: Patient) -> Iterator[Found]:
    stored, size = patient.reading.stored, patient.base.vocab_size
    ids = stored.tensors.get(VOCAB_KEY)
    if stored.base_vocab_size != size:
        yield (
            "wrong",
            f"made for a vocabulary of {stored.base_vocab_size:,} tokens, the base has {size:,}",
            "use the base that it was trained on; tables padded by another program have to be cut to the base's size",
        )
        return
    if ids is None:
        yield "ok", f"the base's {size:,} tokens"
        return
    inside = bool(((ids >= 0) & (ids < size)).all())
    if not inside or not bool((ids[1:] > ids[:-1]).all()):
        fault = "ids are not in order, or repeat" if inside else f"ids outside 0..{size - 1}"
        yield (
            "wrong",
            f"the map of {len(ids):,} tokens is broken: {fault}",
            "import the original again; see docs/drafts.md",
        )
        return
    stops = sorted(patient.base.stop_ids - set(ids.tolist()))
    if stops:
        yield (
            "doubtful",
            f"{len(ids):,} tokens, without the stop tokens {stops}",
            "such a draft never proposes an end; it costs one step an answer",
        )
    else:
        yield "ok", f"{len(ids):,} of {size:,} tokens, in order"


def _copies(patient: Patient) -> Iterator[Found]:
    """Copies of the base's embedding or head that the files carry, against the base's own."""
    seen = 0
    for found in compare_copies(DraftFiles(patient.folder), patient.reading, patient.base.ends):
        seen += 1
        if not found.same_shape:
            yield "wrong", found.sentence, "it is of another base"
        elif found.equal:
            yield "ok", found.sentence
        else:
            few = found.rows <= _FEW_ROWS * found.shape[0]
            yield (
                "doubtful" if few else "wrong",
                found.sentence,
                "the draft was trained with other embeddings than this base has: use its own base, or train it again",
            )
    if not seen:
        yield "ok", "the files carry no copy of the base's embedding or head"


def _fits(patient: Patient) -> Iterator[Found]:
    """Every tensor has its place on this base."""
    draft = assemble_draft(
        patient.reading.stored, patient.base.ends, base_name=patient.base.name, folder=patient.folder
    )
    patient.draft = draft.to(patient.base.device, torch.float32).eval()
    yield "ok", f"{draft.num_parameters:,} parameters, every tensor in its place"
    if draft.ties.output:
        yield _tied_output_norm(draft, patient.base)


def _tied_output_norm(draft: DraftLM, base: BaseLM) -> Found:
    """The base's final norm as the draft has it, against that of this base."""
    expected = copy.deepcopy(draft.output_norm)
    take_final_norm(expected, base.decoder)
    for mine, theirs in zip(draft.output_norm.parameters(), expected.parameters(), strict=True):
        if not torch.allclose(mine, theirs, rtol=1e-2, atol=1e-2):  # half types round
            return "wrong", "the output norm is tied to a base's final norm, and this base has another", "use its base"
    return "ok", "the output norm is the base's final norm"


# --- what the models do -----------------------------------------------------------------------------------------------


def _states(patient: Patient) -> Iterator[Found]:
    """Stored hidden states against those of a fresh forward."""
    store = patient.store
    if store is None:
        yield "not checked", "no dataset is named", "--dataset RUN compares stored states with fresh ones"
        return
    if store.identity.base_fingerprint not in ("", patient.base.fingerprint):
        yield (
            "wrong",
            f"the dataset is of a base with fingerprint {store.identity.base_fingerprint}, "
            f"{patient.base.name} has {patient.base.fingerprint}",
            "generate the dataset with this base",
        )
    checked = [compare_sample(patient.base, store[n], LEAST_COSINE) for n in range(min(patient.samples, len(store)))]
    for entry in checked:
        bad = {name: about for name, about in entry["states"].items() if about["cosine"] < LEAST_COSINE}
        if bad:
            name, about = next(iter(bad.items()))
            yield (
                "wrong",
                f"sample {entry['id']}: the stored {name} state has cosine {about['cosine']:.4f} with a fresh one",
                "the final state is stored after the final norm, layers as Hugging Face counts them: generate the "
                "dataset again; `hetspec-core dataset verify` looks at more samples",
            )
            return
    least = min((entry["cosine"] for entry in checked), default=1.0)
    yield "ok", f"{len(checked)} samples, cosine at least {least:.5f}"


def _modes(patient: Patient) -> Iterator[Found]:
    """Logits of the forward of training against those of decoding, on the same tokens."""
    if patient.draft is None:
        yield "not checked", "the draft does not fit the base"
        return
    if patient.store is not None:
        ids = patient.store[0].input_ids[:_MOST_TOKENS].to(torch.int64)
    else:
        ids = torch.tensor(patient.template.encode(_TEXT).input_ids[:_MOST_TOKENS])
    for found in compare_modes(patient.base, patient.draft, ids):
        if found.wrong:
            yield (
                "wrong",
                f"{found.what}: logits differ by up to {found.error:.3g} of {found.scale:.3g} "
                f"at position {found.position}",
                "the head's training forward and its step disagree: masks, positions or a shift is off",
            )
        else:
            yield "ok", f"{found.what}: logits equal up to {found.error:.1g}"


CHECKS: dict[str, Callable[[Patient], Iterator[Found]]] = {
    "numbers": _numbers,
    "base": _base,
    "tokenizer": _tokenizer,
    "chat template": _template,
    "vocabulary": _vocabulary,
    "captured layers": _layers,
    "norms": _norms,
    "embedding copies": _copies,
    "tensors": _fits,
    "hidden states": _states,
    "training against decoding": _modes,
}
"""Name of a property -> its check; an earlier property affects the later ones."""


def main(arguments: list[str] | None = None) -> int:
    """Command line of the examination; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.stages.draft_doctor", description="Examine a draft.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", required=True, metavar="JSON", help="spec of the base")
    parser.add_argument("--dataset", type=Path, help="hidden states that it was trained on")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    given = parser.parse_args(arguments)
    base = BaseSpec.model_validate_json(given.base)
    return answer(lambda: examine(given.folder, base, given.dataset, device=given.device))


if __name__ == "__main__":
    sys.exit(main())
