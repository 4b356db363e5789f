"""What every test stands on: a home of its own, no network, and one thread per test process.

`HETSPEC_HOME` is a fresh folder for each test. Fixtures of a wider scope, which live longer than one test, see the home
in `.cache/tests` instead: the default base is dequantised there once per checkout (`make clean` removes it).
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

# Until all tests are collected: the collector would read all objects of torch and of pytest again and again.
gc.disable()

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared"
LASTING_HOME = REPOSITORY / ".cache" / "tests"

# Before anything imports torch or Hugging Face's libraries, which read these once. Child processes inherit them.
os.environ["HETSPEC_HOME"] = str(LASTING_HOME)
os.environ["HF_HOME"] = str(LASTING_HOME / "huggingface")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tests share the cores with each other or with whatever else runs: threads that wait for each other would spin.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# The time of an example says nothing on a busy machine; on CI the same examples are drawn every time.
hypothesis.settings.register_profile("hetspec", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
hypothesis.settings.load_profile("hetspec")

# What makes rich and Typer write colours into a pipe, whatever the terminal is that the tests were started from.
_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the `gpu` tests where there is no CUDA device; torch is imported only if there are any."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none here"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: many tests wait for a run, a server or a screen."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


def pytest_collection_finish() -> None:
    """Collect garbage again, and leave out what the imports made."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fresh folder that `HETSPEC_HOME` names in this test, for this process and its children."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HETSPEC_HOME", str(folder))
    for name in _COLOURS:
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def shared_models(home: Path) -> Path:
    """The cache of dequantised models, shared by all tests that ask for it and seen from this test's own home."""
    models = LASTING_HOME / "cache" / "models"
    models.mkdir(parents=True, exist_ok=True)
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache" / "models").symlink_to(models, target_is_directory=True)
    return models


def shared_path(name: str) -> Path:
    """Path of optional real data that lies beside the repository; skips the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}, which is not part of the repository")
    return path
