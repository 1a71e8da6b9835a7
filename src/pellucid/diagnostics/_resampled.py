"""Calibration errors of labels that are drawn from the predicted probabilities."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.seeding import generator
from pellucid.diagnostics._reliability import bin_edges, bin_indices

__all__ = ["calibration_errors", "exceedance", "family_wise"]

LABELS_AT_ONCE = 500_000
"""Number of labels drawn at once, which bounds memory."""
CELLS_AT_ONCE = 2_000_000
ROUNDING = 1e-12
"""Errors that differ by less are equal: their sums are rounded."""


def calibration_errors(
    probabilities: Float[Tensor, "image class"], labels: Int64[Tensor, " image"], bins: int, draws: int, seed: int
) -> tuple[Float[Tensor, " set"], Float[Tensor, "set class"]]:
    """Return the calibration errors of the confidences and of each class, for `labels` and for each set of drawn ones.

    The first set is `labels`; the others are drawn from the probabilities.
    """
    count, classes = probabilities.shape
    edges = bin_edges(bins)
    confidence, predictions = probabilities.max(1)
    places = bin_indices(confidence, edges)
    expected = torch.bincount(places, confidence, minlength=bins)
    # (bin, image), for one matrix product; float32 counts exactly up to 2^24
    members = torch.nn.functional.one_hot(places, bins).T.to(torch.float64 if count > 2**24 else torch.float32)
    # cell (class, bin) of each probability
    cells = bin_indices(probabilities, edges) + bins * torch.arange(classes, device="cpu")
    expected_each = torch.bincount(cells.flatten(), probabilities.flatten(), minlength=classes * bins)
    overall, each = [], []
    for drawn in _label_sets(probabilities, labels, draws, bins, seed):  # (image, set)
        correct = members @ (drawn == predictions[:, None]).to(members.dtype)
        overall.append((correct.double() - expected[:, None]).abs().sum(0) / count)
        sets = drawn.shape[1]
        flat = cells.gather(1, drawn) + classes * bins * torch.arange(sets, device="cpu")
        found = torch.bincount(flat.flatten(), minlength=sets * classes * bins).reshape(sets, -1)
        each.append((found - expected_each).abs().reshape(sets, classes, bins).sum(2) / count)
    return torch.cat(overall), torch.cat(each)


def _label_sets(
    probabilities: Float[Tensor, "image class"], labels: Int64[Tensor, " image"], draws: int, bins: int, seed: int
) -> Iterator[Int64[Tensor, "image set"]]:
    """Yield the labels, then labels drawn from the probabilities, some sets at a time."""
    yield labels[:, None]
    count, classes = probabilities.shape
    sums = probabilities.cumsum(1)
    # exactly 1 at the end, so that every random number below 1 selects a class
    sums = (sums / sums[:, -1:]).float()
    random = generator(seed, "labels under calibration")
    at_once = max(1, min(LABELS_AT_ONCE // count, CELLS_AT_ONCE // (classes * bins)))
    for first in range(0, draws, at_once):
        numbers = torch.rand(count, min(at_once, draws - first), generator=random, dtype=torch.float32, device="cpu")
        # the first class whose sum exceeds the number, which is never one of probability 0
        yield torch.searchsorted(sums, numbers, right=True)


def exceedance(errors: Float[Tensor, " set"]) -> float:
    """Return the p-value of the first error among all, itself included (Phipson and Smyth, 2010)."""
    return float((errors >= errors[0] - ROUNDING).double().mean())


def family_wise(errors: Float[Tensor, "set class"]) -> Float[Tensor, " class"]:
    """Return p-values of the first row, adjusted for all columns by the largest standardized error of each row.

    The single-step max-T procedure of Westfall and Young (1993). Mean and standard deviation include the first row, so
    that all rows are exchangeable under the null hypothesis, which makes the smallest p-value exact.
    """
    spread = errors.std(0)
    standardized = torch.where(spread > ROUNDING, (errors - errors.mean(0)) / spread, -torch.inf)
    largest = standardized.amax(1, keepdim=True)
    # errors without any spread are as expected
    return (largest >= standardized[0] - ROUNDING).double().mean(0)
