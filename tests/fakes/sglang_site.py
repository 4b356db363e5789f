"""A folder for PYTHONPATH in which `sglang` is the fake of `sglang_server.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

from hetspec_core.spec import SGLangSpec

SERVER = Path(__file__).with_name("sglang_server.py")


def make_site(folder: Path, version: str = "0.5.17") -> Path:
    """Write it; returns the folder."""
    package = folder / "sglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    shutil.copy(SERVER, package / "launch_server.py")
    about = folder / f"sglang-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")
    return folder


def site_spec(folder: Path, mode: str = "well", **more: object) -> SGLangSpec:
    """Settings that start the fake."""
    environment = {"FAKE_SGLANG": mode, "FAKE_MARK": str(folder / "mark")}
    return SGLangSpec.model_validate(
        {"python_path": str(folder), "environment": environment, "start_timeout_s": 30.0, **more}
    )
