"""`bench --chat-template sglang`: the prompts of SGLang's MT-Bench script, whatever the base's preset says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hetspec_core.cli import bench as command
from hetspec_core.engine.data import chat_families
from hetspec_core.prompts import MT_BENCH_SYSTEM_PROMPT
from hetspec_core.spec import BaseSpec


class Enough(Exception):
    """Nothing is launched."""


def base_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> BaseSpec:
    seen: list[Any] = []

    def launch(workbench: Any, asked: Any, *, quiet: bool) -> None:
        seen.append(asked)
        raise Enough

    monkeypatch.setattr(command, "launch", launch)
    with pytest.raises(Enough):
        command.app(["smollm2-llama-eagle", "--plain", *words], standalone_mode=False)
    return seen[0].spec.base


def test_the_scripts_system_message_takes_the_place_of_the_presets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = base_of(monkeypatch)
    assert own.chat_template != "sglang" and own.system_prompt, "else there is nothing to take the place of"
    base = base_of(monkeypatch, "--chat-template", "sglang")
    assert base.system_prompt == MT_BENCH_SYSTEM_PROMPT
    turns = [{"role": "system", "content": base.system_prompt}, {"role": "user", "content": "Why?"}]
    text, _ = chat_families.render(chat_families.template_text(base.chat_template), turns, True)
    assert text == f"SYSTEM:{MT_BENCH_SYSTEM_PROMPT}\nUSER:Why?\nASSISTANT:"


def test_a_system_message_of_ones_own_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of(monkeypatch, "--chat-template", "sglang", "--set", "base.system_prompt=Be brief.")
    assert (base.chat_template, base.system_prompt) == ("sglang", "Be brief.")
