"""The catalogue: looked up by name, told apart from what others register, and never importing what it lists."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hetspec_core.catalog import AXES, Card, broken, list_cards, load_card, reload
from hetspec_core.errors import NotFoundError, SpecError
from hetspec_core.spec import EagleOptions


@pytest.fixture
def other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path whose installed package `other` registers what the test writes into `other_cards.py`."""
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reload()
    yield tmp_path
    reload()
    sys.modules.pop("other_cards", None)


def register(folder: Path, code: str, *entries: str) -> None:
    (folder / "other_cards.py").write_text(f"from hetspec_core.catalog import Card\n{code}")
    lines = "\n".join(f"e{number} = {entry}" for number, entry in enumerate(entries))
    (folder / "other-1.0.dist-info" / "entry_points.txt").write_text(f"[hetspec.cards]\n{lines}\n")
    reload()


MAMBA = 'Card(axis="backbones", name="mamba", target="other_cards:Mamba", summary="Mamba layers.")'


def test_listing_and_looking_up_import_no_part() -> None:
    program = """
import sys
from hetspec_core.catalog import list_cards, load_card
list_cards()
load_card("stages", "train")
heavy = {"torch", "numpy", "transformers", "pydantic", "hetspec_core.engine"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_cards_come_in_the_order_of_the_axes() -> None:
    axes = [card.axis for card in list_cards()]
    assert axes == sorted(axes, key=list(AXES).index)
    assert {card.axis for card in list_cards("stages")} == {"stages"}


@pytest.mark.parametrize(
    ("axis", "name", "said"),
    [
        ("backbones", "lama", r"no card 'lama' on axis backbones; did you mean 'llama'\?"),
        ("stages", "zzz", r"no card 'zzz' on axis stages; there are: dataset, train, bench, generate"),
        ("stage", "train", r"no axis 'stage'; did you mean 'stages'\?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(axis: str, name: str, said: str) -> None:
    with pytest.raises(NotFoundError, match=said):
        load_card(axis, name)


def test_options_are_checked_by_the_cards_model() -> None:
    card = load_card("algorithms", "eagle")
    assert card.check_options({"noise": 0.5}) == EagleOptions(noise=0.5)
    with pytest.raises(SpecError) as error:
        card.check_options({"nois": 1, "mask": "all"})
    assert error.value.problems == (
        "options.mask: is \"all\"; needs one of 'predicted', 'input', 'next'",
        "options.nois: unknown key; did you mean 'noise'?",
    )
    with pytest.raises(SpecError, match="backbones/llama takes no options; seen: width"):
        load_card("backbones", "llama").check_options({"width": 3})
    assert load_card("backbones", "llama").check_options({}) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"axis": "wheels"}, "on axis 'wheels'; allowed: algorithms"),
        ({"target": "module"}, "target 'module'; needs 'module:attribute'"),
        ({"options": ":x"}, "options ':x'; needs 'module:attribute'"),
        ({"name": ""}, "needs a name and a target"),
    ],
)
def test_a_malformed_card_cannot_be_made(fields: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Card(**{"axis": "stages", "name": "x", "target": "m:a", "summary": "s"} | fields)


def test_a_target_that_is_not_there_is_said_with_its_card() -> None:
    with pytest.raises(NotFoundError, match=r"stages/x of hetspec cannot be imported from no_such_module:run"):
        Card(axis="stages", name="x", target="no_such_module:run", summary="").load()
    with pytest.raises(NotFoundError, match="has no attribute 'nope'"):
        Card(axis="stages", name="x", target="json:nope", summary="").load()


@pytest.mark.parametrize("value", [MAMBA, f"[{MAMBA}]", f"lambda: ({MAMBA},)", f"lambda: {MAMBA}"])
def test_other_packages_register_cards(other_packages: Path, value: str) -> None:
    register(other_packages, f"class Mamba: pass\ncards = {value}\n", "other_cards:cards")
    card = load_card("backbones", "mamba")
    assert card.provider == "other" and card.load().__name__ == "Mamba"
    assert list_cards("backbones")[-1] == card
    assert broken() == ()


def test_a_broken_package_is_reported_and_costs_nobody_else(other_packages: Path) -> None:
    code = f"""
good = {MAMBA}
thief = Card(axis="backbones", name="llama", target="x:y", summary="")
three = 3
def boom(): raise RuntimeError("no")
"""
    entries = ["other_cards:good", "other_cards:thief", "other_cards:three", "other_cards:boom", "missing_module:x"]
    register(other_packages, code, *entries)
    assert load_card("backbones", "mamba").provider == "other"
    assert load_card("backbones", "llama").provider == "hetspec"
    reasons = {item.entry.partition(" = ")[2]: item.reason for item in broken()}
    assert reasons == {
        "other_cards:thief": "ValueError: backbones/llama is registered by hetspec already",
        "other_cards:three": "TypeError: gives int; needs one Card or several",
        "other_cards:boom": "RuntimeError: no",
        "missing_module:x": "ModuleNotFoundError: No module named 'missing_module'",
    }
    with pytest.raises(NotFoundError) as error:
        load_card("backbones", "rwkv")
    assert "RuntimeError: no" in error.value.hint
