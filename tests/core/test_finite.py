"""The first row that is not finite."""

import pytest
import torch

from pellucid.core.finite import bad_value, first_bad_row


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_first_row_is_found(value, shape, dtype) -> None:
    values = torch.zeros(shape, dtype=dtype)
    assert first_bad_row(values) is None
    values[3:] = value
    assert first_bad_row(values) == 3
    place = "index 3" if len(shape) == 1 else rf"index (3, {', '.join('0' * (len(shape) - 1))})"
    assert bad_value(values) == f"{'NaN' if value != value else value} at {place}"


def test_a_sum_that_overflows_and_opposite_infinities_are_told_apart() -> None:
    assert first_bad_row(torch.full((3, 4), 1e38)) is None
    assert first_bad_row(torch.tensor([1.0, torch.inf, -torch.inf])) == 1
    assert first_bad_row(torch.tensor([[1, 2]])) is None
    assert first_bad_row(torch.zeros(2, requires_grad=True)) is None
