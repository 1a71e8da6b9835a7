"""Checks of arguments that several diagnostics share: tensors, and class indices."""

from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError

__all__ = ["check_tensors", "holds_integers"]


def check_tensors(**values: Any) -> None:
    """Raise `ShapeError` for the first argument, given by its name, that is no tensor.

    >>> check_tensors(labels=[0, 1])
    Traceback (most recent call last):
    pellucid.core.errors.ShapeError: labels is of type list; expected a tensor, such as torch.as_tensor(labels).
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ShapeError(
                f"{name} is of type {type(value).__name__}; expected a tensor, such as torch.as_tensor({name})."
            )


def holds_integers(values: Tensor) -> bool:
    """Return True if the dtype is one of integers, as class indices have it; truth values are none.

    >>> holds_integers(torch.tensor([1])), holds_integers(torch.tensor([True]))
    (True, False)
    """
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
