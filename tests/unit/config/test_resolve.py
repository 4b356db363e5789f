"""Resolving: layers in their order, the origin of every key, and all faults of all steps at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hetspec_core.config
from hetspec_core.config import load_base, resolve
from hetspec_core.errors import NotFoundError, SpecError, UsageError
from hetspec_core.spec import BenchSpec, PathSource, RunSpec, TreeSpec
from tests.fakes.presets import write_preset

RECIPE = "smollm2-llama-eagle"


def spec_of(*overrides: str, recipe: str = RECIPE, stage: str = "train") -> RunSpec:
    return resolve(recipe, stage=stage, overrides=overrides).spec


def problems_of(
    *overrides: str, recipe: str = RECIPE, stage: str = "train", file: Path | None = None
) -> tuple[str, ...]:
    with pytest.raises(SpecError) as error:
        resolve(recipe, stage=stage, overrides=overrides, file=file)
    return error.value.problems


def test_each_layer_goes_over_the_one_beneath(tmp_path: Path) -> None:
    key = "training.seed"
    write_preset("recipe/mine", f'extends = "{RECIPE}"\n')
    seen = [resolve("mine", stage="train").origins[key]]
    write_preset("recipe/mine", f'extends = "{RECIPE}"\n[training]\nseed = 1\n')
    seen.append(resolve("mine", stage="train").origins[key])
    file = tmp_path / "over.toml"
    file.write_text("[training]\n\nseed = 2\n")
    seen.append(resolve("mine", stage="train", file=file).origins[key])
    seen.append(resolve("mine", stage="train", file=file, options={key: 3}).origins[key])
    seen.append(resolve("mine", stage="train", file=file, options={key: 3}, overrides=[f"{key}=4"]).origins[key])
    assert [(origin.value, origin.source) for origin in seen] == [
        (0, "default"),
        (1, "your preset recipe/mine:3"),
        (2, f"file {file}:3"),
        (3, "command line"),
        (4, "--set training.seed"),
    ]


def test_every_leaf_of_the_spec_has_an_origin_with_its_value() -> None:
    resolved = resolve("quick-demo", stage="bench")
    for key, origin in resolved.origins.items():
        value: object = resolved.spec.model_dump(mode="json")
        for name in key.split("."):
            assert isinstance(value, dict)
            value = value[name]
        assert value == origin.value, key
    assert resolved.origins["draft.architecture.intermediate_size"].source == (
        "preset draft/llama-1l:7: formula 'base.intermediate_size' = 1536"
    )
    assert resolved.origins["draft.name"].source == f"preset recipe/{RECIPE}:3"
    assert resolved.origins["stage"].source == "command line"
    assert ("bench.limit", 8, resolved.origins["bench.limit"].source) in resolved.explain()


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.optimizer.lr=1e-4", "training.optimizer.lr", 1e-4),
        ("training.optimizer.betas=[0.8, 0.9]", "training.optimizer.betas", [0.8, 0.9]),
        ("training.project=plain words", "training.project", "plain words"),
        ("training.project='3'", "training.project", "3"),
        ("training.project=2026-01-01", "training.project", "2026-01-01"),
        ("training.project=a=b", "training.project", "a=b"),
        ("decoding.plain=true", "decoding.plain", True),
        ("decoding.tree=4/3/8", "decoding.tree.top_k", 3),
        ("decoding={max_new_tokens=5}", "decoding.max_new_tokens", 5),
        ("draft=qwen3-1l", "draft.name", "qwen3-1l"),
        ("draft.vocab_size=draft.vocab_size // 8", "draft.vocab_size", 6144),
        ("name=my run", "name", "my run"),
        ('prompts=["a", "b"]', "prompts", ["a", "b"]),
        (" training.seed = 7 ", "training.seed", 7),
    ],
)
def test_the_right_side_of_set_is_toml_or_a_bare_word(override: str, key: str, value: object) -> None:
    assert resolve(RECIPE, stage="train", overrides=["draft.init=random", override]).origins[key].value == value


def test_a_value_of_several_lines_sets_nothing_else() -> None:
    assert spec_of("training.project=1\nseed = 3").training.project == "1\nseed = 3"


def test_several_trees_are_read_from_their_labels() -> None:
    assert spec_of('bench.trees=["6/10/60", "4/1/4"]').bench.trees == (TreeSpec(), TreeSpec.parse("4/1/4"))


def test_the_word_none_takes_an_optional_value_away() -> None:
    resolved = resolve("quick-demo", stage="train", overrides=["training.max_minutes=none", "base.system_prompt=none"])
    assert resolved.spec.training.max_minutes is None and resolved.spec.base.system_prompt is None
    assert resolved.origins["training.max_minutes"].source == "--set training.max_minutes"
    assert problems_of("training.epochs=none") == (
        'training.epochs: is "none"; needs a whole number > 0 [--set training.epochs]',
    )


def test_another_draft_keeps_what_the_recipe_says_of_its_draft() -> None:
    write_preset("recipe/deep", f'extends = "{RECIPE}"\n[draft]\ninit = "random"\narchitecture.num_hidden_layers = 2\n')
    draft = spec_of("draft=qwen3-1l", recipe="deep").draft
    assert draft is not None and draft.architecture.num_hidden_layers == 2 and draft.architecture.model_type == "qwen3"


def test_a_source_of_another_kind_replaces_the_presets_source() -> None:
    spec = spec_of("base.source.kind=path", "base.source.path=/models/x")
    assert spec.base.source == PathSource(path="/models/x")


def test_options_may_be_paths_and_absent() -> None:
    resolved = resolve(RECIPE, stage="bench", options={"draft.checkpoint": Path("/d"), "bench.limit": None})
    assert resolved.spec.draft is not None and resolved.spec.draft.checkpoint == "/d"
    assert resolved.origins["bench.limit"].source == "default"


def test_the_algorithms_defaults_are_written_into_the_spec() -> None:
    resolved = resolve(RECIPE, stage="train")
    assert resolved.spec.algorithm.options["fusion_bias"] is True
    assert resolved.origins["algorithm.options.fusion_bias"].source == "default"


def test_equal_recipes_have_equal_hashes_and_others_have_not() -> None:
    assert spec_of().spec_hash == spec_of().spec_hash != spec_of("training.seed=1").spec_hash


def test_all_faults_of_all_steps_are_reported_at_once() -> None:
    found = problems_of(
        "bogus",
        "dataset.range=[1,2",
        "train.optimizer.lr=1e-4",
        "lr=3",
        "zzz.q=1",
        "stage=train",
        "training.max_stepz=4",
        "training.epochs=0",
        "training.optimizer.schedule=cosin",
        "draft.architecture.hidden_size=base.hiden_size",
        "algorithm.options.nois=1",
        "base.source.kind=hubb",
        "dataset.format=sharegp",
        "bench=3",
        'prompts="a"',
    )
    assert sorted(found) == sorted(
        (
            "--set: is 'bogus'; needs KEY=VALUE, e.g. training.optimizer.lr=1e-4",
            "dataset.range: is set to '[1,2', which is not TOML: Unclosed array (at end of document)",
            "train: unknown key; did you mean 'training.optimizer.lr'? [--set train.optimizer.lr]",
            "lr: unknown key; did you mean 'training.optimizer.lr'? [--set lr]",
            "zzz: unknown key; known: base, draft, algorithm, dataset, training, decoding, bench, sglang, tune, "
            "resources, name, backend, prompts, parents [--set zzz.q]",
            "stage: cannot be set: it follows from the recipe and the command [--set stage]",
            "training.max_stepz: unknown key; did you mean 'max_steps'? [--set training.max_stepz]",
            "training.epochs: is 0; needs a whole number > 0 [--set training.epochs]",
            "training.optimizer.schedule: is \"cosin\"; needs one of 'constant', 'linear', 'cosine'; "
            "did you mean 'cosine'? [--set training.optimizer.schedule]",
            "draft.architecture.hidden_size: formula 'base.hiden_size': there is no base.hiden_size; "
            "did you mean 'hidden_size'? [--set draft.architecture.hidden_size]",
            "algorithm.options.nois: unknown key; did you mean 'noise'? [--set algorithm.options.nois]",
            "base.source.kind: is \"hubb\"; needs 'hub', 'path', 'package' [--set base.source.kind]",
            "dataset.format: no card 'sharegp' on axis formats; did you mean 'sharegpt'? [--set dataset.format]",
            f"bench: is 3; needs a table with {', '.join(BenchSpec.model_fields)} [--set bench]",
            "prompts: is 'a'; needs a list of text [--set prompts]",
        )
    )


def test_the_error_counts_the_faults_and_names_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("[training]\nepochs = 0\nseed = -1\n")
    with pytest.raises(SpecError, match=f"recipe '{RECIPE}' with {file} is not valid: 2 problems") as error:
        resolve(RECIPE, stage="train", file=file)
    assert error.value.exit_code == 3
    assert error.value.problems[0] == f"training.epochs: is 0; needs a whole number > 0 [file {file}:2]"


def test_unknown_parts_are_reported_together_and_once() -> None:
    assert problems_of("base=smollm2-135m-instuct", "draft=lama-1l", "algorithm=eagel") == (
        "base.preset: no base preset 'smollm2-135m-instuct'; did you mean 'smollm2-135m-instruct'? [--set base]",
        "draft.preset: no draft preset 'lama-1l'; did you mean 'llama-1l'? [--set draft]",
        "algorithm.preset: no algorithm preset 'eagel'; did you mean 'eagle'? [--set algorithm]",
    )


def test_a_recipe_without_a_base_says_so() -> None:
    write_preset("recipe/empty", "")
    assert problems_of(recipe="empty", stage="dataset") == ("base: is missing; name a base preset",)


def test_a_part_that_is_no_name_is_refused() -> None:
    assert problems_of("draft.preset=3") == (
        "draft.preset: is 3; needs the name of a draft preset [--set draft.preset]",
    )


def test_unknown_names_of_recipe_stage_and_file_end_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no recipe preset 'quick-dem'; did you mean 'quick-demo'"):
        resolve("quick-dem", stage="train")
    with pytest.raises(UsageError, match="no stage 'trian'; did you mean 'train'"):
        resolve(RECIPE, stage="trian")
    with pytest.raises(NotFoundError, match="no file"):
        resolve(RECIPE, stage="train", file=tmp_path / "missing.toml")
    file = tmp_path / "f.toml"
    file.write_text('extends = "quick-demo"\n')
    with pytest.raises(SpecError, match="has extends; the recipe that it goes over is named on the command line"):
        resolve(RECIPE, stage="train", file=file)


@pytest.mark.parametrize("stage", ["train", "bench", "generate"])
def test_a_recipe_without_a_draft_serves_the_stages_that_need_none(stage: str) -> None:
    assert resolve(RECIPE, stage="dataset", overrides=["draft=none"]).spec.draft is None
    assert resolve(RECIPE, stage="generate", overrides=["draft=none", "decoding.plain=true"]).spec.draft is None
    found = problems_of("draft=none", stage=stage)
    assert len(found) == 1 and found[0].startswith(
        f"draft: there is none, and stage {stage} needs one; name a draft preset"
    )


def test_a_base_can_be_had_by_itself() -> None:
    base = load_base("smollm2-135m-instruct")
    assert base.name == "smollm2-135m-instruct" and base.architecture.hidden_size == 576
    write_preset("base/bad", 'source = {kind = "path", path = "/x"}\n')
    with pytest.raises(SpecError, match="your preset base/bad is not valid"):
        load_base("bad")


def test_nothing_that_is_read_is_ever_executed() -> None:
    for file in Path(hetspec_core.config.__file__).parent.glob("*.py"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec", "compile", "__import__"}, file
