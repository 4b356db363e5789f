import pytest
from pydantic import ValidationError

from hetspec_core.events.steps import TreeStep


def step(**changes: object) -> dict[str, object]:
    known: dict[str, object] = {
        "index": 0,
        "tokens": [5, 6, 7, 8],
        "texts": ["a", "b", "c", "d"],
        "parents": [0, 0, 0, 1],
        "draft_probs": [1.0, 0.5, 0.2, 0.4],
        "base_probs": [1.0, 0.6, 0.1, 0.3],
        "base_ranks": [0, 0, 3, 1],
        "path": [1, 3],
        "bonus": 9,
        "bonus_text": "e",
        "bonus_prob": 0.7,
        "committed": [6, 8, 9],
    }
    return known | changes


def test_depths_follow_the_parents() -> None:
    assert TreeStep.model_validate(step()).depths == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"texts": ["a"]}, "texts has 1"),
        ({"parents": [0, 2, 0, 1]}, "before their children"),
        ({"path": [3]}, "does not follow"),
        ({"path": [7]}, "does not follow"),
    ],
)
def test_a_step_that_is_no_tree_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        TreeStep.model_validate(step(**changes))
