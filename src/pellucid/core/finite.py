"""Find NaN and infinities: one cheap question where there are none, and where they are otherwise."""

import math

from torch import Tensor

__all__ = ["bad_value", "first_bad_row"]


def first_bad_row(values: Tensor) -> int | None:
    """Index of the first row (along axis 0) that holds NaN or an infinity; None if all numbers are finite.

    >>> import torch
    >>> first_bad_row(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]))
    1
    >>> first_bad_row(torch.full((2, 2), 3e38)) is None
    True
    """
    if math.isfinite(
        values.detach().sum().item()
    ):  # NaN and infinities survive every sum: one pass, and no tensor of flags
        return None
    rows = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
    return int(rows[0]) if len(rows) else None  # finite numbers whose sum overflows


def bad_value(values: Tensor) -> str:
    """The first number that is not finite, and its place, in words; `values` holds one.

    >>> import torch
    >>> bad_value(torch.tensor([[1.0, float("-inf")]]))
    '-inf at index (0, 1)'
    >>> bad_value(torch.tensor(float("nan")))
    'NaN'
    """
    place = tuple((~values.isfinite()).nonzero()[0].tolist())
    value = values[place].item()
    name = "NaN" if math.isnan(value) else str(value)
    return f"{name} at index {place if len(place) > 1 else place[0]}" if place else name
