"""The one shift, spelled out: the example of the docstring of `engine.data.batches`, number by number."""

from __future__ import annotations

import pytest
import torch

from hetspec_core.engine.data.batches import make_batch
from hetspec_core.engine.data.hidden_states import Sample, count_supervised
from hetspec_core.errors import DataError


def _sample(length: int, first_answer: int, *, offset: int = 0, layers: tuple[int, ...] = ()) -> Sample:
    """Token x_i = 10 + i, state f_i = [i, -i]: every value tells where it came from."""
    index = torch.arange(length, dtype=torch.float32) + offset
    return Sample(
        id=f"s{offset}",
        input_ids=(10 + index).to(torch.int32),
        assistant_mask=torch.arange(length) >= first_answer,
        hidden=torch.stack([index, -index], dim=1),
        layers={layer: torch.stack([index + 100 * layer, index], dim=1) for layer in layers},
    )


EXAMPLE = _sample(5, 2)  # u0 u1 a2 a3 .4


def test_docstring_example_number_by_number() -> None:
    batch = make_batch([EXAMPLE])

    assert batch.tokens.tolist() == [[11, 12, 13, 14]]  # x_{t+1}
    assert batch.features[0, :, 0].tolist() == [0, 1, 2, 3]  # f_t
    assert batch.targets[0, :, 0].tolist() == [1, 2, 3, 4]  # f_{t+1}
    assert batch.positions.tolist() == [[0, 1, 2, 3]]
    assert batch.valid.tolist() == [[True] * 4]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("predicted", [1, 1, 1, 0]), ("next", [0, 1, 1, 1]), ("input", [0, 0, 1, 1])],
)
def test_docstring_masks(kind: str, expected: list[int]) -> None:
    batch = make_batch([EXAMPLE], mask_kind=kind)  # type: ignore[arg-type]

    assert batch.mask.int().tolist() == [expected]
    assert int(batch.num_supervised) == sum(expected)


def test_supervised_position_predicts_an_assistant_token() -> None:
    """At a supervised t the head of the base on the target state is asked for x_{t+2}, which the assistant wrote."""
    sample = Sample(
        id="two turns",
        input_ids=torch.arange(9, dtype=torch.int32),
        assistant_mask=torch.tensor([0, 0, 1, 1, 0, 0, 0, 1, 1]).bool(),
        hidden=torch.zeros(9, 2),
    )

    batch = make_batch([sample])

    for t in range(8):
        expected = t + 2 < 9 and bool(sample.assistant_mask[t + 2])
        assert bool(batch.mask[0, t]) == expected
    assert int(batch.num_supervised) == count_supervised(sample.assistant_mask)


def test_padding_is_on_the_right_and_never_supervised() -> None:
    batch = make_batch([EXAMPLE, _sample(3, 0, offset=50)])

    assert batch.tokens.tolist() == [[11, 12, 13, 14], [61, 62, 0, 0]]
    assert batch.valid.tolist() == [[True, True, True, True], [True, True, False, False]]
    assert batch.targets[1, :2, 0].tolist() == [51, 52]
    assert batch.mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["predicted", "next", "input"])
def test_each_row_is_what_it_would_be_alone(kind: str) -> None:
    samples = [_sample(7, 3, layers=(1,)), _sample(4, 1, offset=20, layers=(1,)), _sample(2, 0, offset=40, layers=(1,))]

    together = make_batch(samples, mask_kind=kind)  # type: ignore[arg-type]

    for row, sample in enumerate(samples):
        alone = make_batch([sample], mask_kind=kind)  # type: ignore[arg-type]
        width = alone.tokens.shape[1]
        assert torch.equal(together.tokens[row, :width], alone.tokens[0])
        assert torch.equal(together.features[row, :width], alone.features[0])
        assert torch.equal(together.targets[row, :width], alone.targets[0])
        assert torch.equal(together.mask[row, :width], alone.mask[0])
        assert torch.equal(together.layers[1][row, :width], alone.layers[1][0])
        assert not together.mask[row, width:].any()


def test_further_layers_are_at_the_position_of_the_features() -> None:
    batch = make_batch([_sample(4, 1, layers=(2,))])

    assert batch.layers[2][0, :, 0].tolist() == [200, 201, 202]


def test_cut_sample_supervises_only_what_is_left() -> None:
    batch = make_batch([EXAMPLE], max_length=3)

    assert batch.tokens.tolist() == [[11, 12]]
    assert batch.mask.int().tolist() == [[1, 0]]  # x_2 is left, x_3 is cut off


def test_filler_batch_supervises_nothing() -> None:
    assert int(make_batch([EXAMPLE], supervised=False).num_supervised) == 0


def test_sample_of_one_token_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 tokens"):
        make_batch([_sample(1, 0)])
