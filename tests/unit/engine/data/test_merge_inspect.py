"""Merging and inspecting stores."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hetspec_core.engine.data import stores
from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.data.manifest import STATES_CHECKED, check_checksum, read_manifest
from hetspec_core.engine.data.stores import inspect, merge
from hetspec_core.errors import CorruptFileError, DataError
from tests.fakes.stores import assert_same, sample, write, writer
from tests.fakes.tiny_base import make_tiny_tokenizer


def test_merged_store_has_every_sample_once(tmp_path: Path) -> None:
    write(tmp_path / "a", range(4))
    write(tmp_path / "b", range(2, 7))

    facts = merge(tmp_path / "m", [tmp_path / "a", tmp_path / "b"])

    store = open_store([tmp_path / "m"])
    assert (facts["samples"], facts["repeated"]) == (7, 2)
    assert sorted(store.ids) == [f"id{number}" for number in range(7)]
    for number, name in enumerate(store.ids):
        assert_same(store[number], sample(int(name[2:])))
    for shard in read_manifest(tmp_path / "m").shards:
        check_checksum(tmp_path / "m", shard)


def test_samples_whose_states_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a", range(3))
    with writer(tmp_path / "b") as out:
        for number in (3, 4):
            each = sample(number)
            each.layers[1][2, 0] = float("nan") if number == 3 else 0.0
            out.add(each)

    facts = merge(tmp_path / "m", [tmp_path / "a", tmp_path / "b"])

    assert facts["not_finite"] == {"id3": "layer 1, token 2"}
    assert open_store([tmp_path / "m"]).ids == ["id0", "id1", "id2", "id4"]
    assert read_manifest(tmp_path / "m").about[STATES_CHECKED]
    with pytest.raises(DataError, match=r"no sample of .* has finite states"):
        with writer(tmp_path / "c") as out:
            each.hidden[0, 0] = float("inf")
            out.add(each)
        merge(tmp_path / "n", [tmp_path / "c"])


def test_shards_are_linked_not_copied(tmp_path: Path) -> None:
    write(tmp_path / "a", range(2))

    merge(tmp_path / "m", [tmp_path / "a"])

    name = read_manifest(tmp_path / "a").shards[0].file
    assert (tmp_path / "a" / name).samefile(tmp_path / "m" / "shard-00000.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_fingerprint": "other"}, "base_fingerprint: base / other"),
        ({"layers": (1, 2)}, r"layers: \(1,\) / \(1, 2\)"),
        ({"dtype": "float32"}, "dtype: bfloat16 / float32"),
        ({"template_hash": "other"}, "template_hash: tpl / other"),
    ],
)
def test_stores_that_differ_are_refused_with_both_values(tmp_path: Path, change: dict, message: str) -> None:
    write(tmp_path / "a", range(2))
    writer(tmp_path / "b", **change).close()

    with pytest.raises(DataError, match=message):
        merge(tmp_path / "m", [tmp_path / "a", tmp_path / "b"])
    assert not (tmp_path / "m").exists()


def test_existing_destination_is_not_touched(tmp_path: Path) -> None:
    write(tmp_path / "a", range(2))
    (tmp_path / "m").mkdir()

    with pytest.raises(DataError, match="exists already"):
        merge(tmp_path / "m", [tmp_path / "a"])


def test_damaged_source_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path / "a", range(4))
    path = tmp_path / "a" / "shard-00000.safetensors"
    os.truncate(path, 100)

    with pytest.raises(CorruptFileError, match="truncated"):
        merge(tmp_path / "m", [tmp_path / "a"])
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != "home") == ["a"]


def test_merge_command_prints_one_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a", range(2))

    good = stores.main(["merge", str(tmp_path / "m"), str(tmp_path / "a")])
    first = json.loads(capfd.readouterr().out)
    bad = stores.main(["merge", str(tmp_path / "m"), str(tmp_path / "a")])
    second = json.loads(capfd.readouterr().out)

    assert (good, first["samples"]) == (0, 2)
    assert (bad, second["error"]["kind"]) == (DataError.exit_code, "DataError")


def test_inspection_counts_and_marks(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    tokenizer = make_tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    facts = inspect(tmp_path, samples=2, seed=1)

    assert facts["counts"]["samples"] == 3 and facts["counts"]["tokens"] == 18
    assert facts["supervised_share"] == sum(int(sample(n).assistant_mask[2:].sum()) for n in range(3)) / 18
    assert facts["lengths"]["min"] == facts["lengths"]["max"] == 6
    assert sum(row["samples"] for row in facts["lengths"]["histogram"]) == 3
    for shown in facts["samples"]:
        original = sample(int(shown["id"][2:]))
        assert "".join(part["text"] for part in shown["segments"]) == tokenizer.decode(original.input_ids)
        assert sum(part["tokens"] for part in shown["segments"] if part["supervised"]) == shown["supervised"]


def test_inspection_of_a_damaged_store_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, range(3))
    os.truncate(tmp_path / "shard-00000.safetensors", 50)

    status = stores.main(["inspect", str(tmp_path)])

    assert status == CorruptFileError.exit_code
    assert "shard-00000.safetensors is truncated" in json.loads(capfd.readouterr().out)["error"]["message"]
