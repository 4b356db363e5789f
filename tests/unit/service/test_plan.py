"""A plan's numbers: against what was measured, against files on disk, and that more is never less."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hetspec_core.config import resolve
from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.jobs import Inventory
from hetspec_core.paths import Roots
from hetspec_core.service.plan import Facts, GpuFacts, Plan, ProbeFacts, gather_facts, plan
from hetspec_core.service.planning import facts as facts_module
from hetspec_core.service.planning.costs import DataEstimate, store_bytes
from hetspec_core.service.planning.facts import BaseFiles, SourceFacts, StoredFacts
from hetspec_core.spec import Architecture, DatasetSpec, RunSpec
from tests.fakes.specs import small_spec
from tests.fakes.stores import sample, writer

H200 = GpuFacts("NVIDIA H200", 150_000_000_000, 149_000_000_000)
FACTS = Facts(
    cores=16,
    memory_bytes=256_000_000_000,
    free_memory_bytes=200_000_000_000,
    disk_path="/data",
    free_disk_bytes=900_000_000_000,
    gpus=(H200,),
    base=BaseFiles("ready", "/models/base"),
    source=SourceFacts(404, 30.0),
    prompts=40,
)


def recipe(name: str, stage: str = "train", *overrides: str) -> RunSpec:
    return resolve(name, stage=stage, overrides=overrides).spec


def with_facts(**changes: Any) -> Facts:
    return dataclasses.replace(FACTS, **changes)


@pytest.mark.parametrize(
    ("name", "tokens", "vocabulary", "measured_bytes_per_token"),
    [
        ("smollm2-llama-eagle", 16_384, None, 138_378),
        ("smollm2-llama-eagle", 16_384, 8192, 76_710),
        ("llama2-7b-llama-eagle", 8_192, None, 714_377),
    ],
)
def test_memory_of_a_training_step_is_near_what_was_measured(
    name: str, tokens: int, vocabulary: int | None, measured_bytes_per_token: int
) -> None:
    """Peaks of a step above the weights on an H200, from docs/lab/LOG.md (what does an optimiser step cost?)."""
    reduced = [f"draft.vocab_size={vocabulary}"] if vocabulary else []
    made = plan(recipe(name, "train", f"training.tokens_per_batch={tokens}", *reduced), FACTS)
    step = ("draft weights in bfloat16", "gradients", "activations", "logits")
    estimate = sum(part.bytes for part in made.memory if part.name in step)
    assert estimate == pytest.approx(tokens * measured_bytes_per_token, rel=0.15)


def test_the_duration_of_training_is_near_what_was_measured() -> None:
    """106,585 tokens/s with a 7B base on an H200, and 254,954 with SmolLM2 (docs/lab/LOG.md): within a factor of 4."""
    for name, measured in (("llama2-7b-llama-eagle", 106_585), ("smollm2-llama-eagle", 254_954)):
        made = plan(recipe(name, "train", "training.max_steps=1000"), FACTS)
        assert made.phases is not None
        assert made.tokens_per_step is not None
        seconds = next(phase.seconds for phase in made.phases if phase.name == "training steps")
        assert measured / 4 < 1000 * made.tokens_per_step / seconds < measured * 4


@pytest.mark.parametrize(
    ("name", "layers", "measured"),
    [("smollm2-llama-eagle", "[]", 280_934), ("qwen3-4b-qwen3-eagle", "[2, 18, 33]", 26_113)],
)
def test_the_duration_of_capture_is_near_what_was_measured(name: str, layers: str, measured: int) -> None:
    """Tokens/s on an H200 (docs/lab/LOG.md, is capture as fast as a plain forward?): within a factor of 2."""
    overrides = ("dataset.answers='data'", "dataset.limit=1000", f"dataset.layers={layers}")
    made = plan(recipe(name, "dataset", *overrides), with_facts(source=SourceFacts()))
    assert made.phases is not None
    assert made.tokens is not None
    seconds = next(phase.seconds for phase in made.phases if phase.name == "capture")
    assert measured / 2 < made.tokens / seconds < measured * 2


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(4, 40), min_size=1, max_size=12))
def test_bytes_of_hidden_states_are_those_of_real_shards(
    lengths: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with writer(folder, shard_bytes=1 << 20) as out:
        for number, length in enumerate(lengths):
            out.add(dataclasses.replace(sample(number, length), id=f"{number:032x}"))
    dataset = DatasetSpec(layers=(1,), shard_megabytes=1)
    spec = small_spec("x", "dataset").model_copy(update={"dataset": dataset})
    data = DataEstimate(len(lengths), sum(lengths) / len(lengths), 1.0, "rows")
    size, estimate = sum(file.stat().st_size for file in folder.glob("*.safetensors")), store_bytes(spec, data)
    assert estimate is not None
    assert 0 <= estimate - size < 2048  # the header's fixed part is rounded up
    assert plan(spec, FACTS).bytes_per_token == 2 * 8 * 2 + 5


def numbers(made: Plan) -> tuple[float, ...]:
    """Everything that may only grow with the sizes of a run."""
    known = (made.base.total, made.device_bytes, made.host_bytes, made.disk_bytes, made.seconds, made.steps)
    return tuple(0.0 if value is None else float(value) for value in known)


GROWING = {
    "num_hidden_layers": "architecture",
    "intermediate_size": "architecture",
    "vocab_size": "architecture",
    "num_key_value_heads": "architecture",
    "limit": "dataset",
    "max_length": "dataset",
    "max_new_tokens": "dataset",
    "generation_batch": "dataset",
    "tokens_per_batch": "dataset",
}


@given(
    key=st.sampled_from(sorted(GROWING)),
    factor=st.integers(2, 5),
    stage=st.sampled_from(["dataset", "train", "bench"]),
    gpus=st.sampled_from([(), (H200,)]),
)
def test_larger_sizes_never_need_less(key: str, factor: int, stage: Any, gpus: tuple[GpuFacts, ...]) -> None:
    spec = recipe("smollm2-llama-eagle", stage, "dataset.limit=100", "dataset.max_length=64")
    place = GROWING[key]
    if place == "architecture":
        sizes: Architecture = spec.base.architecture
        larger_sizes = sizes.model_copy(update={key: getattr(sizes, key) * factor})
        larger = spec.model_copy(update={"base": spec.base.model_copy(update={"architecture": larger_sizes})})
    else:
        section = spec.dataset.model_copy(update={key: getattr(spec.dataset, key) * factor})
        larger = spec.model_copy(update={"dataset": section})
    facts = with_facts(gpus=gpus, source=SourceFacts(10_000, 30.0))
    before, after = numbers(plan(spec, facts)), numbers(plan(larger, facts))
    # Answers written together: a wider batch costs more memory and less time.
    compared = range(4) if key == "generation_batch" else range(len(before))
    assert all(after[index] >= before[index] for index in compared)


@given(samples=st.integers(1, 10_000), more=st.integers(0, 10_000), length=st.integers(4, 1024))
def test_more_data_never_means_fewer_steps(samples: int, more: int, length: int) -> None:
    spec = recipe("llama2-7b-llama-eagle", "train", "training.datasets=['x']")

    def steps(count: int) -> int:
        made = plan(spec, with_facts(stored=StoredFacts(count, count * length, count * length // 2)))
        assert made.steps is not None
        return made.steps

    assert steps(samples) <= steps(samples + more)


def test_steps_are_those_of_the_epochs_or_the_given_ones() -> None:
    stored = StoredFacts(samples=1000, tokens=1_000_000, supervised_tokens=500_000)
    overrides = ("training.datasets=['x']", "training.eval_fraction=0", "training.epochs=2")
    made = plan(recipe("smollm2-llama-eagle", "train", *overrides), with_facts(stored=stored))
    assert made.tokens == 1_000_000
    assert made.steps == math.ceil(2 * 1_000_000 / (0.9 * 4096))
    given_steps = plan(recipe("smollm2-llama-eagle", "train", "training.max_steps=7"), FACTS)
    assert given_steps.steps == 7


def test_minutes_cut_the_training_off() -> None:
    made = plan(recipe("smollm2-llama-eagle", "train", "training.max_minutes=2"), with_facts(gpus=()))
    assert made.phases is not None
    assert sum(phase.seconds for phase in made.phases[1:]) <= 120.001


def test_a_run_that_fits_nowhere_is_refused_with_every_reason() -> None:
    tiny = with_facts(free_memory_bytes=10**6, free_disk_bytes=10**6, gpus=(GpuFacts("Small", 10**9, 10**9),))
    made = plan(recipe("llama2-7b-llama-eagle"), tiny)
    assert not made.fits
    assert [reason.split(" ")[0:2] for reason in made.refusals] == [
        ["a", "GPU"],
        ["the", "machine's"],
        ["the", "disk"],
    ]
    assert plan(recipe("llama2-7b-llama-eagle"), FACTS).fits


def test_a_base_that_cannot_be_decoded_with_is_refused_by_name() -> None:
    """Told from the preset's model type, or from the configuration that lies on this machine."""
    known = plan(recipe("smollm2-llama-eagle", "train", "base.architecture.model_type=gpt_oss"), FACTS)
    assert [reason for reason in known.refusals if "family gpt_oss" in reason and "sinks" in reason]
    assert "ordinary attention" in known.remedy and "make room" not in known.remedy
    seen = with_facts(base=BaseFiles("ready", "/models/base", refusal="bases of family lfm2 are not supported: why"))
    assert "bases of family lfm2 are not supported: why" in plan(recipe("smollm2-llama-eagle"), seen).refusals


def test_more_gpus_than_there_are_is_refused_and_split_steps_otherwise() -> None:
    spec = recipe("smollm2-llama-eagle", "train", "resources.num_gpus=2", "training.datasets=['x']")
    stored = StoredFacts(1000, 1_000_000, 500_000)
    assert "2 GPUs are asked for" in plan(spec, with_facts(stored=stored)).refusals[0]
    two = plan(spec, with_facts(stored=stored, gpus=(H200, H200)))
    one = plan(recipe("smollm2-llama-eagle", "train", "training.datasets=['x']"), with_facts(stored=stored))
    assert two.fits
    assert (one.num_devices, two.num_devices) == (1, 2)
    assert (one.tokens_per_step, two.tokens_per_step) == (4096, 8192)
    assert one.steps is not None
    assert two.steps == math.ceil(one.steps / 2)


def test_leased_gpus_are_waited_for_and_count_with_all_their_memory() -> None:
    leased = dataclasses.replace(H200, free_bytes=10**6, state="leased")
    spec = recipe("smollm2-llama-eagle", "train", "resources.num_gpus=2")
    made = plan(spec, with_facts(gpus=(leased, H200)))
    assert made.fits
    assert any("1 of 2 GPUs are free now" in note for note in made.notes)
    one = plan(recipe("smollm2-llama-eagle"), with_facts(gpus=(leased, H200)))
    assert one.free_device_bytes == H200.free_bytes
    assert not any("free now" in note for note in one.notes)


def test_gpus_come_from_the_inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "3")
    found = facts_module.find_gpus(tmp_path)
    assert found is not None
    assert [(gpu.name, gpu.state) for gpu in found] == [("Simulated GPU", "free")] * 3
    monkeypatch.delenv("HETSPEC_FAKE_GPUS")
    monkeypatch.setattr(facts_module, "read_inventory", lambda: Inventory((), "no driver"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert facts_module.find_gpus(tmp_path) is None


def test_without_an_inventory_the_plan_says_so() -> None:
    spec = recipe("quick-demo")
    on_processor = plan(spec, with_facts(gpus=None))
    assert on_processor.device == "cpu"
    assert any("no GPU inventory" in note and "processor" in note for note in on_processor.notes)
    forced = plan(recipe("quick-demo", "train", "resources.device='cuda'"), with_facts(gpus=None))
    assert forced.device == "cuda"
    assert forced.fits
    assert any("not checked" in note for note in forced.notes)
    assert plan(recipe("quick-demo", "train", "resources.device='cuda'"), with_facts(gpus=())).refusals


def test_a_source_of_unknown_size_leaves_its_numbers_open() -> None:
    unknown = with_facts(source=SourceFacts())
    made = plan(recipe("llama2-7b-llama-eagle", "dataset"), unknown)
    assert (made.samples, made.tokens, made.store_bytes, made.seconds) == (None, None, None, None)
    assert any("dataset.limit" in note for note in made.notes)
    limited = plan(recipe("llama2-7b-llama-eagle", "dataset", "dataset.limit=10"), unknown)
    assert limited.tokens == 10 * 2048
    assert limited.seconds


def test_a_probe_takes_the_place_of_assumptions() -> None:
    probe = ProbeFacts("r1", 20, 2000, 1500, 2_400_000, capture_s=4.0, answers_s=40.0, memory_bytes={"process": 10**9})
    made = plan(recipe("quick-demo", "dataset"), with_facts(probe=probe, gpus=()))
    assert made.basis == "probe"
    assert made.tokens == 300 * 100
    assert made.phases is not None
    seconds = {phase.name: phase.seconds for phase in made.phases}
    assert seconds["answers"] == pytest.approx(40 * 300 / 20)
    assert seconds["capture"] == pytest.approx(4 * 300 / 20)
    assert any("measured by run r1" in text for text in made.assumptions)
    assert plan(recipe("quick-demo", "dataset"), FACTS).basis == "cost model"


def test_bench_and_generate_are_planned_too() -> None:
    bench, generate = plan(recipe("quick-demo", "bench"), FACTS), plan(recipe("quick-demo", "generate"), FACTS)
    for made in (bench, generate):
        assert made.seconds
        assert made.samples is None
        assert {"base weights", "key/value cache", "draft weights"} <= {part.name for part in made.memory}


def test_what_is_expected_of_trees_follows_the_rates_that_training_simulated(tmp_path: Path) -> None:
    spec = recipe("smollm2-llama-eagle", "bench", "resources.device='cpu'", "resources.num_threads=1")
    modest, good, useless = (
        plan(spec, dataclasses.replace(FACTS, acceptance_rates=rates)).trees for rates in ((), (0.9,) * 6, (0.0,) * 6)
    )
    assert [tree.tree for tree in modest] == ["6/10/60", "auto"] and "accept length" in modest[0].sentence
    assert good[0].accept_length > modest[0].accept_length > useless[0].accept_length
    assert all(auto.speedup >= max(1.0, named.speedup) for named, auto in (modest, good, useless))
    assert useless[1].shape == "plain" and "decodes plainly" in useless[1].sentence
    assert f"takes {good[1].shape}: " in good[1].sentence
    assert plan(recipe("smollm2-llama-eagle", "generate", "decoding.plain=true"), FACTS).trees == ()
    (tmp_path / "config.json").write_text('{"hetspec": {"acceptance_rates": [0.5, 0.25]}}')
    roots = Roots.below(tmp_path / "home")
    for found, file in (((0.5, 0.25), tmp_path), ((), tmp_path / "nowhere")):
        named = recipe("smollm2-llama-eagle", "bench", f"draft.checkpoint='{file}'")
        assert gather_facts(named, roots).acceptance_rates == found
    (tmp_path / "config.json").write_text('{"hetspec": {"acceptance_rates": ["much"]}}')
    assert (
        gather_facts(recipe("smollm2-llama-eagle", "bench", f"draft.checkpoint='{tmp_path}'"), roots).acceptance_rates
        == ()
    )


def test_the_reference_decoder_is_planned_with_its_launches() -> None:
    spec = recipe("smollm2-llama-eagle", "bench", "resources.device='cuda'")
    reference = recipe("smollm2-llama-eagle", "bench", "resources.device='cuda'", "resources.decoder='reference'")
    fast, slow = (plan(each, FACTS).seconds for each in (spec, reference))
    assert fast is not None and slow is not None and slow > 5 * fast


def test_a_plan_for_training_needs_a_draft() -> None:
    with pytest.raises(SpecError, match="needs a draft"):
        plan(small_spec("x", "train"), FACTS)


def test_facts_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "find_gpus", lambda data: None)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "one"}\n\n{"prompt": "two and more"}\n')
    store = tmp_path / "store"
    with writer(store) as out:
        for number in range(3):
            out.add(sample(number))
    roots = Roots.below(tmp_path / "home")
    source = f"dataset.source='{rows}'"
    found = gather_facts(recipe("quick-demo", "train", source, f"training.datasets=['{store}']"), roots)
    assert found.source.conversations == 2
    assert found.stored is not None
    assert (found.stored.samples, found.stored.tokens) == (3, 18)
    assert found.gpus is None
    assert found.free_disk_bytes > 0 < found.free_memory_bytes
    assert gather_facts(recipe("quick-demo", "bench"), roots).prompts == 8
    with pytest.raises(NotFoundError, match="no hidden-state dataset"):
        gather_facts(recipe("quick-demo", "train", f"training.datasets=['{tmp_path}']"), roots)
    with pytest.raises(NotFoundError, match="no dataset"):
        gather_facts(recipe("quick-demo", "dataset", "dataset.source='nowhere.jsonl'"), roots)


def test_training_reads_the_ends_of_the_base_and_the_layers_that_the_draft_copies() -> None:
    def read(*overrides: str) -> int:
        made = plan(recipe("llama2-7b-llama-eagle", "train", *overrides), with_facts(gpus=()))
        return next(part.bytes for part in made.memory if part.name == "part of the base that is read")

    ends, layer = 2 * (2 * 32000 * 4096 + 4096), 2 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096)
    assert read("draft.init='random'") == ends
    assert read("draft.init='base_last_layers'") == ends + layer


def test_what_is_dropped_after_loading_is_not_added_to_what_comes_after() -> None:
    made = plan(recipe("llama2-7b-llama-eagle"), with_facts(gpus=()))
    sizes = {part.name: part.bytes for part in made.memory}
    loading, process = sizes["part of the base that is read"], sizes["process (torch, transformers)"]
    working = sum(sizes.values()) - loading - process
    assert made.device_bytes == made.host_bytes == process + max(loading, working)


def test_to_json_has_the_sums() -> None:
    made = plan(recipe("quick-demo"), FACTS).to_json()
    assert made["device_bytes"] == sum(part["bytes"] for part in made["memory"] if part["on_device"])
    assert made["disk_bytes"] == sum(part["bytes"] for part in made["disk"])
    assert made["draft"]["total"] == 4_203_648
    assert made["fits"] is True
