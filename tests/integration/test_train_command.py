"""`hetspec-core train` from the command line to the draft, with a worker process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetspec_core.cli.main import main
from hetspec_core.paths import roots
from hetspec_core.service.workbench import Workbench
from tests.fakes.tiny_training import HIDDEN, VOCAB, load_tiny_base, write_tiny_base, write_tiny_store

SIZES = f"""
[architecture]
model_type = "llama"
hidden_size = {HIDDEN}
intermediate_size = {2 * HIDDEN}
num_hidden_layers = LAYERS
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = {VOCAB}
max_position_embeddings = 128
"""


@pytest.fixture
def store(home: Path, tmp_path: Path) -> Path:
    """A dataset of a tiny base, and user presets that name both: recipe tiny."""
    spec = write_tiny_base(tmp_path / "base")
    source = f'summary = "tiny"\n[source]\nkind = "path"\npath = "{tmp_path / "base"}"\n'
    presets = {
        "base/tiny.toml": source + SIZES.replace("LAYERS", "2"),
        "draft/tiny-1l.toml": 'summary = "tiny"\nbackbone = "llama"\ninit = "random"\n' + SIZES.replace("LAYERS", "1"),
        "recipe/tiny.toml": 'summary = "tiny"\nbase = "tiny"\ndraft = "tiny-1l"\nalgorithm = "eagle"\n'
        "[training]\ntokens_per_batch = 60\nmax_length = 64\n[dataset]\nmax_length = 64\n"
        "[decoding]\nmax_new_tokens = 32\n"
        '[resources]\nnum_threads = 1\ndevice = "cpu"\n',
    }
    for name, text in presets.items():
        file = roots().user_presets / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return write_tiny_store(tmp_path / "store", load_tiny_base(spec))


def errors_of(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


@pytest.mark.slow
def test_train_makes_a_draft_and_another_run_begins_from_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "tiny", "--dataset", str(store), "--max-steps", "3", "--lr", "1e-3", "--name", "first"]
    assert main([*words, "--set", "training.eval_every=2"]) == 0
    shown = capsys.readouterr()
    assert "simulated accept length" in shown.out and "next: hetspec-core bench tiny" in shown.out
    with Workbench() as workbench:
        first = workbench.resolve_run("first")
        assert (workbench.paths(first).draft / "model.safetensors").is_file()
    assert main([*words[:-1], "second", "--from", "first", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"metric", "checkpoint_saved", "artifact", "result"} <= {line["type"] for line in lines}
    with Workbench() as workbench:
        report = workbench.show(workbench.resolve_run("second"))
    assert report.spec is not None and report.spec.parents == (first,)
    assert report.spec.training.optimizer.lr == 1e-3 and report.spec.training.max_steps == 3


def test_words_that_mean_nothing_are_refused_before_a_run_is_made(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "tiny", "--dataset", "nowhere"]) == 4
    assert "nowhere" in errors_of(capsys)
    assert main(["train", "tiny", "--dataset", str(store), "--from", str(store)]) == 4
    assert "holds no draft" in errors_of(capsys)
    assert main(["train", "tiny", "--dataset", str(store), "--set", "training.max_step=3"]) == 3
    assert "max_steps" in errors_of(capsys)
    assert main(["train", "tiny", "--dataset", str(store), "--report-to", "paper"]) == 3
    assert "training.report_to" in errors_of(capsys)
    assert main(["train", "tiny", "--dataset", str(store), "--epochs", "2", "--max-steps", "5"]) == 2
    assert "--epochs 2 has no effect" in errors_of(capsys)
    assert not roots().runs.exists() or not list(roots().runs.iterdir())
