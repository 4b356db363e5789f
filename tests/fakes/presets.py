"""A user's preset, written into the home of the test."""

from __future__ import annotations

from pathlib import Path

from hetspec_core.paths import roots


def write_preset(reference: str, text: str) -> Path:
    path = roots().user_presets / f"{reference}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
