"""A user's preset, written into the home of the test."""

from __future__ import annotations

import os
from pathlib import Path

from hetspec_core.paths import roots


def write_preset(reference: str, text: str) -> Path:
    path = roots().user_presets / f"{reference}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_hostile_presets(kind: str) -> tuple[str, ...]:
    """One preset of each sort that cannot be read, as the user's; gives their names."""
    contents = {
        "deep": b"a = " + b"[" * 50_000,
        "digits": b"a = " + b"1" * 5_000,
        "dotted": b".".join([b"a"] * 50_000) + b" = 1",
        "large": b"a = 9223372036854775808",
        "latin": b'summary = "caf\xe9"',
    }
    folder = roots().user_presets / kind
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.toml").write_bytes(content)
    (folder / "folder.toml").mkdir()
    os.mkfifo(folder / "pipe.toml")
    (folder / "dangling.toml").symlink_to("nothing")
    return (*contents, "folder", "pipe", "dangling")
