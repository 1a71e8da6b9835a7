"""Bins of confidences: counts, means, accuracies and their binomial intervals."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from scipy.special import betaincinv
from torch import Tensor

__all__ = ["ReliabilityBins", "bin_edges", "bin_indices", "binomial_interval", "reliability_bins"]


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
    low, high = binomial_interval(correct, counts, level)
    # 0 / 0 is NaN
    return ReliabilityBins(
        edges, counts, torch.bincount(places, confidence, minlength=bins) / counts, correct / counts, low, high
    )


def binomial_interval(
    successes: Float[Tensor, "*shape"], trials: Int64[Tensor, "*shape"], level: float = 0.95
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the ends of the exact interval of a binomial probability (Clopper and Pearson, 1934); NaN without trials.

    The interval covers the true probability with at least the probability `level`. Within a bin of a reliability
    diagram, the probabilities of the images differ. Their number of successes then varies less than a binomial one of
    the same mean (Hoeffding, 1956), so that the interval is wide enough.

    >>> low, high = binomial_interval(torch.tensor([0.0, 5.0]), torch.tensor([10, 10]))
    >>> [(round(one, 3), round(other, 3)) for one, other in zip(low.tolist(), high.tolist())]
    [(0.0, 0.308), (0.187, 0.813)]
    """
    tail = (1 - level) / 2
    hits, misses = successes.double().numpy(), (trials - successes.double()).numpy()
    # at the ends of the range, the Beta distribution of the limit is degenerate; its parameter only has to be positive
    low = torch.as_tensor(betaincinv(hits.clip(1e-9), misses + 1, tail), dtype=torch.float64, device="cpu")
    high = torch.as_tensor(betaincinv(hits + 1, misses.clip(1e-9), 1 - tail), dtype=torch.float64, device="cpu")
    low = torch.where(successes > 0, low, 0.0)
    high = torch.where(successes < trials, high, 1.0)
    nothing = torch.full_like(low, torch.nan)
    return torch.where(trials > 0, low, nothing), torch.where(trials > 0, high, nothing)
