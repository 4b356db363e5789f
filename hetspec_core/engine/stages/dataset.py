"""Stage dataset: conversations in, hidden states of the base out.

    rows -> conversations -> (prompts and answers by the base) -> tokens and masks -> forward -> shards

All checks of the data come before the weights are loaded. Every step continues from the files in the run folder, so a
killed run loses and repeats nothing when it is started again.

Several workers make a share each (`data.shares`). The last one then works like a single worker: it moves the shares
into the run's store and makes what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hetspec_core.documents import DocumentError, read_json
from hetspec_core.engine.context import RunContext, has_fast_bfloat16, peak_memory_bytes
from hetspec_core.engine.data.capture import capture
from hetspec_core.engine.data.chat import ChatTemplate, tokenizer_hash
from hetspec_core.engine.data.hidden_states import HiddenStateWriter
from hetspec_core.engine.data.items import CaptureItem, Identify, ItemList, content_id, encode_all
from hetspec_core.engine.data.manifest import STATES_CHECKED, TOKENIZER_FOLDER, Manifest, StoreIdentity
from hetspec_core.engine.data.reading import DatasetReading, read_conversations
from hetspec_core.engine.data.shares import Workplace
from hetspec_core.engine.modeling.base_lm import BaseLM, load_tokenizer
from hetspec_core.engine.modeling.sources import fingerprint, materialize
from hetspec_core.engine.stages.dataset_texts import answer_conversations, write_prompts
from hetspec_core.errors import DataError, SpecError
from hetspec_core.files import new_folder

_TASK = "capture"
_NOT_FINITE = "states that are not finite"
_FINITE_HINT = (
    "the base overflows its number type, or its weights are damaged: compute in float32 or bfloat16 (resources.dtype), "
    "and store in one of them (dataset.store_dtype)"
)
_NAMED = 5  # samples that a warning names


def run(context: RunContext) -> None:
    """Make the hidden-state dataset that the run's spec asks for, or continue it.

    Raises:
        SpecError: the spec names a layer that the base does not have.
        NotFoundError, DataError: the source, its rows or the template cannot be used; nothing was computed.
        ModelError: the base cannot be loaded.
        ResourceError: the disk or the memory is full; everything written is intact.
        Cancelled: the run was asked to stop; resuming it continues.
    """
    spec = context.spec.dataset
    _check_layers(context)
    tokenizer = load_tokenizer(context.spec.base)
    template = ChatTemplate.for_tokenizer(tokenizer, context.spec.base.chat_template)
    if context.share.number == 0 and (complaint := template.complaint()):
        context.log(complaint, "warning")
    max_length = min(spec.max_length, context.spec.base.architecture.max_position_embeddings)
    settings: dict[str, Any] = {"answers": spec.answers, "max_length": max_length}
    if spec.answers == "base":
        settings |= {"sampling": spec.sampling.model_dump(mode="json"), "max_new_tokens": spec.max_new_tokens}
    reading = None if spec.source == "self" else _read(context)
    conversations = None
    if reading is not None:
        system = context.spec.base.system_prompt
        conversations = [conversation.with_system(system) for conversation in reading.conversations]
    base_fingerprint = fingerprint(materialize(context.spec.base.source))
    identify: Identify = partial(
        content_id, template_hash=template.hash, base_fingerprint=base_fingerprint, settings=settings
    )
    place = Workplace(context.paths, context.share)
    load = _Loader(context)
    tasks = ["prompts"] * (spec.source == "self") + ["answers"] * (spec.answers == "base") + [_TASK]
    part = {task: (number, len(tasks)) for number, task in enumerate(tasks, start=1)}

    if spec.answers == "data":
        assert conversations is not None  # the spec refuses source self without answers of the base
        found = encode_all(conversations, template, identify, max_length=max_length, share=context.share)
        if context.share.is_whole:
            found.check(spec.source, max_length=max_length)
    else:
        if conversations is None:
            conversations = write_prompts(context, load, template, place, part=part["prompts"])
        found = answer_conversations(
            context, load, template, conversations, place, identify, max_length=max_length, part=part["answers"]
        )
    if found.items:  # a share may have none
        _report(context, found, max_length)
        _check_vocabulary(context, found)

    identity = StoreIdentity(
        base_fingerprint=base_fingerprint,
        tokenizer_hash=tokenizer_hash(tokenizer),
        template_hash=template.hash,
        hidden_size=context.spec.base.architecture.hidden_size,
        vocab_size=context.spec.base.architecture.vocab_size,
        layers=tuple(sorted(set(spec.layers))),
        norm="after_final_norm",
        dtype=spec.store_dtype,
    )
    about = {
        "base": context.spec.base.model_dump(mode="json"),
        "template": {"name": template.name, "variables": template.variables},
        "settings": settings,
        "source": spec.source,
        STATES_CHECKED: True,
    }
    context.record(template=about["template"], base_fingerprint=base_fingerprint, identity=identity.model_dump())
    folder = place.own.hidden_states
    with HiddenStateWriter(
        folder, identity, about=about, shard_bytes=spec.shard_megabytes << 20, make_parents=False
    ) as writer:
        _save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
        parts = place.gather(writer) if context.share.is_whole else []
        done = writer.done if context.share.is_whole else writer.done | place.ids_of_others()
        missing = [item for name, item in found.items.items() if name not in done]
        if (kept := len(found.items) - len(missing)) and not parts:
            context.log(f"{kept} of {len(found.items)} samples are in the dataset already")
        facts, broken = _sum_up(parts), {}
        if missing or not context.share.is_whole:
            captured, broken = _capture(context, load, list(found.items.values()), missing, writer, part[_TASK])
            facts |= captured
        manifest = writer.manifest
    if broken:
        asked = conversations if spec.answers == "data" else [each.without_answers() for each in conversations]
        names = {identify(each.messages): each.id for each in asked}
        facts["not_finite"] = _warn_of_broken(context, found, broken, names)
    if context.share.is_whole:
        if not manifest.counts.samples:
            raise DataError(f"no sample of {spec.source} has finite states: nothing is stored", hint=_FINITE_HINT)
        place.clear()
        _finish(context, reading, found, manifest, facts)
    else:
        place.finish_share(facts)


class _Loader:
    """Returns the base; loads it at the first call."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._base: BaseLM | None = None

    def __call__(self) -> BaseLM:
        if self._base is None:
            self._context.prepare("load base")
            self._base = _load(self._context)
            self._context.prepare("load base", 1)
        return self._base


def _sum_up(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all shares together, which were made at the same time."""
    if not parts:
        return {}
    tokens, wall_s = sum(part["captured_tokens"] for part in parts), max(part["capture_s"] for part in parts)
    rate = {"tokens_per_s": tokens / wall_s} if wall_s > 0 else {}
    return {"workers": len(parts), "captured_tokens": tokens, "capture_s": wall_s, **rate}


def _check_layers(context: RunContext) -> None:
    number = context.spec.base.architecture.num_hidden_layers
    wrong = [layer for layer in context.spec.dataset.layers if not 0 <= layer < number]
    if wrong:
        raise SpecError(
            f"dataset.layers has {wrong}; {context.spec.base.name} has layers 0 (embeddings) to {number - 1} besides "
            "the final state, which is always stored"
        )


def _read(context: RunContext) -> DatasetReading:
    spec = context.spec.dataset
    reading = read_conversations(spec)
    if context.share.number == 0:  # the others read the same
        context.log(f"read {len(reading.conversations)} conversations of {reading.source} as {reading.format}")
        use_answers = spec.answers == "data"
        for warning in (reading.complaint, reading.warning(answers=use_answers)):
            if warning:
                context.log(warning, "warning")
        if remark := reading.remark(answers=use_answers):
            context.log(remark)
        if not use_answers and reading.num_answers:
            context.log(
                f"{reading.num_answers} answers of {reading.source} are replaced by answers of the base "
                "(dataset.answers is base); --answers data keeps them",
                "info" if _is_asked(context, "dataset.answers") else "warning",
            )
    if spec.answers == "data" and not any(conversation.has_answers for conversation in reading.conversations):
        raise DataError(
            f"{reading.source} has no assistant turn in {len(reading.conversations)} conversations",
            hint="let the base write the answers: dataset.answers = 'base' (--answers base)",
        )
    return reading


def _is_asked(context: RunContext, key: str) -> bool:
    """Whether a setting comes from the command line, and not from a preset."""
    try:
        return read_json(context.paths.origins)[key]["layer"] in ("option", "set")
    except (OSError, DocumentError, KeyError, TypeError):
        return False


def _load(context: RunContext) -> BaseLM:
    dtype = context.dtype
    if context.spec.resources.dtype == "auto" and context.spec.dataset.store_dtype == "bfloat16":
        # The stored states are rounded to it anyway, and computing in it is twice as fast on a processor that has it.
        dtype = torch.bfloat16 if has_fast_bfloat16(context.device) else dtype
    name = str(dtype).removeprefix("torch.")
    context.log(f"loading base {context.spec.base.name} on {context.device} in {name}")
    return BaseLM.load(context.spec.base, device=context.device, dtype=dtype)


def _report(context: RunContext, found: ItemList, max_length: int) -> None:
    tokens = sum(len(item.input_ids) for item in found.items.values())
    supervised = sum(sum(item.assistant_mask) for item in found.items.values())
    context.log(f"{len(found.items)} samples, {tokens} tokens, {supervised / tokens:.0%} of them supervised")
    if found.dropped:
        context.log("left out: " + "; ".join(f"{reason}: {count}" for reason, count in found.dropped.most_common()))
    if found.cut:
        context.log(f"{found.cut} conversations were cut to {max_length} tokens")
    for complaint in found.complaints:
        context.log(complaint, "warning")


def _check_vocabulary(context: RunContext, found: ItemList) -> None:
    """Raises DataError for a token id outside the embedding, which a device reports as a crash without a cause."""
    highest = max(max(item.input_ids) for item in found.items.values())
    size = context.spec.base.architecture.vocab_size
    if highest >= size:
        raise DataError(
            f"the tokenizer of {context.spec.base.name} gives token id {highest}; the base has {size} tokens",
            hint="use the tokenizer that belongs to the base",
        )


def _capture(
    context: RunContext,
    load: Callable[[], BaseLM],
    items: list[CaptureItem],
    missing: list[CaptureItem],
    writer: HiddenStateWriter,
    part: tuple[int, int],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Capture the missing items; progress counts the others as done.

    Returns:
        Figures, and the ids of samples that were not stored -> where a state of each is not finite.
    """
    total = sum(len(item.input_ids) for item in items)
    new = sum(len(item.input_ids) for item in missing)
    done = kept = total - new
    if not missing:
        context.progress(_TASK, total, total, "tokens", part=part)
        return {"captured_tokens": 0, "capture_s": 0.0}, {}
    base = load()
    started = time.perf_counter()

    def on_batch(_: int, tokens: int) -> None:
        nonlocal done
        done += tokens
        rate = (done - kept) / (time.perf_counter() - started)
        context.progress(_TASK, done, total, "tokens", f"{rate:.0f} tokens/s", part=part)
        context.check_cancelled()

    context.progress(_TASK, done, total, "tokens", part=part)
    tokens_per_batch = context.spec.dataset.tokens_per_batch
    broken = capture(base, missing, writer, tokens_per_batch=tokens_per_batch, on_batch=on_batch)
    wall_s = time.perf_counter() - started
    return {"captured_tokens": new, "capture_s": wall_s, "tokens_per_s": new / wall_s}, broken


def _warn_of_broken(
    context: RunContext, found: ItemList, broken: dict[str, str], names: dict[str, str]
) -> list[dict[str, str]]:
    """Count and name the samples that were not stored, in the order of the source."""
    found.dropped[_NOT_FINITE] += len(broken)
    order = [sample_id for sample_id in found.items if sample_id in broken]
    told = [{"id": each, "conversation": names.get(each, ""), "where": broken[each]} for each in order]
    named = "; ".join(f"{each['conversation'] or each['id']} ({each['where']})" for each in told[:_NAMED])
    more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    context.log(
        f"{len(told)} of {len(found.items)} samples have states that are not finite and are not stored: "
        f"{named}{more}. {_FINITE_HINT[:1].upper()}{_FINITE_HINT[1:]}",
        "warning",
    )
    return told


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Keep the tokenizer with the dataset, so that it can be read without the base."""
    if folder.is_dir():
        return
    with new_folder(folder) as staging:
        tokenizer.save_pretrained(staging)


def _finish(
    context: RunContext, reading: DatasetReading | None, found: ItemList, manifest: Manifest, facts: dict[str, Any]
) -> None:
    counts = manifest.counts
    use_answers = context.spec.dataset.answers == "data"
    summary: dict[str, Any] = {
        "samples": counts.samples,
        "tokens": counts.tokens,
        "supervised_tokens": counts.supervised_tokens,
        "supervised_share": counts.supervised_tokens / counts.tokens,
        "bytes": counts.bytes,
        "bytes_per_token": counts.bytes / counts.tokens,
        "shards": len(manifest.shards),
        "left_out": dict(found.dropped),
        "unreadable_rows": len(reading.malformed) if reading else 0,
        "unused_fields": reading.unused_counts(answers=use_answers) if reading else {},
        "replaced_answers": reading.num_answers if reading and not use_answers else 0,
        "cut_answers": dict(found.cut_answers),
        "unasked_questions": found.unasked,
        **facts,
        "peak_memory_bytes": peak_memory_bytes(context.device),
    }
    context.artifact("hidden_states", context.paths.hidden_states, summary)
    context.result("dataset", summary)
