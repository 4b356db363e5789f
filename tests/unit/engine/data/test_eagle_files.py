"""EAGLE's offline files: read as they lie, and named when they are not what they should be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hetspec_core.engine.data import eagle_files
from hetspec_core.engine.data.eagle_files import EagleFiles
from hetspec_core.engine.data.hidden_states import open_samples
from hetspec_core.errors import CorruptFileError, DataError


def write(file: Path, tokens: int = 6, *, batched: bool = False, **changes: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(tokens)
    data: dict[str, Any] = {
        "input_ids": torch.randint(0, 40, (tokens,), generator=generator),
        "hidden_state": torch.randn(tokens, 8, generator=generator).to(torch.bfloat16),
        "loss_mask": torch.tensor([0] * (tokens // 2) + [1] * (tokens - tokens // 2)),
    }
    if batched:
        data = {key: tensor[None] for key, tensor in data.items()}
    data |= changes
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(data, file)
    return data


@pytest.mark.parametrize("batched", [False, True])
def test_samples_are_what_the_files_hold(tmp_path: Path, batched: bool) -> None:
    written = [write(tmp_path / "a" / str(n) / f"data_{n}.ckpt", 5 + n, batched=batched) for n in range(3)]
    store = open_samples([tmp_path / "a"])
    assert isinstance(store, EagleFiles) and len(store) == 3
    assert store.lengths == [5, 6, 7] and store.supervised == [3, 3, 4]  # of the last five of each
    for number, data in enumerate(written):
        sample = store[number]
        assert torch.equal(sample.input_ids.long(), data["input_ids"].reshape(-1))
        assert torch.equal(sample.hidden, data["hidden_state"].reshape(-1, 8))
        assert torch.equal(sample.assistant_mask, data["loss_mask"].reshape(-1).bool())
    assert (store.identity.hidden_size, store.identity.dtype, store.identity.base_fingerprint) == (8, "bfloat16", "")


def test_files_are_looked_into_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a" / "data_0.ckpt"
    write(file)
    EagleFiles([tmp_path / "a"])
    read: list[Path] = []
    real = eagle_files._read
    monkeypatch.setattr(eagle_files, "_read", lambda path: read.append(path) or real(path))
    assert EagleFiles([tmp_path / "a"]).lengths == [6] and not read
    write(file, 9)
    os.utime(file, ns=(1, 1))
    assert EagleFiles([tmp_path / "a"]).lengths == [9] and read == [file]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"loss_mask": torch.ones(3)}, "belong together"),
        ({"hidden_state": torch.ones(6)}, "belong together"),
        ({"hidden_state": torch.ones(6, 8, dtype=torch.int32)}, "belong together"),
        ({"hidden_state": "text"}, "needed are"),
    ],
)
def test_files_that_hold_something_else_are_named(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    write(tmp_path / "data_0.ckpt", **changes)
    with pytest.raises(CorruptFileError, match=rf"data_0\.ckpt.*{word}"):
        EagleFiles([tmp_path])


def test_damaged_files_and_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data_0.ckpt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CorruptFileError, match="cannot be read"):
        EagleFiles([tmp_path])
    write(tmp_path / "data_0.ckpt", input_ids=Path("a"))
    with pytest.raises(CorruptFileError, match="cannot be read"):
        EagleFiles([tmp_path])


def test_files_of_two_bases_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "data_0.ckpt")
    write(tmp_path / "data_1.ckpt", hidden_state=torch.ones(6, 16))
    with pytest.raises(DataError, match=r"hidden size 8.*hidden size 16"):
        EagleFiles([tmp_path])


def test_a_file_whose_states_are_not_finite_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "data_0.ckpt")
    states = torch.zeros(6, 8, dtype=torch.bfloat16)
    states[4, 3] = torch.nan
    write(tmp_path / "a" / "data_1.ckpt", hidden_state=states)
    for _ in range(2):  # once as it is, once from the cache
        files = EagleFiles([tmp_path / "a"])
        assert files.ids == ["a/data_0.ckpt"]
        assert files.not_finite == {"a/data_1.ckpt": "final state, token 4"}
    (tmp_path / "a" / "data_0.ckpt").unlink()
    with pytest.raises(DataError, match=r"none of the 1 files has finite states: a/data_1.ckpt"):
        EagleFiles([tmp_path / "a"])
