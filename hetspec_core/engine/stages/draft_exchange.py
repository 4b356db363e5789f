"""Drafts in and out of other programs' layouts: the engine's side of `hetspec-core draft inspect|import|export|count`.

Nothing is written into the directory that is read. An import is checked by loading it onto its base where one is named;
an export by reading it back and comparing every tensor.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from hetspec_core.catalog import list_cards, load_card
from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.hidden_states import open_samples
from hetspec_core.engine.data.reading import read_conversations
from hetspec_core.engine.modeling.backbones import with_older_keys
from hetspec_core.engine.modeling.base_lm import load_frozen_ends, load_tokenizer
from hetspec_core.engine.modeling.checkpoint import assemble_draft, check_captured_layers, read_draft
from hetspec_core.engine.modeling.draft_files import (
    VOCAB_KEY,
    DraftFiles,
    LoadReport,
    StoredDraft,
    check_finite,
    not_finite,
    write_draft_folder,
)
from hetspec_core.engine.modeling.layouts.base import Layout
from hetspec_core.engine.modeling.layouts.eagle import TOKEN_MAP
from hetspec_core.engine.modeling.token_counts import TOKEN_COUNTS, TokenCounts, read_token_counts
from hetspec_core.engine.reporting import answer
from hetspec_core.engine.stages.draft_comparison import compare_copies
from hetspec_core.errors import CheckpointError, DataError, UsageError
from hetspec_core.files import explain, is_full
from hetspec_core.spec import BaseSpec, DatasetSpec


def inspect(folder: Path, base: BaseSpec | None = None) -> dict[str, Any]:
    """The contents of a draft directory: layout, inferred flags, sizes, and every tensor with its use."""
    reading = read_draft(folder, base_layers=_layers(base))
    if bad := not_finite(reading.stored.tensors):
        reading.warnings.append(f"the weights are not finite: {', '.join(bad[:3])} holds NaN or infinity")
        return describe(reading) | {"folder": str(folder), "fits_base": None}
    fits = _fit(reading, base, folder)
    counts = read_token_counts(folder)
    kept = None if counts is None else describe_counts(counts)
    return describe(reading) | {"folder": str(folder), "fits_base": fits, "token_counts": kept}


def import_draft(source: Path, target: Path, base: BaseSpec | None = None) -> dict[str, Any]:
    """Write a draft of another program as one of HetSpec's.

    Args:
        source: a directory in any layout that can be read.
        target: where; must not exist yet.
        base: of the draft. Needed where the draft leaves its captured layers to a default; with it the result is loaded
            once onto the base's embedding and head.

    Raises:
        CheckpointError, ModelError: it cannot be read, or does not fit the base.
        UsageError: the target is there already.
    """
    _check_target(target, source)
    reading = read_draft(source, base_layers=_layers(base))
    stored = reading.stored
    check_finite(stored.tensors, source)
    if base is not None:
        stored.settings.setdefault("base", base.name)
    fits = _fit(reading, base, source)
    config = with_older_keys(stored.config) | {
        "architectures": ["HetSpecDraft"],
        "hetspec": stored.settings | {"imported": {"layout": reading.layout, "inferred": reading.inferred}},
    }
    counts = read_token_counts(source)
    _write(target, config, stored.tensors, None if counts is None else {TOKEN_COUNTS: counts.write})
    _compare(read_draft(target).stored.tensors, stored.tensors, target)
    return describe(reading) | {"folder": str(target), "source": str(source), "fits_base": fits}


def export_draft(source: Path, target: Path, layout_name: str, dtype: str = "") -> dict[str, Any]:
    """Write a draft in the layout of another program, beside the original; read it back and compare.

    Args:
        source: a directory in any layout that can be read.
        target: where; must not exist yet.
        layout_name: card of a layout that can be written.
        dtype: type of the weights on disk (float32, bfloat16, float16); as they are when empty.

    Raises:
        ModelError: the layout cannot express this draft.
        CheckpointError: the draft is damaged, or reads back with a difference.
        UsageError: the target is there already, or the layout is not written.
    """
    _check_target(target, source)
    card = load_card("layouts", layout_name)
    if not card.capabilities.get("writes"):
        writable = ", ".join(each.name for each in list_cards("layouts") if each.capabilities.get("writes"))
        raise UsageError(f"drafts are not written in the layout {layout_name}", hint=f"layouts: {writable}")
    layout: Layout = card.load()()
    stored = read_draft(source).stored
    check_finite(stored.tensors, source)
    stored = _cast(stored, dtype)
    check_finite(stored.tensors, f"{source}, as {dtype}" if dtype else source)
    written = layout.write(stored)
    ids = written.token_ids
    more: dict[str, Callable[[Path], None]] = {}
    if ids is not None:
        more[TOKEN_MAP] = lambda file: torch.save(ids, file)
    _write(target, written.config, written.tensors, more)
    back = layout.read(DraftFiles(target), None).stored
    _compare(_whole_is_none(back), _expected(stored, back), target)
    return {
        "folder": str(target),
        "source": str(source),
        "layout": layout_name,
        "architecture": written.config["architectures"][0],
        "tensors": {name: _shape(tensor) for name, tensor in sorted(written.tensors.items())},
        "parameters": _count(written.tensors),
        "token_map": str(target / TOKEN_MAP) if ids is not None else None,
        "notes": list(written.notes),
    }


def count_tokens(folder: Path, source: Path, base: BaseSpec | None = None) -> dict[str, Any]:
    """Count the tokens that the assistant wrote in a dataset, and keep the counts beside a draft.

    Args:
        folder: the draft; its `token_counts.json` is written, and replaces an older one.
        source: hidden states that were stored, or a file of conversations in any format that a dataset is read from.
        base: whose tokenizer and chat template write the conversations; needed for a file of them.

    Raises:
        DataError: no token was counted, or the data has a token that the draft's base does not have.
        UsageError: a file of conversations is to be counted, and no base is named.
        HetSpecError: the file system refused the file.
    """
    stored = read_draft(folder, base_layers=_layers(base)).stored
    size = stored.base_vocab_size
    if source.is_file():
        if base is None:
            raise UsageError(f"{source} holds conversations, and no base is named", hint="name one: --base PRESET")
        answers, about = _conversations(source, base)
    else:
        store = open_samples([source])
        answers = (sample.input_ids[sample.assistant_mask] for sample in map(store.__getitem__, range(len(store))))
        about = f"answers of {len(store):,} samples"
    counts = torch.zeros(size, dtype=torch.int64)
    for ids in answers:
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < size:
            raise DataError(
                f"{source} has token id {int(ids.max())}; the base of the draft has {size} tokens",
                hint="count a dataset that was made with the tokenizer of the draft's base",
            )
        counts += torch.bincount(ids.long(), minlength=size)
    found = TokenCounts(counts, about)
    if not found.total:
        raise DataError(f"{source} has no token of an assistant", hint="count conversations that have answers")
    try:
        found.write(folder / TOKEN_COUNTS)
    except OSError as error:
        told = explain(error, doing="the token counts were not written", path=folder / TOKEN_COUNTS)
        if told is None:
            raise
        raise told from error
    return {"folder": str(folder), "file": str(folder / TOKEN_COUNTS)} | describe_counts(found)


def _conversations(source: Path, base: BaseSpec) -> tuple[Iterator[Tensor], str]:
    """[n] token ids of the answers of each conversation in a file, and what they are."""
    reading = read_conversations(DatasetSpec(source=str(source)))
    template = ChatTemplate.for_tokenizer(load_tokenizer(base), base.chat_template)

    def answers() -> Iterator[Tensor]:
        for conversation in reading.conversations:
            encoded = template.encode(conversation.with_system(base.system_prompt).messages)
            yield torch.tensor(encoded.input_ids)[torch.tensor(encoded.assistant_mask, dtype=torch.bool)]

    return answers(), f"answers of {len(reading.conversations):,} conversations of {source.name}"


def describe_counts(counts: TokenCounts) -> dict[str, Any]:
    """Counts as JSON types, with the share of text that the commonest tokens are expected to cover."""
    order = torch.sort(counts.counts, descending=True, stable=True).indices
    sizes = [size for size in (1024, 2048, 4096, 8192, 16_384, 32_768) if size < counts.vocab_size]
    return {
        "source": counts.source,
        "tokens": counts.total,
        "different": int((counts.counts > 0).sum()),
        "vocab_size": counts.vocab_size,
        "coverage": {str(size): counts.coverage(order[:size]) for size in sizes},
    }


def describe(reading: LoadReport) -> dict[str, Any]:
    """A reading as JSON types."""
    stored = reading.stored
    back = {native: foreign for foreign, native in reading.renamed.items()}
    return {
        "layout": reading.layout,
        "algorithm": stored.algorithm,
        "model_type": stored.config.get("model_type"),
        "layers": stored.config.get("num_hidden_layers"),
        "hidden_size": stored.head.get("hidden_size"),
        "base_hidden_size": stored.head.get("base_size"),
        "base_vocab_size": stored.base_vocab_size,
        "draft_vocab_size": stored.base_vocab_size if stored.vocab_ids is None else len(stored.vocab_ids),
        "captured_layers": list(stored.settings.get("captured_layers") or ()),
        "base": stored.settings.get("base"),
        "parameters": _count(stored.tensors),
        "inferred": reading.inferred,
        "tensors": [
            {"name": name, "from": back.get(name, name), **_shape(tensor)}
            for name, tensor in sorted(stored.tensors.items())
        ],
        "dropped": reading.dropped,
        "warnings": reading.warnings,
    }


def _fit(reading: LoadReport, base: BaseSpec | None, folder: Path) -> bool | None:
    """Load the draft onto the base's embedding and head, and compare its copies of them; None without a base.

    Raises:
        CheckpointError, ModelError: it does not fit.
    """
    if base is None:
        for name, why in reading.dropped.items():
            if why.startswith("a copy of the base"):
                reading.dropped[name] = f"{why}; not compared with it, as no base is named"
        return None
    check_captured_layers(reading.stored, base.architecture.num_hidden_layers, base_name=base.name, folder=folder)
    _, ends = load_frozen_ends(base, device=torch.device("cpu"), dtype=torch.float32)
    assemble_draft(reading.stored, ends, base_name=base.name, folder=folder)
    for found in compare_copies(DraftFiles(folder), reading, ends):
        reading.dropped[found.name] += f"; {found.sentence}"
        if not found.equal:
            reading.warnings.append(
                f"{found.sentence}: the draft was trained with other embeddings than {base.name} has, and reads those "
                "of the base"
            )
    return True


def _layers(base: BaseSpec | None) -> int | None:
    return None if base is None else base.architecture.num_hidden_layers


def _check_target(target: Path, source: Path) -> None:
    if target.exists():
        raise UsageError(f"{target} exists already", hint="name a new directory; nothing is overwritten")
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target} is inside {source}", hint="a draft is written beside the original, never into it")


def _cast(stored: StoredDraft, dtype: str) -> StoredDraft:
    if not dtype:
        return stored
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in types:
        raise UsageError(f"--dtype is {dtype!r}; allowed: {', '.join(types)}")
    tensors = {
        name: tensor.to(types[dtype]) if tensor.is_floating_point() else tensor
        for name, tensor in stored.tensors.items()
    }
    return StoredDraft(stored.config, stored.settings, tensors)


def _expected(stored: StoredDraft, back: StoredDraft) -> dict[str, Tensor]:
    """The tensors that reading must give: those written, with the zero bias that layouts add."""
    expected = _whole_is_none(stored)
    if "fc.bias" not in expected and "fc.bias" in back.tensors:
        expected["fc.bias"] = torch.zeros_like(back.tensors["fc.bias"])
    return expected


def _whole_is_none(stored: StoredDraft) -> dict[str, Tensor]:
    """The tensors, without a map that holds every token of the base in order."""
    ids = stored.vocab_ids
    if ids is None or not torch.equal(ids, torch.arange(stored.base_vocab_size)):
        return dict(stored.tensors)
    return {name: tensor for name, tensor in stored.tensors.items() if name != VOCAB_KEY}


def _write(
    target: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    more: dict[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write the directory.

    Raises:
        HetSpecError: the file system refused it; the message says why.
    """
    try:
        write_draft_folder(target, config, tensors, more)
    except (OSError, SafetensorError, RuntimeError) as error:
        if is_full(error) and not isinstance(error, OSError):  # compiled code has only the text of the error
            error = OSError(errno.ENOSPC, str(error))
        told = explain(error, doing="the draft was not written", path=target) if isinstance(error, OSError) else None
        if told is None:
            raise
        raise told from error


def _compare(back: dict[str, Tensor], wanted: dict[str, Tensor], folder: Path) -> None:
    """Raises CheckpointError for tensors that are not read as they were written."""
    odd = sorted(back.keys() ^ wanted.keys())
    odd += [name for name in back.keys() & wanted.keys() if not torch.equal(back[name], wanted[name])]
    if odd:
        raise CheckpointError(f"{folder} does not read back as it was written: {', '.join(odd[:5])}")


def _shape(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _count(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())


def main(arguments: list[str] | None = None) -> int:
    """Command line of the module."""
    parser = argparse.ArgumentParser(prog="hetspec_core.engine.stages.draft_exchange")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("inspect", "import", "export", "count"):
        command = commands.add_parser(name)
        command.add_argument("source", type=Path)
        if name == "count":
            command.add_argument("dataset", type=Path)
        elif name != "inspect":
            command.add_argument("target", type=Path)
        if name != "export":
            command.add_argument("--base", default="", metavar="JSON", help="spec of the base")
        else:
            command.add_argument("--layout", required=True)
            command.add_argument("--dtype", default="")
    given = parser.parse_args(arguments)

    def run() -> dict[str, Any]:
        if given.command == "export":
            return export_draft(given.source, given.target, given.layout, given.dtype)
        base = BaseSpec.model_validate_json(given.base) if given.base else None
        if given.command == "count":
            return count_tokens(given.source, given.dataset, base)
        if given.command == "import":
            return import_draft(given.source, given.target, base)
        return inspect(given.source, base)

    return answer(run)


if __name__ == "__main__":
    sys.exit(main())
