"""The shelf: shipped presets and the user's, what `extends` makes of them, and what is wrong with a file."""

from __future__ import annotations

import pytest

from hetspec_core.config import library
from hetspec_core.config.origins import leaves, plain
from hetspec_core.errors import NotFoundError, SpecError, UsageError
from tests.fakes.presets import write_hostile_presets, write_preset


def test_the_users_preset_hides_the_shipped_one_of_its_name() -> None:
    path = write_preset("algorithm/eagle", 'summary = "mine"\nname = "eagle"\n')
    listed = {item.file.name: item for item in library.list_presets("algorithm")}
    assert listed["eagle"].file.path == path and listed["eagle"].summary == "mine"
    assert listed["eagle"].file.overrides and not listed["eagle"].file.shipped
    assert listed["eagle-origin"].file.shipped


def test_a_preset_that_was_changed_is_read_anew_and_one_that_was_handed_out_is_nobody_elses() -> None:
    path = write_preset("algorithm/mine", 'name = "eagle"\nlayers = [1, 2]\n')
    first = library.load("algorithm", "mine")
    layers = plain(first.table)["layers"]
    layers.append(3)
    assert plain(library.load("algorithm", "mine").table)["layers"] == [1, 2]
    path.write_text('# a line more\nname = "eagle"\nlayers = [7, 8]\n', encoding="utf-8")
    changed = library.load("algorithm", "mine")
    assert plain(changed.table)["layers"] == [7, 8]
    assert next(leaf.place.line for key, leaf in leaves(changed.table) if key == ("layers",)) == 3
    path.unlink()
    with pytest.raises(NotFoundError):
        library.load("algorithm", "mine")


def test_what_is_found_by_name_is_what_is_listed() -> None:
    write_preset("algorithm/eagle", 'name = "eagle"\n')
    write_preset("draft/mine", 'extends = "llama-1l"\n')
    for kind in library.KINDS:
        for name, file in library.preset_files(kind).items():
            assert library.find(kind, name) == file


@pytest.mark.parametrize("name", ["", "../recipe/quick-demo", "x" * 5000, "a\0b", "eagle.toml", "/etc/passwd"])
def test_a_name_that_is_no_presets_is_not_found(name: str) -> None:
    with pytest.raises(NotFoundError):
        library.find("algorithm", name)


def test_a_users_preset_may_extend_the_shipped_one_that_it_hides() -> None:
    write_preset("algorithm/eagle", 'extends = "eagle"\n[options]\nnoise = 0.5\n')
    preset = library.load("algorithm", "eagle")
    options = plain(preset.table)["options"]
    assert options["noise"] == 0.5 and options["mask"] == "predicted"
    assert [file.shipped for file in preset.lineage] == [False, True]


def test_the_later_of_several_extended_presets_goes_over_the_earlier() -> None:
    write_preset("algorithm/a", 'name = "eagle"\n[options]\nnoise = 0.1\nmask = "input"\n')
    write_preset("algorithm/b", "[options]\nnoise = 0.3\n")
    write_preset("algorithm/c", 'summary = "c"\nextends = ["a", "algorithm/b"]\n')
    preset = library.load("algorithm", "c")
    assert plain(preset.table) == {"name": "eagle", "options": {"noise": 0.3, "mask": "input"}, "summary": "c"}


def test_the_summary_is_never_inherited() -> None:
    write_preset("draft/quiet", 'extends = "llama-1l"\n')
    assert library.load("draft", "quiet").summary == ""


def test_a_draft_that_extends_a_base_takes_its_sizes_only() -> None:
    write_preset("draft/from-base", 'extends = "base/qwen3-4b-instruct-2507"\nbackbone = "qwen3"\n')
    table = plain(library.load("draft", "from-base").table)
    assert set(table) == {"architecture", "backbone"}
    assert table["architecture"]["intermediate_size"] == 9728


def test_other_kinds_cannot_be_extended() -> None:
    write_preset("recipe/r", 'extends = "draft/llama-1l"\n')
    with pytest.raises(
        SpecError, match="it can extend another recipe preset; a recipe names its parts with base, draft"
    ):
        library.load("recipe", "r")


def test_a_circle_is_named() -> None:
    write_preset("recipe/a", 'extends = "b"\n')
    write_preset("recipe/b", 'extends = "c"\n')
    write_preset("recipe/c", 'extends = "a"\n')
    with pytest.raises(SpecError, match=r"circular: recipe/a -> recipe/b -> recipe/c -> recipe/a"):
        library.load("recipe", "a")


def test_a_diamond_is_no_circle() -> None:
    write_preset("draft/left", 'extends = "llama-1l"\n')
    write_preset("draft/right", 'extends = "llama-1l"\n')
    write_preset("draft/both", 'extends = ["left", "right"]\n')
    lineage = [file.name for file in library.load("draft", "both").lineage]
    assert lineage == ["both", "left", "llama-1l", "right"]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match=r"no draft preset 'lama-1l'; did you mean 'llama-1l'\?"):
        library.load("draft", "lama-1l")
    write_preset("draft/x", 'extends = "lama-1l"\n')
    with pytest.raises(NotFoundError, match=r"your preset draft/x extends 'lama-1l': no draft preset"):
        library.load("draft", "x")
    with pytest.raises(NotFoundError, match=r"no kind of preset 'drafts'; did you mean 'draft'\?"):
        library.list_presets("drafts")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = \n", "your preset recipe/bad is not TOML: Invalid value (at line 1"),
        ("extends = 3\n", "has extends = 3; needs a name or a list of names"),
        ('extends = ["a", 1]\n', "needs a name or a list of names"),
    ],
)
def test_a_bad_file_is_listed_with_its_problem_and_stops_nothing(text: str, said: str) -> None:
    path = write_preset("recipe/bad", text)
    listed = {item.file.name: item for item in library.list_presets("recipe")}
    assert said in listed["bad"].problem
    assert not listed["quick-demo"].problem
    with pytest.raises(SpecError) as e:
        library.load("recipe", "bad")
    assert str(path) in e.value.message


@pytest.mark.parametrize("kind", library.KINDS)
def test_each_preset_that_cannot_be_read_is_named_and_all_others_are_listed(kind: str) -> None:
    shipped = [item.file.name for item in library.list_presets(kind)]
    hostile = write_hostile_presets(kind)
    listed = {item.file.name: item for item in library.list_presets(kind)}
    assert {name for name, item in listed.items() if item.problem} == set(hostile)
    assert all(str(item.file.path) in item.problem for item in listed.values() if item.problem)
    assert [name for name in listed if name not in hostile] == shipped
    for name in hostile:
        with pytest.raises((SpecError, NotFoundError)):
            library.load(kind, name)
    for name in ("folder", "pipe", "dangling"):
        with pytest.raises(SpecError, match="cannot be copied"):
            library.copy_preset(f"{kind}/{name}", f"{name}-copy")


def test_a_file_that_is_no_text_is_named() -> None:
    path = write_preset("recipe/bad", "")
    path.write_bytes(b"summary = '\xff'")
    with pytest.raises(SpecError, match="your preset recipe/bad is not UTF-8"):
        library.load("recipe", "bad")


def test_a_bare_name_is_found_on_any_shelf_recipes_first() -> None:
    write_preset("recipe/eagle", "")
    assert library.find_anywhere("eagle").kind == "recipe"
    assert library.find_anywhere("algorithm/eagle").kind == "algorithm"
    assert library.find_anywhere("llama-1l").kind == "draft"
    write_preset("base/llama-1l", "")
    with pytest.raises(NotFoundError, match="several presets are called 'llama-1l': base/llama-1l and draft/llama-1l"):
        library.find_anywhere("llama-1l")
    with pytest.raises(NotFoundError, match=r"no preset 'quick-demi'; did you mean 'quick-demo'\?"):
        library.find_anywhere("quick-demi")


def test_a_copy_is_the_users_and_is_not_overwritten() -> None:
    path = library.copy_preset("eagle-origin", "mine")
    assert path == library.user_folder() / "algorithm" / "mine.toml"
    assert path.read_bytes() == library.find("algorithm", "eagle-origin").path.read_bytes()
    assert library.load("algorithm", "mine").summary
    with pytest.raises(UsageError, match="already exists"):
        library.copy_preset("eagle", "mine")
    with pytest.raises(UsageError, match="cannot become recipe/mine"):
        library.copy_preset("eagle", "recipe/mine")


@pytest.mark.parametrize("name", ["", "../x", "a b", ".hidden", "-x", "a/../b"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises((SpecError, UsageError)):
        library.copy_preset("algorithm/eagle", name)
    assert not library.user_folder().exists()
