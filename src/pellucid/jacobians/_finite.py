"""Checks for NaN and infinities in inputs, outputs and derivatives, with errors that name the first image affected."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from pellucid.core.errors import DataError, ModelError
from pellucid.core.finite import bad_value, first_bad_row

__all__ = ["check_finite", "counted_from"]

_FIRST: ContextVar[int] = ContextVar("first image", default=0)
"""Number that errors give to the first image of a call."""


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Number images from `first` in errors raised inside, for callers that pass their images in parts."""
    token = _FIRST.set(first)
    try:
        yield
    finally:
        _FIRST.reset(token)


def check_finite(
    inputs: Sequence[Tensor],
    outputs: Tensor | None,
    derivatives: Sequence[Tensor],
    *,
    wanted: Sequence[int] | None = None,
    first: int = 0,
) -> None:
    """Raise for the first image with a non-finite value: `DataError` for an input, `ModelError` otherwise.

    `outputs` has shape (batch, output), and only the columns `wanted` are checked. `first` is the index of the first
    image.
    """
    total = 0.0
    for tensor in (*inputs, *derivatives):  # integer inputs are always finite, and so is their sum
        total += tensor.sum().item()
    if outputs is not None:
        total += outputs.detach().sum().item()  # detached, so that no graph node is created
    if math.isfinite(total):  # one cheap sum suffices: NaN and infinities survive it
        return
    # not finite: either a bad value or an overflow of the sum, which the exact search below tells apart
    _refuse(inputs, outputs, derivatives, wanted, first + _FIRST.get())


def _refuse(
    inputs: Sequence[Tensor],
    outputs: Tensor | None,
    derivatives: Sequence[Tensor],
    wanted: Sequence[int] | None,
    first: int,
) -> None:
    """Raise the error for the first non-finite value, if any."""
    for tensor in inputs:
        row = first_bad_row(tensor.detach())
        if row is not None:
            raise DataError(
                f"x contains {bad_value(tensor[row])} in image {first + row}; every input must be finite. Replace the "
                "value or drop the image."
            )
    chosen = None if outputs is None else outputs.detach()
    if chosen is not None and wanted is not None:
        chosen = chosen[:, list(wanted)]
    row = None if chosen is None else first_bad_row(chosen)
    if chosen is not None and row is not None:
        raise ModelError(
            f"the outputs for image {first + row} contain {bad_value(chosen[row])}, which has no derivative. Check the "
            "model's weights and the scale of x, or select the finite outputs with outputs=[…]."
        )
    for tensor in derivatives:
        row = first_bad_row(tensor.detach())
        if row is not None:
            raise ModelError(
                f"the derivative at image {first + row} contains {bad_value(tensor[row])}, although x and the outputs "
                "are finite: it is infinite or undefined there, like that of a square root or a norm at zero. Add a "
                "small constant under the root, or perturb the image."
            )
