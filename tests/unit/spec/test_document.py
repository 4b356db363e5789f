"""spec.toml: what is written is read back as it was, and what cannot be read says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetspec_core.errors import SpecError
from hetspec_core.spec import (
    AlgorithmSpec,
    Architecture,
    BaseSpec,
    BenchSpec,
    DatasetSpec,
    DraftSpec,
    HubSource,
    OptimizerSpec,
    PackageSource,
    PathSource,
    RunSpec,
    SamplingSpec,
    TrainingSpec,
    TreeSpec,
)
from hetspec_core.spec.run import from_toml, to_toml

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
names = texts.filter(bool)
counts = st.integers(1, 10**9)
amounts = st.floats(1e-12, 1e12)
scalars = st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | texts
tables = st.dictionaries(texts, scalars, max_size=3)

architectures = st.builds(
    Architecture,
    model_type=texts,
    hidden_size=counts,
    intermediate_size=counts,
    num_hidden_layers=counts,
    num_attention_heads=counts,
    num_key_value_heads=counts,
    head_dim=st.none() | counts,
    vocab_size=counts,
    max_position_embeddings=counts,
    rope_theta=amounts,
    rms_norm_eps=amounts,
    tie_word_embeddings=st.booleans(),
    num_experts=st.none() | counts,
    extra=tables,
)
sources = (
    st.builds(HubSource, repo_id=names, revision=texts)
    | st.builds(PathSource, path=names)
    | st.builds(PackageSource, package=names, file=names, requirement=names)
)
trees = st.builds(TreeSpec, depth=counts, top_k=counts, num_draft_tokens=counts)
specs = st.builds(
    RunSpec,
    stage=st.sampled_from(["dataset", "train", "bench", "generate"]),
    name=texts,
    base=st.builds(
        BaseSpec,
        name=names,
        source=sources,
        architecture=architectures,
        system_prompt=st.none() | texts,
        special_tokens=st.dictionaries(texts, texts, max_size=2),
    ),
    draft=st.none() | st.builds(DraftSpec, name=names, architecture=architectures, vocab_size=st.none() | counts),
    algorithm=st.builds(AlgorithmSpec, name=texts, options=tables),
    dataset=st.builds(
        DatasetSpec,
        range=st.none() | st.tuples(st.integers(0, 9), st.integers(10, 99)),
        layers=st.lists(st.integers(0, 99), max_size=3).map(tuple),
        sampling=st.builds(SamplingSpec, temperature=amounts, top_k=counts),
    ),
    training=st.builds(
        TrainingSpec,
        datasets=st.lists(texts, max_size=2).map(tuple),
        max_steps=st.none() | counts,
        optimizer=st.builds(OptimizerSpec, lr=amounts),
    ),
    bench=st.builds(
        BenchSpec, trees=st.lists(trees, min_size=1, max_size=3, unique_by=lambda tree: tree.label).map(tuple)
    ),
    prompts=st.lists(texts, max_size=2).map(tuple),
)


@given(specs)
def test_reading_gives_back_what_was_written(spec: RunSpec) -> None:
    again = from_toml(to_toml(spec))
    assert again == spec
    assert again.spec_hash == spec.spec_hash


def any_spec() -> RunSpec:
    sizes = Architecture(
        model_type="llama",
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=32,
        max_position_embeddings=64,
    )
    return RunSpec(stage="train", base=BaseSpec(name="b", source=PathSource(path="/b"), architecture=sizes))


def test_defaults_are_written_out() -> None:
    text = to_toml(any_spec())
    assert "num_draft_tokens = 60" in text
    assert "max_steps" not in text, "an absent value has no line"


def test_a_newer_schema_says_to_update() -> None:
    text = to_toml(any_spec()).replace("schema_version = 1", "schema_version = 2")
    with pytest.raises(
        SpecError, match=r"run/spec.toml has schema_version 2; this version of HetSpec reads up to 1"
    ) as e:
        from_toml(text, name="run/spec.toml")
    assert "update HetSpec" in e.value.hint


def test_unknown_keys_are_all_named() -> None:
    text = (
        to_toml(any_spec()).replace("[training]\n", "[training]\nepocs = 3\n").replace("[bench]\n", "[bench]\nx = 1\n")
    )
    with pytest.raises(SpecError) as e:
        from_toml(text)
    assert e.value.problems[0] == "training.epocs: unknown key; did you mean 'epochs'?"
    assert e.value.problems[1].startswith("bench.x: unknown key; known: prompts")
    assert "another version" in e.value.hint


def test_a_torn_file_is_no_toml() -> None:
    with pytest.raises(SpecError, match=r"spec\.toml is not TOML"):
        from_toml(to_toml(any_spec())[:200] + '"')
