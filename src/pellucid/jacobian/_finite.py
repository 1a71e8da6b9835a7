"""NaN and infinities in inputs, outputs and derivatives: an error that names the first image."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from pellucid.core.errors import DataError, ModelError
from pellucid.core.finite import bad_value, first_bad_row

__all__ = ["check_finite", "counted_from"]

_FIRST: ContextVar[int] = ContextVar("first image", default=0)


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Inside, errors count images from `first` on: for callers that hand over a part of their images at a time."""
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
    """Raise for the first image of which something is not finite: `DataError` for an input, `ModelError` otherwise.

    `outputs` are (batch, output), of which only the `wanted` ones count; `first` is the index of the first image.
    """
    total = 0.0
    for tensor in (*inputs, *derivatives):  # whole numbers among the inputs are finite, whatever they sum to
        total += tensor.sum().item()
    if outputs is not None:
        total += outputs.detach().sum().item()  # detached: no node of the graph for it
    if math.isfinite(total):  # NaN and infinities survive every sum, at the cost of one pass
        return
    _refuse(inputs, outputs, derivatives, wanted, first + _FIRST.get())


def _refuse(
    inputs: Sequence[Tensor],
    outputs: Tensor | None,
    derivatives: Sequence[Tensor],
    wanted: Sequence[int] | None,
    first: int,
) -> None:
    for tensor in inputs:
        row = first_bad_row(tensor.detach())
        if row is not None:
            raise DataError(
                f"x holds {bad_value(tensor[row])} in image {first + row}; every input must be finite. Replace the "
                "value, or leave the image out."
            )
    chosen = None if outputs is None else outputs.detach()
    if chosen is not None and wanted is not None:
        chosen = chosen[:, list(wanted)]
    row = None if chosen is None else first_bad_row(chosen)
    if chosen is not None and row is not None:
        raise ModelError(
            f"the outputs for image {first + row} hold {bad_value(chosen[row])}, and such a number has no derivative; "
            "check the model's weights and the scale of x, or choose the finite outputs with outputs=[…]."
        )
    for tensor in derivatives:
        row = first_bad_row(tensor.detach())
        if row is not None:
            raise ModelError(
                f"the derivative at image {first + row} holds {bad_value(tensor[row])}, although x and the outputs are "
                "finite: it is infinite or undefined there, as that of a square root or a norm is at zero. Add a small "
                "constant under the root, or move the image off that point."
            )
