"""A tiny random base, a dataset of its own greedy answers, and run folders that train on them: seconds, on a CPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hetspec_core.engine.algorithms import build_algorithm
from hetspec_core.engine.context import RunContext, open_context
from hetspec_core.engine.data.batches import Batch
from hetspec_core.engine.data.hidden_states import HiddenStateWriter, Sample
from hetspec_core.engine.data.manifest import StoreIdentity
from hetspec_core.engine.modeling.base_lm import BaseLM, BaseOutput
from hetspec_core.engine.modeling.draft_lm import DraftLM
from hetspec_core.events import Event, Metric, read_events
from hetspec_core.paths import RunPaths
from hetspec_core.spec import Architecture, BaseSpec, DraftSpec, PathSource, RunSpec
from hetspec_core.spec.run import to_toml
from tests.fakes.tiny_models import algorithm_spec

HIDDEN = 32
VOCAB = 48
STOP = 1


def tiny_architecture(*, hidden: int = HIDDEN, vocab: int = VOCAB, layers: int = 2) -> Architecture:
    """A Llama of almost no size."""
    return Architecture(
        model_type="llama",
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab,
        max_position_embeddings=128,
    )


def write_tiny_base(folder: Path, *, seed: int = 0, hidden: int = HIDDEN, vocab: int = VOCAB) -> BaseSpec:
    """Save a random base with a tokenizer, and return its spec."""
    architecture = tiny_architecture(hidden=hidden, vocab=vocab)
    sizes = architecture.model_dump(exclude={"model_type", "extra", "rope_theta"}, exclude_none=True)
    torch.manual_seed(seed)
    config = LlamaConfig(**sizes, bos_token_id=0, eos_token_id=STOP, pad_token_id=STOP, initializer_range=0.3)
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"w{index}": index for index in range(vocab)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")), bos_token="w0", eos_token="w1"
    )
    tokenizer.save_pretrained(folder)
    return BaseSpec(name="tiny", source=PathSource(path=str(folder)), architecture=architecture)


def load_tiny_base(spec: BaseSpec) -> BaseLM:
    """Load a base on the CPU in float32."""
    return BaseLM.load(spec, device="cpu", dtype=torch.float32)


@torch.no_grad()
def write_tiny_store(
    folder: Path,
    base: BaseLM,
    *,
    samples: int = 12,
    seed: int = 0,
    supervised: bool = True,
    greedy: bool = True,
    fingerprint: str | None = None,
    shard_bytes: int = 1 << 20,
    layers: tuple[int, ...] = (),
) -> Path:
    """Store random prompts with the base's own answers (or random ones), of different lengths."""
    identity = StoreIdentity(
        base_fingerprint=fingerprint or base.fingerprint,
        tokenizer_hash="tiny",
        template_hash="tiny",
        hidden_size=base.hidden_size,
        vocab_size=base.vocab_size,
        layers=layers,
        norm="after_final_norm",
        dtype="float32",
    )
    random = torch.Generator().manual_seed(seed)
    with HiddenStateWriter(folder, identity, about={}, shard_bytes=shard_bytes) as writer:
        for number in range(samples):
            prompt = torch.randint(2, base.vocab_size, (4 + number % 3,), generator=random)
            ids = prompt[None]
            for _ in range(8 + 2 * (number % 5)):
                following = base.logits(base.forward(ids).hidden[:, -1:]).argmax(-1)
                if not greedy:
                    following = torch.randint(2, base.vocab_size, (1, 1), generator=random)
                ids = torch.cat([ids, following], dim=1)
            output = base.forward(ids, layers=layers)
            answered = torch.arange(ids.shape[1]) >= len(prompt)
            writer.add(
                Sample(
                    id=f"sample-{seed}-{number}",
                    input_ids=ids[0].to(torch.int32),
                    assistant_mask=answered & torch.tensor(supervised),
                    hidden=output.hidden[0].clone(),
                    layers={layer: state[0].clone() for layer, state in output.layers.items()},
                )
            )
    return folder


def tiny_run_spec(base: BaseSpec, datasets: list[Path], **training: Any) -> RunSpec:
    """A training run on tiny things; keyword arguments are keys of `training`, `draft`, `algorithm` or `resources`."""
    draft = {"name": "tiny-draft", "architecture": tiny_architecture(layers=1), "init": "random"}
    draft |= training.pop("draft", {})
    algorithm = training.pop("algorithm", {})
    settings: dict[str, Any] = {
        "datasets": [str(folder) for folder in datasets],
        "eval_fraction": 0.2,
        "max_steps": 12,
        "tokens_per_batch": 48,
        "gradient_accumulation": 2,
        "precision": "float32",
        "optimizer": {"lr": 3e-3, "warmup_steps": 2},
        "log_every": 1,
        "eval_every": 4,
        "eval_starts": 8,
        "save_every": 4,
    }
    return RunSpec.model_validate(
        {
            "stage": "train",
            "base": base.model_dump(),
            "draft": DraftSpec.model_validate(draft).model_dump(),
            "algorithm": {"name": "eagle", **algorithm},
            "training": settings | training,
            "resources": {"device": "cpu", "num_threads": 1},
        }
    )


def make_run_folder(folder: Path, spec: RunSpec) -> RunPaths:
    """A run folder with its spec, as the desk leaves it."""
    folder.mkdir(parents=True)
    (folder / "spec.toml").write_text(to_toml(spec))
    return RunPaths(folder)


def open_tiny_context(paths: RunPaths, *, cancelled: threading.Event | None = None) -> RunContext:
    """The context of a worker on this folder."""
    return open_context(paths.folder, cancelled=cancelled)


def events_of(paths: RunPaths) -> list[Event]:
    """All events of a run so far."""
    return list(read_events(paths.events)[0])


def series(paths: RunPaths) -> dict[tuple[int, str], float | None]:
    """Every metric value by step and name, the newest where a step was repeated; times and speeds left out."""
    found: dict[tuple[int, str], float | None] = {}
    for event in events_of(paths):
        if isinstance(event, Metric):
            for name, value in event.values.items():
                if name not in ("tokens_per_s", "peak_memory_mb"):
                    found[event.step, name] = value
    return found


LAYERS = (0, 1)  # what the algorithms want of a base of two layers, all together: one dataset serves them all


def states_of(draft: DraftLM, batch: Batch) -> torch.Tensor:
    return draft.first_state(draft.base_features(BaseOutput(batch.features, batch.layers)))


def learn(draft: DraftLM, batch: Batch, algorithm: str) -> list[float]:
    """Sixty steps on one batch; how often the draft's likeliest token was the base's, at each step."""
    rule = build_algorithm(algorithm_spec(algorithm, noise=0.0))
    optimizer = torch.optim.AdamW(draft.trainable_parameters(), lr=2e-2)
    history: list[float] = []
    for _ in range(60):
        optimizer.zero_grad()
        output = rule.loss(draft, batch, torch.Generator().manual_seed(0))
        (output.total / output.num_supervised).backward()
        torch.nn.utils.clip_grad_norm_(draft.trainable_parameters(), 1.0)
        optimizer.step()
        history.append(float(output.sums["top1"] / output.num_supervised))
    return history
