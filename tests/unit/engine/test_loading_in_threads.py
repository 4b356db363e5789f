"""Models loaded by two threads at once: the library that loads them changes its own classes meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hetspec_core.engine.modeling.attention_survey import survey_config
from hetspec_core.engine.modeling.base_lm import BaseLM
from hetspec_core.engine.modeling.sources import LOADING
from tests.fakes.tiny_models import tiny_base, tiny_draft, tiny_model
from tests.fakes.tiny_training import write_tiny_base


def test_two_threads_load_one_after_the_other_and_weights_are_tied_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases = [write_tiny_base(tmp_path / name) for name in ("one", "two")]
    tie, load = PreTrainedModel.tie_weights, AutoModelForCausalLM.from_pretrained
    inside, most = 0, 0

    def slowly(*args: Any, **named: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.1)  # long enough for the other thread to come in
        try:
            return load(*args, **named)
        finally:
            inside -= 1

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", slowly)
    threads = [
        threading.Thread(target=lambda spec=spec: BaseLM.load(spec, device="cpu", dtype=torch.float32))
        for spec in bases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert PreTrainedModel.tie_weights is tie
    model = tiny_model("llama", tied=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("part", ["survey", "draft"])
def test_a_model_is_built_while_no_other_thread_loads_one(part: str) -> None:
    """Both change torch's default type for the whole process, and each puts back what it found."""
    base = tiny_base()

    def build() -> None:
        if part == "survey":
            survey_config(type(base.model), base.model.config)
        else:
            tiny_draft(base)

    thread = threading.Thread(target=build)
    with LOADING:
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
