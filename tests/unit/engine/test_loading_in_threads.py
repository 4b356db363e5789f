"""Models loaded by two threads at once: the library that loads them changes its own classes meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hetspec_core.engine.modeling.base_lm import BaseLM
from tests.fakes.tiny_models import tiny_model
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
