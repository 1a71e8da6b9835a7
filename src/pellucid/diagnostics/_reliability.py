"""Bins of confidences: counts, means, accuracies and their binomial intervals."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.diagnostics._proportions import clopper_pearson

__all__ = ["ReliabilityBins", "bin_edges", "bin_indices", "reliability_bins"]


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """A reliability diagram as a table with one row per bin; values of empty bins are NaN."""

    edges: Float[Tensor, " edge"]
    """Ends of the bins, from 0 to 1: bin b holds the confidences in (edges[b], edges[b + 1]], the first one also 0."""
    counts: Int64[Tensor, " bin"]
    """Number of images."""
    confidence: Float[Tensor, " bin"]
    """Mean confidence."""
    accuracy: Float[Tensor, " bin"]
    """Share of correct predictions."""
    low: Float[Tensor, " bin"]
    """Lower end of the interval of the accuracy."""
    high: Float[Tensor, " bin"]


def bin_edges(bins: int) -> Float[Tensor, " edge"]:
    """Return the ends of `bins` bins of equal width in [0, 1]."""
    return torch.linspace(0, 1, bins + 1, dtype=torch.float64, device="cpu")


def bin_indices(values: Tensor, edges: Float[Tensor, " edge"]) -> Tensor:
    """Return the bin of each value, of the same shape as `values`."""
    # the outer edges are left out, so that 0 belongs to the first bin
    return torch.bucketize(values, edges[1:-1])


def reliability_bins(
    confidence: Float[Tensor, " image"], is_correct: Tensor, bins: int, level: float = 0.95
) -> ReliabilityBins:
    """Return the reliability diagram of predictions with the given confidences, with intervals of `level`."""
    edges = bin_edges(bins)
    places = bin_indices(confidence, edges)
    counts = torch.bincount(places, minlength=bins)
    correct = torch.bincount(places, is_correct.double(), minlength=bins)
    low, high = clopper_pearson(correct, counts, level)
    # 0 / 0 is NaN
    return ReliabilityBins(
        edges, counts, torch.bincount(places, confidence, minlength=bins) / counts, correct / counts, low, high
    )
