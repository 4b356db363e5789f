"""The hidden-state store: what goes in comes out, and no kill, full disk or altered file loses what is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from hetspec_core.engine.data.hidden_states import open_store
from hetspec_core.engine.data.manifest import check_checksum, read_manifest
from hetspec_core.errors import CorruptFileError, DataError, NotFoundError, ResourceError, RunError
from tests.conftest import REPOSITORY
from tests.fakes.stores import WIDTH, assert_same, identity, sample, write, writer


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=12), shard_bytes=st.integers(1, 2000))
@settings(max_examples=20, deadline=None)
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], shard_bytes: int) -> None:
    folder = tmp_path_factory.mktemp("store")
    samples = [sample(number, length) for number, length in enumerate(lengths)]
    with writer(folder, shard_bytes=shard_bytes) as out:
        for one in samples:
            out.add(one)

    store = open_store([folder])

    assert store.lengths == lengths
    assert store.supervised == [int(one.assistant_mask[2:].sum()) for one in samples]
    for number, one in enumerate(samples):
        assert_same(store[number], one)
    counts = read_manifest(folder).counts
    assert (counts.samples, counts.tokens) == (len(lengths), sum(lengths))


def test_shard_is_plain_safetensors_without_padding(tmp_path: Path) -> None:
    write(tmp_path, range(3), shard_bytes=1 << 20)

    with safe_open(tmp_path / "shard-00000.safetensors", framework="pt") as file:
        assert file.get_tensor("offsets").tolist() == [0, 6, 12, 18]
        assert file.get_tensor("hidden_states").shape == (18, WIDTH)
        assert file.get_tensor("hidden_states").dtype == torch.bfloat16
        assert '"id2"' in file.metadata()["ids"]


def test_samples_are_views_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, range(3), shard_bytes=1 << 20)

    store = open_store([tmp_path])

    assert store[0].hidden.data_ptr() + 6 * WIDTH * 2 == store[1].hidden.data_ptr()


def test_several_stores_open_as_one(tmp_path: Path) -> None:
    write(tmp_path / "a", range(3))
    write(tmp_path / "run" / "hidden_states", range(3, 5))

    store = open_store([tmp_path / "a", tmp_path / "run"])

    assert store.ids == [f"id{n}" for n in range(5)]
    assert_same(store[4], sample(4))


def test_stores_of_different_bases_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a", range(2))
    with writer(tmp_path / "b", base_fingerprint="other"):
        pass

    with pytest.raises(DataError, match="base_fingerprint: base / other"):
        open_store([tmp_path / "a", tmp_path / "b"])


def test_adding_to_a_store_made_otherwise_is_refused(tmp_path: Path) -> None:
    write(tmp_path, range(2))

    with pytest.raises(DataError, match=r"dtype: bfloat16 / float32; start a new run|dtype: bfloat16 / float32"):
        writer(tmp_path, dtype="float32")


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path), pytest.raises(RunError, match="another process"):
        writer(tmp_path)


def test_same_sample_twice_is_refused(tmp_path: Path) -> None:
    with writer(tmp_path) as out:
        out.add(sample(1))
        with pytest.raises(DataError, match="already"):
            out.add(sample(1))


def test_resume_adds_and_rewrites_nothing(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.glob("shard-*")}

    with writer(tmp_path) as out:
        assert out.done == {f"id{n}" for n in range(4)}
        for number in range(4, 7):
            out.add(sample(number))

    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.glob("shard-*")}
    assert before.items() <= after.items()
    assert open_store([tmp_path]).ids == [f"id{n}" for n in range(7)]


_KILLED = """
import os, signal, sys
from pathlib import Path
from hetspec_core.engine.data import hidden_states
sys.path.insert(0, {here!r})
from tests.fakes.stores import sample, writer
moment, folder = sys.argv[1], Path(sys.argv[2])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "while writing the shard":
    real = os.fsync
    os.fsync = lambda fd: die() if ".writing-" in os.readlink(f"/proc/self/fd/{{fd}}") else real(fd)
with writer(folder) as out:
    for number in range(100):
        if number == 3:
            if moment == "between shard and manifest":
                hidden_states.write_manifest = die
            elif moment == "between shards":
                die()
        out.add(sample(number))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("moment", ["while writing the shard", "between shard and manifest", "between shards"])
def test_kill_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    code = _KILLED.format(here=str(REPOSITORY))
    done = subprocess.run([sys.executable, "-c", code, moment, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL

    with writer(tmp_path) as out:
        kept = set(out.done)
        if moment == "between shard and manifest":
            assert kept  # the complete shard was taken in, not made again
        for number in range(8):
            if f"id{number}" not in kept:
                out.add(sample(number))

    store = open_store([tmp_path])
    assert sorted(store.ids) == [f"id{n}" for n in range(8)]
    for number, name in enumerate(store.ids):
        assert_same(store[number], sample(int(name[2:])))
    assert not list(tmp_path.glob(".writing-*"))
    for shard in read_manifest(tmp_path).shards:
        check_checksum(tmp_path, shard)


_FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from tests.fakes.stores import sample, writer
from hetspec_core.errors import ResourceError
with writer(Path(sys.argv[1])) as out:
    for number in range(3):
        out.add(sample(number))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the kernel now refuses longer files, as a full disk does
try:
    with writer(Path(sys.argv[1]), shard_bytes=1 << 20) as out:
        for number in range(3, 103):
            out.add(sample(number))
except ResourceError as error:
    print(error.message, "|", error.hint)
    sys.exit(error.exit_code)
"""


def test_full_disk_keeps_everything_before(tmp_path: Path) -> None:
    code = _FULL.format(here=str(REPOSITORY))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True)

    assert done.returncode == ResourceError.exit_code, done.stderr
    assert "no room to write" in done.stdout and ".safetensors" in done.stdout
    assert "start the same run again" in done.stdout
    assert not list(tmp_path.glob(".*writing*"))
    store = open_store([tmp_path])
    assert store.ids == ["id0", "id1", "id2"]
    assert_same(store[2], sample(2))


def test_dev_full_is_reported_as_no_room(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / ".writing-shard-00000.safetensors").symlink_to("/dev/full")
    from hetspec_core.engine.data.shards import write_shard

    with pytest.raises(ResourceError, match="the disk is full"):
        write_shard(tmp_path / "shard-00000.safetensors", [sample(n, 4000) for n in range(3)], identity())


def test_truncated_shard_is_found_when_opened(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    path = tmp_path / "shard-00001.safetensors"
    os.truncate(path, path.stat().st_size - 10)

    for act in (lambda: open_store([tmp_path]), lambda: writer(tmp_path)):
        with pytest.raises(CorruptFileError, match=r"shard-00001.safetensors is truncated") as caught:
            act()
        assert "delete it and start the same run again" in caught.value.hint


def test_altered_shard_is_found_by_its_checksum(tmp_path: Path) -> None:
    write(tmp_path, range(4))
    path = tmp_path / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)

    manifest = read_manifest(tmp_path)
    check_checksum(tmp_path, manifest.shards[0])
    with pytest.raises(CorruptFileError, match=r"shard-00001.safetensors was altered"):
        check_checksum(tmp_path, manifest.shards[1])


def test_deleted_shard_is_captured_again_and_the_rest_stays(tmp_path: Path) -> None:
    write(tmp_path, range(6))
    lost = read_manifest(tmp_path).shards[1]
    (tmp_path / lost.file).unlink()
    with pytest.raises(CorruptFileError, match="is missing"):
        open_store([tmp_path])

    with writer(tmp_path) as out:
        assert out.done == {f"id{n}" for n in range(6)} - set(lost.ids)
        for name in lost.ids:
            out.add(sample(int(name[2:])))

    assert sorted(open_store([tmp_path]).ids) == [f"id{n}" for n in range(6)]


def test_unreadable_manifest_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    (tmp_path / "manifest.json").write_text('{"schema_version": 1')

    with pytest.raises(CorruptFileError, match=r"manifest\.json is not a manifest"):
        open_store([tmp_path])


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=str(tmp_path)) as caught:
        open_store([tmp_path])
    assert "dataset generate" in caught.value.hint


def test_foreign_shard_is_not_taken_in(tmp_path: Path) -> None:
    write(tmp_path, range(2), shard_bytes=1 << 20)
    (tmp_path / "shard-00007.safetensors").write_bytes(b"x" * 100)

    with pytest.raises(CorruptFileError, match=r"shard-00007\.safetensors is not a complete shard"):
        writer(tmp_path)
