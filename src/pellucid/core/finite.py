"""Find NaN and infinity in tensors: a single cheap pass if all values are finite, a search otherwise."""

import math

from torch import Tensor

from pellucid.core.errors import DataError

__all__ = ["bad_value", "check_inputs", "first_bad_row"]


def first_bad_row(values: Tensor) -> int | None:
    """Return the index of the first row (along axis 0) with NaN or infinity, or None if all values are finite.

    >>> import torch
    >>> first_bad_row(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]))
    1
    >>> first_bad_row(torch.full((2, 2), 3e38)) is None
    True
    """
    # NaN and infinity survive every sum, so one pass suffices and no mask is allocated
    if math.isfinite(values.detach().sum().item()):
        return None
    rows = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero()
    return int(rows[0]) if len(rows) else None  # None: the values are finite, but their sum overflows


def bad_value(values: Tensor) -> str:
    """Describe the first non-finite value and its index, for an error message; `values` must contain one.

    >>> import torch
    >>> bad_value(torch.tensor([[1.0, float("-inf")]]))
    '-inf at index (0, 1)'
    >>> bad_value(torch.tensor(float("nan")))
    'NaN'
    """
    index = tuple((~values.isfinite()).nonzero()[0].tolist())
    value = values[index].item()
    name = "NaN" if math.isnan(value) else str(value)
    return f"{name} at index {index if len(index) > 1 else index[0]}" if index else name


def check_inputs(x: Tensor, what: str = "image", first: int = 0) -> None:
    """Raise `DataError` for the first input with NaN or infinities; `first` is the index of x[0]."""
    row = first_bad_row(x)
    if row is not None:
        raise DataError(
            f"{what} {first + row} holds {bad_value(x[row])}; every input must be finite. "
            "Replace the value, or remove the input."
        )
