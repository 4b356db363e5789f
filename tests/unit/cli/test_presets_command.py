"""`hetspec-core presets` and `hetspec-core catalog`: lines for pipes, JSON for programs, errors with a way out."""

from __future__ import annotations

import json
import tomllib

import pytest

from hetspec_core.cli.main import main
from hetspec_core.config import resolve
from tests.conftest import REPOSITORY
from tests.fakes.presets import write_hostile_presets, write_preset

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *words: str, status: int = 0) -> str:
    assert main(words) == status
    return capsys.readouterr().out


def run_json(capsys: Capture, *words: str) -> object:
    return json.loads(run(capsys, *words, "--json"))


def test_listing_has_a_line_for_each_preset(capsys: Capture) -> None:
    lines = run(capsys, "presets", "list", "draft").splitlines()
    names = [path.stem for path in sorted((REPOSITORY / "presets" / "draft").glob("*.toml"))]
    assert [line.split()[:2] for line in lines] == [["draft", name] for name in names]
    assert all(line.endswith("shipped") for line in lines)


def test_listing_shows_whose_a_preset_is_and_what_is_wrong_with_it(capsys: Capture) -> None:
    write_preset("algorithm/eagle", 'summary = "[bold]mine[/bold] \\u001b[31m"\nname = "eagle"\n')
    write_preset("algorithm/torn", "a = \n")
    write_preset("algorithm/terse", 'extends = ["eagle"]\n')
    lines = {line.split()[1]: line for line in run(capsys, "presets", "list", "algorithm").splitlines()}
    assert "[bold]mine[/bold]" in lines["eagle"] and lines["eagle"].endswith("yours, over the shipped one")
    assert "\x1b" not in lines["eagle"], "no control characters from data reach the terminal"
    assert "cannot be read: your preset algorithm/torn is not TOML" in lines["torn"]
    assert "cannot be read" not in lines["terse"], "a preset without a summary is no fault"
    listed = run_json(capsys, "presets", "list", "algorithm")
    assert isinstance(listed, list) and [item["name"] for item in listed if item["overrides"]] == ["eagle"]


def test_presets_that_cannot_be_read_do_not_stop_the_commands_for_others(capsys: Capture) -> None:
    hostile = write_hostile_presets("recipe")
    lines = {line.split()[1]: line for line in run(capsys, "presets", "list", "recipe").splitlines()}
    assert all("cannot be read" in lines[name] for name in hostile)
    assert "cannot be read" not in lines["quick-demo"]
    assert "[training]" in run(capsys, "presets", "show", "quick-demo")
    for name in hostile:
        assert main(["presets", "show", name]) in (3, 4)
        assert f"recipe/{name}" in capsys.readouterr().err


def test_a_recipe_is_shown_as_the_spec_it_resolves_to(capsys: Capture) -> None:
    shown = tomllib.loads(run(capsys, "presets", "show", "quick-demo", "--stage", "bench", "--set", "bench.limit=3"))
    spec = resolve("quick-demo", stage="bench", overrides=["bench.limit=3"]).spec
    assert shown == spec.model_dump(mode="json", exclude_none=True)
    as_json = run_json(capsys, "presets", "show", "quick-demo", "--stage", "bench", "--set", "bench.limit=3")
    assert (
        isinstance(as_json, dict)
        and as_json["values"] == shown
        and as_json["extends"] == ["recipe/smollm2-llama-eagle"]
    )


def test_explaining_gives_the_origin_of_every_value(capsys: Capture) -> None:
    out = run(capsys, "presets", "show", "quick-demo", "--explain", "--set", "training.seed=5")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines() if len(line.split()) > 2}
    assert rows["training.seed"] == ["5", "--set training.seed"]
    assert rows["draft.architecture.hidden_size"] == [
        "576",
        "preset draft/llama-1l:6: formula 'base.hidden_size' = 576",
    ]
    assert rows["training.eval_dataset"] == ["-", "default"]
    explained = run_json(capsys, "presets", "show", "quick-demo", "--explain")
    assert isinstance(explained, dict)
    assert {"key": "resources.device", "value": "auto", "source": "default"} in explained["values"]


def test_a_part_is_shown_as_it_is_written(capsys: Capture) -> None:
    shown = tomllib.loads(run(capsys, "presets", "show", "draft/qwen3-1l"))
    assert shown["architecture"]["model_type"] == "qwen3"
    assert shown["architecture"]["hidden_size"] == "base.hidden_size"


def test_comparing_shows_only_what_differs(capsys: Capture) -> None:
    rows = run_json(capsys, "presets", "diff", "llama2-7b-llama-eagle", "llama2-7b-llama-eagle-origin")
    assert isinstance(rows, list)
    differences = {row["key"]: (row["first"], row["second"]) for row in rows}
    assert differences["algorithm.options.token_loss_weight"] == (1.0, 0.1)
    assert not [key for key in differences if key.startswith(("base.", "training.", "dataset."))]
    assert run(capsys, "presets", "diff", "eagle", "eagle") == "no difference\n"


def test_a_copy_lies_in_the_users_folder(capsys: Capture) -> None:
    folder = run(capsys, "presets", "path").strip()
    copied = run(capsys, "presets", "copy", "quick-demo", "mine").strip()
    assert copied == f"{folder}/recipe/mine.toml"
    assert "yours" in run(capsys, "presets", "list", "recipe")
    assert "no difference" in run(capsys, "presets", "diff", "quick-demo", "mine")
    assert run_json(capsys, "presets", "path") == {
        "user": folder,
        "shipped": run(capsys, "presets", "path", "--shipped").strip(),
    }


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("presets", "show", "quick-dem"), 4, "no preset 'quick-dem'; did you mean 'quick-demo'?"),
        (("presets", "list", "recipes"), 4, "no kind of preset 'recipes'; did you mean 'recipe'?"),
        (
            ("presets", "show", "quick-demo", "--set", "training.epochs=0"),
            3,
            "training.epochs: is 0; needs a whole number > 0",
        ),
        (
            ("presets", "show", "eagle", "--set", "options.noise=1"),
            2,
            "--set is for recipes; algorithm/eagle is not one",
        ),
        (("presets", "diff", "eagle", "llama-1l"), 2, "of different kinds"),
        (("presets", "copy", "eagle", "../eagle"), 2, "cannot become ../eagle"),
        (("catalog", "stage"), 4, "no axis 'stage'; did you mean 'stages'?"),
    ],
)
def test_errors_name_what_was_meant(capsys: Capture, words: tuple[str, ...], status: int, said: str) -> None:
    assert main(words) == status
    assert said in capsys.readouterr().err


def test_the_catalogue_lists_cards(capsys: Capture) -> None:
    names = [line.split()[:2] for line in run(capsys, "catalog").splitlines()]
    assert ["algorithms", "eagle"] in names and ["stages", "train"] in names
    listed = run_json(capsys, "catalog", "backbones")
    assert isinstance(listed, dict) and listed["broken"] == []
    families = {card["name"]: card["capabilities"].get("model_type") for card in listed["cards"]}
    assert families["llama"] == "llama" and families["qwen3-moe"] == "qwen3_moe"
