"""Token counts of drafts: taken in training, counted from a dataset or from a file of conversations, and used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hetspec_core.engine.data.chat import ChatTemplate
from hetspec_core.engine.data.hidden_states import open_samples
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.checkpoint import build_draft
from hetspec_core.engine.modeling.draft_files import save_draft
from hetspec_core.engine.modeling.token_counts import TOKEN_COUNTS, read_token_counts
from hetspec_core.engine.stages import train
from hetspec_core.engine.stages.draft_exchange import count_tokens, import_draft, inspect
from hetspec_core.errors import DataError, UsageError
from hetspec_core.spec import AlgorithmSpec, BaseSpec, DraftSpec
from tests.fakes.tiny_base import make_tiny_base
from tests.fakes.tiny_training import (
    load_tiny_base,
    make_run_folder,
    open_tiny_context,
    tiny_architecture,
    tiny_run_spec,
    write_tiny_base,
    write_tiny_store,
)


def counted_by_hand(store: Path, vocab_size: int) -> torch.Tensor:
    samples, counts = open_samples([store]), torch.zeros(vocab_size, dtype=torch.int64)
    for number in range(len(samples)):
        sample = samples[number]
        for token in sample.input_ids[sample.assistant_mask].tolist():
            counts[token] += 1
    return counts


def draft_of(base: BaseLM, folder: Path) -> Path:
    spec = DraftSpec(name="tiny", architecture=tiny_architecture(layers=1), init="random")
    if base.hidden_size != spec.architecture.hidden_size or base.vocab_size != spec.architecture.vocab_size:
        sizes = {"hidden_size": base.hidden_size, "vocab_size": base.vocab_size}
        spec = spec.model_copy(update={"architecture": spec.architecture.model_copy(update=sizes)})
    save_draft(build_draft(spec, AlgorithmSpec(), base), folder, algorithm=AlgorithmSpec(), facts={})
    return folder


def test_a_training_keeps_the_counts_of_its_training_samples_with_every_draft(tmp_path: Path) -> None:
    spec = write_tiny_base(tmp_path / "base")
    base = load_tiny_base(spec)
    store = write_tiny_store(tmp_path / "store", base)
    asked = tiny_run_spec(spec, [store], max_steps=4, save_every=2, eval_fraction=0.0)
    paths = make_run_folder(tmp_path / "run", asked)
    with open_tiny_context(paths) as context:
        train.run(context)
    files = sorted(paths.folder.rglob(TOKEN_COUNTS))
    assert len(files) > 1
    for file in files:
        found = read_token_counts(file.parent)
        assert found is not None and torch.equal(found.counts, counted_by_hand(store, base.vocab_size))
        assert "samples" in found.source


def test_the_answers_of_a_dataset_are_counted_and_kept_beside_the_draft(tmp_path: Path) -> None:
    base = load_tiny_base(write_tiny_base(tmp_path / "base"))
    store = write_tiny_store(tmp_path / "store", base)
    draft = draft_of(base, tmp_path / "draft")
    answer = count_tokens(draft, store)
    found, by_hand = read_token_counts(draft), counted_by_hand(store, base.vocab_size)
    assert found is not None and torch.equal(found.counts, by_hand)
    assert answer["tokens"] == int(by_hand.sum()) and answer["different"] == int((by_hand > 0).sum())
    assert inspect(draft)["token_counts"]["tokens"] == answer["tokens"]
    import_draft(draft, tmp_path / "copy")
    copied = read_token_counts(tmp_path / "copy")
    assert copied is not None and torch.equal(copied.counts, by_hand)


def conversations(folder: Path, *answers: str) -> Path:
    file = folder / "conversations.jsonl"
    rows = [[{"role": "user", "content": "Who?"}, {"role": "assistant", "content": answer}] for answer in answers]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return file


def pair(folder: Path) -> tuple[BaseSpec, BaseLM, Path]:
    spec = make_tiny_base(folder / "base")
    base = BaseLM.load(spec, device="cpu", dtype=torch.float32)
    return spec, base, draft_of(base, folder / "draft")


def test_a_file_of_conversations_is_counted_with_the_tokenizer_of_the_base(tmp_path: Path) -> None:
    spec, base, draft = pair(tmp_path)
    count_tokens(draft, conversations(tmp_path, "me", "me and you"), spec)
    template, expected = ChatTemplate.for_tokenizer(base.tokenizer), torch.zeros(base.vocab_size, dtype=torch.int64)
    for answer in ("me", "me and you"):
        for token in base.tokenizer(answer + template.answer_end, add_special_tokens=False)["input_ids"]:
            expected[token] += 1
    found = read_token_counts(draft)
    assert found is not None and torch.equal(found.counts, expected)


def test_a_file_of_conversations_needs_a_base(tmp_path: Path) -> None:
    _, _, draft = pair(tmp_path)
    with pytest.raises(UsageError, match="holds conversations, and no base is named"):
        count_tokens(draft, conversations(tmp_path, "me"))
    assert not (draft / TOKEN_COUNTS).exists()


def test_data_without_answers_leaves_the_old_counts(tmp_path: Path) -> None:
    spec, _, draft = pair(tmp_path)
    count_tokens(draft, conversations(tmp_path, "me"), spec)
    before = (draft / TOKEN_COUNTS).read_bytes()
    base = load_tiny_base(write_tiny_base(tmp_path / "other"))
    store = write_tiny_store(tmp_path / "store", base, supervised=False)
    with pytest.raises(DataError, match="has no token of an assistant"):
        count_tokens(draft, store)
    assert (draft / TOKEN_COUNTS).read_bytes() == before


def test_data_of_a_larger_vocabulary_is_refused(tmp_path: Path) -> None:
    base = load_tiny_base(write_tiny_base(tmp_path / "base"))
    draft = draft_of(base, tmp_path / "draft")
    larger = load_tiny_base(write_tiny_base(tmp_path / "larger", vocab=base.vocab_size * 8))
    store = write_tiny_store(tmp_path / "store", larger, greedy=False)
    with pytest.raises(DataError, match=f"the base of the draft has {base.vocab_size} tokens"):
        count_tokens(draft, store)
