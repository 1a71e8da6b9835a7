"""Brier score with its decomposition into reliability, resolution and uncertainty."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.options import Range, check_argument
from pellucid.diagnostics._predicted import check_probabilities
from pellucid.diagnostics._reliability import bin_edges, bin_indices

__all__ = ["BrierScore", "brier_score"]


@dataclass(frozen=True, eq=False)
class BrierScore:
    """Mean squared error of the probabilities of each class, with its decomposition; the sums over classes are scores.

    With p the probability of a class, o = 1 for images of that class and 0 for others, their means p̄_b and ō_b over the
    n_b images in a bin b of p, and the mean ō over all n images (Murphy, 1973; the terms within bins are from
    Stephenson, Coelho and Jolliffe, 2008):

    (1/n) Σ (p − o)² = reliability − resolution + uncertainty + within_bin_variance − within_bin_covariance

    The identity is exact, whatever the bins. The last two terms vanish if all probabilities in a bin are equal.
    """

    scores: Float[Tensor, " class"]
    """(1/n) Σ (p − o)², 0 to 1. Their sum is the Brier score (Brier, 1950), 0 (best) to 2."""
    reliability: Float[Tensor, " class"]
    """Σ n_b/n (p̄_b − ō_b)²: 0 if each bin's mean probability is its share of images of the class. Lower is better."""
    resolution: Float[Tensor, " class"]
    """Σ n_b/n (ō_b − ō)²: how far the bins separate images of the class from others. Higher is better."""
    uncertainty: Float[Tensor, " class"]
    """ō (1 − ō): variance of the labels, independent of the model."""
    within_bin_variance: Float[Tensor, " class"]
    """(1/n) Σ (p − p̄_b)²."""
    within_bin_covariance: Float[Tensor, " class"]
    """(2/n) Σ (p − p̄_b) (o − ō_b)."""

    @property
    def score(self) -> float:
        """Brier score: the sum over all classes, 0 (best) to 2."""
        return float(self.scores.sum())

    def to_dict(self) -> dict[str, float]:
        """Return the score and the terms of its decomposition, summed over classes."""
        terms = {name: float(value.sum()) for name, value in vars(self).items() if name != "scores"}
        return {"score": self.score, **terms}


def brier_score(probabilities: Tensor, labels: Tensor, bins: int = 15) -> BrierScore:
    """Compute the Brier score of each class and decompose it with `bins` bins of equal width.

    `probabilities` are (image, class), `labels` class indices (image,). Raises `ShapeError` or `DataError` for anything
    that is not a distribution with a label.

    >>> round(brier_score(torch.tensor([[0.8, 0.2], [0.4, 0.6]]), torch.tensor([0, 0])).score, 6)
    0.4
    """
    check_probabilities(probabilities, labels)
    check_argument("brier_score", "bins", bins, Annotated[int, Range(1, 1000)])
    probabilities, labels = probabilities.detach().double().cpu(), labels.detach().long().cpu()
    count, classes = probabilities.shape
    p, places = probabilities, bin_indices(probabilities, bin_edges(bins))
    o = torch.zeros_like(p).scatter_(1, labels[:, None], 1.0)
    # one table for all classes: cell (class, bin)
    cells = (places + bins * torch.arange(classes, device="cpu")).flatten()
    counts = torch.bincount(cells, minlength=classes * bins)
    filled = counts.clamp(min=1)
    mean_p, mean_o = (torch.bincount(cells, x.flatten(), minlength=classes * bins) / filled for x in (p, o))
    base, share = o.mean(0), counts.reshape(classes, bins).double() / count
    rest_p, rest_o = ((x.flatten() - mean[cells]).reshape(p.shape) for x, mean in ((p, mean_p), (o, mean_o)))
    mean_p, mean_o = mean_p.reshape(classes, bins), mean_o.reshape(classes, bins)
    return BrierScore(
        scores=(p - o).square().mean(0),
        reliability=(share * (mean_p - mean_o).square()).sum(1),
        resolution=(share * (mean_o - base[:, None]).square()).sum(1),
        uncertainty=base * (1 - base),
        within_bin_variance=rest_p.square().mean(0),
        within_bin_covariance=2 * (rest_p * rest_o).mean(0),
    )
