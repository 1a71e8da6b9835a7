"""Checks of the arguments of `label_errors`."""

from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import DataError, ShapeError
from pellucid.core.finite import bad_value
from pellucid.diagnostics._arguments import check_tensors, holds_integers

__all__ = ["check_predictions"]

LARGEST_ROUNDING = 1e-2
"""Maximum distance of a sum of probabilities from 1, for probabilities of half precision."""


def check_predictions(probabilities: Any, labels: Any, embedding: Any, allow_missing: bool) -> Tensor:
    """Return the mask of examples with a prediction; raise an error if the arguments are invalid."""
    check_tensors(probabilities=probabilities, labels=labels)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not probabilities.is_floating_point():
        raise ShapeError(
            f"Expected probabilities as floats of shape (example, class) with at least two classes, got "
            f"{tuple(probabilities.shape)} of {probabilities.dtype}."
        )
    _check_labels(labels, probabilities)
    is_predicted = ~probabilities.isnan().all(1) if allow_missing else torch.ones_like(labels, dtype=torch.bool)
    known = probabilities[is_predicted]
    if not bool(known.isfinite().all()):
        hint = "" if allow_missing else " Pass allow_missing=True if rows of NaN are examples without a prediction."
        raise DataError(f"probabilities holds {bad_value(known)}; expected finite values.{hint}")
    if not len(known):
        raise DataError("no example has a prediction; at least one is required.")
    sums = known.double().sum(1)
    is_wrong = (known < 0).any(1) | ((sums - 1).abs() > LARGEST_ROUNDING)
    if bool(is_wrong.any()):
        row = int(is_wrong.nonzero()[0])
        raise DataError(
            f"row {int(is_predicted.nonzero()[row])} of probabilities sums to {float(sums[row]):.4g} with a minimum of "
            f"{float(known[row].min()):.4g}; expected values of at least 0 that sum to 1. Pass logits.softmax(1)."
        )
    if embedding is not None:
        _check_embedding(embedding, is_predicted)
    return is_predicted


def _check_labels(labels: Tensor, probabilities: Tensor) -> None:
    count, classes = probabilities.shape
    if labels.shape != (count,) or not holds_integers(labels):
        raise ShapeError(
            f"Expected one integer label for each of {count} rows of probabilities, got labels of shape "
            f"{tuple(labels.shape)} of {labels.dtype}."
        )
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"labels range from {int(labels.min())} to {int(labels.max())}; expected class indices from 0 to "
            f"{classes - 1}, since probabilities has {classes} columns."
        )


def _check_embedding(embedding: Tensor, is_predicted: Tensor) -> None:
    check_tensors(embedding=embedding)
    if embedding.ndim != 2 or len(embedding) != len(is_predicted) or not embedding.is_floating_point():
        raise ShapeError(
            f"Expected an embedding of floats with one row for each of {len(is_predicted)} examples, got shape "
            f"{tuple(embedding.shape)} of {embedding.dtype}. Flatten feature maps with embedding.flatten(1)."
        )
    if not bool(embedding[is_predicted].isfinite().all()):
        raise DataError("the embedding holds NaN or infinite values; pass embedding=None to rank without neighbors.")
