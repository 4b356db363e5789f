"""A choice, the command line that says the same, and what is started."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetspec_core.cli.main import main
from hetspec_core.config.resolve import Resolved
from hetspec_core.errors import HetSpecError, SpecError
from hetspec_core.jobs.local import LocalExecutor
from hetspec_core.service import launch
from hetspec_core.service.forms import Field, launch_fields, set_text
from hetspec_core.service.launch import LaunchRequest, linked, pairs, resolve_stage, review, start
from hetspec_core.service.presets import list_presets
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import RunSpec
from tests.fakes.presets import write_preset

FIELDS = {field.key: field for field in launch_fields(("dataset", "train", "bench"))}


@pytest.fixture
def workbench(home: Path) -> Iterator[Workbench]:
    with Workbench(home, LocalExecutor("tests.fakes.worker")) as bench:
        yield bench


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The specs that commands submit; nothing is started."""
    found: list[RunSpec] = []
    submit = Workbench.submit

    def note(self: Workbench, asked: Resolved, **about: Any) -> Any:
        found.append(asked.spec)
        return submit(self, asked, **about)

    monkeypatch.setattr(Workbench, "submit", note)
    monkeypatch.setattr(Workbench, "start", lambda self, run_id: None)
    return found


def made_by_a_run(workbench: Workbench, stage: str) -> str:
    """A run of that stage that has made what it is for."""
    spec = linked(LaunchRequest("smollm2-llama-eagle", name="earlier"), stage, None)
    run_id = workbench.submit(spec).run_id
    paths = workbench.paths(run_id)
    product = paths.hidden_states if stage == "dataset" else paths.draft
    product.mkdir()
    counts = {"samples": 10, "tokens": 1000, "supervised_tokens": 500}
    (product / "manifest.json").write_text(json.dumps({"counts": counts}))
    (product / "config.json").write_text("{}")
    return run_id


def as_told(choice: LaunchRequest, submitted: list[RunSpec]) -> list[RunSpec]:
    """What the command line of the choice submits, by way of a shell's reading of it."""
    submitted.clear()
    program, *words = shlex.split(choice.command)
    assert program == "hetspec-core"
    assert main(words) == 0
    return list(submitted)


CHOICES = (
    LaunchRequest("quick-demo", "dataset"),
    LaunchRequest("quick-demo", "dataset", name='it\'s a "test" $HOME; rm -rf /'),
    LaunchRequest(
        "smollm2-llama-eagle",
        "dataset",
        parts={"base": "smollm2-135m-instruct", "draft": "qwen3-1l", "algorithm": "eagle-origin"},
        values={"dataset.source": "'my file.jsonl'", "dataset.layers": "[1, 2]", "resources.gpus": '["0", "1"]'},
    ),
    LaunchRequest("quick-demo", "dataset", values={"dataset.limit": "none", "dataset.range": "[0, 5]"}),
)


@pytest.mark.parametrize("choice", CHOICES, ids=range(len(CHOICES)))
def test_the_command_of_a_choice_makes_the_same_run(
    workbench: Workbench, submitted: list[RunSpec], choice: LaunchRequest
) -> None:
    (told,) = as_told(choice, submitted)
    assert told.spec_hash == resolve_stage(workbench, choice, choice.what).spec.spec_hash
    assert told.name == choice.name


def test_the_commands_of_train_and_bench_name_what_they_are_given(
    workbench: Workbench, submitted: list[RunSpec]
) -> None:
    data, draft = made_by_a_run(workbench, "dataset"), made_by_a_run(workbench, "train")
    for choice in (
        LaunchRequest("quick-demo", "train", datasets=(data,), values={"training.optimizer.lr": "1e-4"}),
        LaunchRequest("quick-demo", "train", datasets=(data, data), draft=draft, name="again"),
        LaunchRequest("quick-demo", "bench", draft=draft, values={"bench.trees": '["4/4/8", "3/2/6"]'}),
    ):
        (told,) = as_told(choice, submitted)
        mine = resolve_stage(workbench, choice, choice.what).spec
        assert told.spec_hash == mine.spec_hash
        assert set(told.parents) == ({data} if choice.datasets else set()) | (
            {draft} if "--from" in choice.words else set()
        )


def test_the_command_of_a_pipeline_makes_the_same_three_runs(workbench: Workbench, submitted: list[RunSpec]) -> None:
    choice = LaunchRequest("quick-demo", parts={"draft": "qwen3-1l"}, values={"training.max_steps": "7"}, name="mine")
    specs = as_told(choice, submitted)
    assert [spec.stage for spec in specs] == ["dataset", "train", "bench"]
    assert [spec.name for spec in specs] == ["mine-dataset", "mine-train", "mine-bench"]
    parents = [spec.parents[0] if spec.parents else None for spec in specs]
    mine = [linked(choice, spec.stage, parent).spec for spec, parent in zip(specs, parents)]
    assert [spec.spec_hash for spec in specs] == [spec.spec_hash for spec in mine]
    data, draft = specs[1].training.datasets[0], specs[2].draft and specs[2].draft.checkpoint
    assert (data, draft) == (parents[1], parents[2]) and "-dataset-" in data and "-train-" in str(draft)


def values_of(field: Field) -> st.SearchStrategy[Any]:
    if field.choices:
        return st.sampled_from(field.choices)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "integer": st.integers(-5, 10**7),
        "number": st.floats(allow_nan=False, allow_infinity=False),
        "text": st.text(max_size=20),
        "list": st.lists(st.text(max_size=6) | st.integers(0, 9), max_size=3),
    }
    return simple[field.kind]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_what_a_form_takes_means_the_same_after_set_and_a_shell(data: st.DataObject, workbench: Workbench) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=4, unique=True))
    values: dict[str, str] = {}
    for key in keys:
        typed = FIELDS[key].to_text(data.draw(values_of(FIELDS[key]), label=key))
        value, problem = FIELDS[key].read(typed)
        if not problem:
            values[key] = set_text(value)
    choice = LaunchRequest("quick-demo", "dataset", values=values)
    words = shlex.split(choice.command)
    told = tuple(words[place + 1] for place, word in enumerate(words) if word == "--set")
    assert told == choice.overrides
    try:
        spec = resolve_stage(workbench, choice, "dataset").spec.model_dump(mode="json")
    except SpecError as error:  # keys that do not fit each other; none may be read as another type than it was typed as
        assert not any("needs text" in problem or "is no TOML" in problem for problem in error.problems)
        return
    for key, text in values.items():
        seen: Any = spec
        for name in key.split("."):
            seen = seen[name]
        assert FIELDS[key].read(FIELDS[key].to_text(seen))[0] == FIELDS[key].read(FIELDS[key].to_text(seen))[0]
        if text != "none" and FIELDS[key].kind in ("text", "choice"):
            assert set_text(seen) == text


def test_a_pair_that_does_not_fit_says_why() -> None:
    write_preset("draft/wordy", 'extends = "llama-1l"\n[architecture]\nvocab_size = 99000\n')
    found = {(pair.base, pair.draft): pair.problem for pair in pairs(LaunchRequest("quick-demo"))}
    assert found["smollm2-135m-instruct", "llama-1l"] == ""
    assert "vocab_size: is 99000; needs at most the base's 49152" in found["smollm2-135m-instruct", "wordy"]
    assert len(found) == len(list_presets("base")) * len(list_presets("draft"))


def test_a_pipeline_that_does_not_hold_leaves_no_run(workbench: Workbench) -> None:
    with pytest.raises(SpecError, match="bench"):
        start(workbench, LaunchRequest("quick-demo", values={"bench.repeats": "0"}))
    with pytest.raises(HetSpecError):
        start(workbench, LaunchRequest("quick-demo", "train"))
    assert workbench.runs() == []


def test_a_pipeline_runs_to_its_end_without_anybody(workbench: Workbench) -> None:
    ids = start(workbench, LaunchRequest("quick-demo", name="succeed", values={"resources.device": "cpu"}))
    assert [workbench.wait(run_id, 60) for run_id in ids] == ["succeeded"] * 3
    assert [run.parents for run in reversed(workbench.runs())] == [(), (ids[0],), (ids[1],)]


def test_a_review_gathers_every_fault_at_its_key(workbench: Workbench) -> None:
    values = {"training.max_steps": "-1", "dataset.range": "[5, 2]", "resources.device": "tpu"}
    seen = review(workbench, LaunchRequest("quick-demo", values=values))
    assert not seen.ready
    assert "whole number > 0" in seen.fault_of("training.max_steps")
    assert "0 <= A < B" in seen.fault_of("dataset")
    assert "'cpu'" in seen.fault_of("resources.device")
    assert seen.values["training.epochs"].value == 10  # what is beneath shows while it does not hold
    assert review(workbench, LaunchRequest("quick-demo", "train")).fault_of("datasets")
    assert "no such directory" in review(workbench, LaunchRequest("quick-demo", "train", datasets=("x",))).fault_of(
        "datasets"
    )
    assert review(workbench, LaunchRequest("quick-demo", "bench")).fault_of("draft")
    missing = review(workbench, LaunchRequest("quick-demo", values={"dataset.source": "/no/such.jsonl"}))
    assert "/no/such.jsonl" in missing.fault_of("dataset.source")


def test_a_review_of_a_good_choice_has_plans_and_what_a_reset_goes_back_to(workbench: Workbench) -> None:
    seen = review(workbench, LaunchRequest("quick-demo", values={"training.optimizer.lr": "0.5"}))
    assert seen.ready and list(seen.plans) == ["dataset", "train", "bench"]
    assert (seen.values["training.optimizer.lr"].value, seen.values["training.optimizer.lr"].layer) == (0.5, "set")
    assert seen.beneath["training.optimizer.lr"].value == 3e-3
    assert "preset recipe/quick-demo" in seen.beneath["training.optimizer.lr"].source


def test_more_gpus_than_there_are_is_a_fault(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSPEC_FAKE_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = review(workbench, LaunchRequest("quick-demo", values={"resources.num_gpus": "3"}))
    assert "asks for 3 GPUs, and this machine has 2" in seen.fault_of("resources.gpus")


def test_launch_names_every_preset_and_no_draft() -> None:
    assert "none" in launch.names("draft") and "smollm2-135m-instruct" in launch.names("base")


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("decoding.draft_vocab", "8192", 8192),
        ("decoding.draft_vocab", " whole ", "whole"),
        ("bench.draft_vocabs", "8192, whole", [8192, "whole"]),
        ("bench.draft_vocabs", "", []),
    ],
)
def test_a_field_of_numbers_and_words_reads_both_and_writes_them_as_typed(key: str, typed: str, value: object) -> None:
    field = next(field for field in launch_fields(("bench",)) if field.key == key)
    assert field.read(typed) == (value, "")
    assert field.to_text(value) == typed.strip()
    assert field.read("many")[1].startswith('is "many"; needs a whole number or one of')
