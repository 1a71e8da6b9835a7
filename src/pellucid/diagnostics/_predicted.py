"""Checks of predicted logits or probabilities and of the labels that belong to them."""

from typing import Any

from torch import Tensor

from pellucid.core.errors import DataError, ShapeError
from pellucid.core.finite import bad_value, first_bad_row
from pellucid.diagnostics._arguments import check_tensors, holds_integers

__all__ = ["check_logits", "check_probabilities"]

LARGEST_ROUNDING = 1e-3
"""Largest distance of a sum of probabilities from 1."""


def check_logits(logits: Any, labels: Any, fewest: int = 1) -> None:
    """Raise an error unless `logits` are finite, with a valid label for each of at least `fewest` images."""
    _check_shapes(logits, labels, "logits", fewest)
    _check_finite(logits, "logits")


def check_probabilities(probabilities: Any, labels: Any) -> None:
    """Raise an error unless the rows of `probabilities` are distributions, with a valid label for each."""
    _check_shapes(probabilities, labels, "probabilities", 1)
    _check_finite(probabilities, "probabilities")
    probabilities = probabilities.detach()
    sums = probabilities.double().sum(1)
    if bool((probabilities < 0).any()) or float((sums - 1).abs().max()) > LARGEST_ROUNDING:
        row = int(((probabilities < 0).any(1) | ((sums - 1).abs() > LARGEST_ROUNDING)).nonzero()[0])
        raise DataError(
            f"probabilities[{row}] sums to {float(sums[row]):.6g} and has a minimum of "
            f"{float(probabilities[row].min()):.6g}; expected probabilities of all classes, which are not negative and "
            "sum to 1. Convert logits by logits.double().softmax(1)."
        )


def _check_shapes(values: Any, labels: Any, name: str, fewest: int) -> None:
    check_tensors(**{name: values, "labels": labels})
    if values.ndim != 2 or values.shape[1] < 2 or not values.is_floating_point():
        raise ShapeError(
            f"{name} has shape {tuple(values.shape)} and dtype {values.dtype}; expected floats of shape (image, class) "
            "with at least two classes."
        )
    if labels.shape != values.shape[:1] or not holds_integers(labels):
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype} for {name} of {len(values)} images; "
            "pass one class index per image."
        )
    if len(values) < fewest:
        raise DataError(f"got {len(values)} images; at least {fewest} {'is' if fewest == 1 else 'are'} required.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= values.shape[1]:
        raise DataError(
            f"labels are from {low} to {high}, but {name} has {values.shape[1]} classes; expected class indices from "
            f"0 to {values.shape[1] - 1}."
        )


def _check_finite(values: Tensor, name: str) -> None:
    if first_bad_row(values) is not None:
        raise DataError(f"{name} holds {bad_value(values)}; every value must be finite. Remove the image.")
