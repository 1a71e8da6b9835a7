"""Similarity of heatmaps, image by image."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from pellucid.evaluation._metric import TINY

__all__ = ["Similarity", "similarities", "similarity"]

Similarity = Literal["spearman", "cosine", "ssim"]

WINDOW_PIXELS, WINDOW_SIGMA = 11, 1.5
"""Gaussian window of the structural similarity, as in Wang et al. (2004)."""


def similarity(first: Tensor, second: Tensor, kind: Similarity) -> Tensor:
    """Compute the (image,) similarity of two sets of maps; it is at most 1, for equal maps.

    `spearman` is the rank correlation over all entries, `cosine` the cosine of the angle, and `ssim` the structural
    similarity (Wang et al., 2004) of the maps summed over channels, each scaled to [0, 1], with a window along each
    spatial axis (so not for tables). Two constant maps count as alike, a constant and a non-constant one as unlike.

    >>> maps = torch.rand(2, 1, 8, 8)
    >>> [round(float(similarity(maps, maps, kind).min()), 6) for kind in ("spearman", "cosine", "ssim")]
    [1.0, 1.0, 1.0]
    """
    return similarities(first, [second], kind)[0]


def similarities(own: Tensor, others: Iterable[Tensor], kind: Similarity) -> list[Tensor]:
    """Compute the similarity of one set of maps to each of several others."""
    prepared, alike = _prepared(own, kind), []
    for other in others:
        # exactly 1, without rounding errors
        if torch.equal(own, other):
            alike.append(torch.ones(len(own), dtype=torch.float64, device=own.device))
        else:
            alike.append((_ssim if kind == "ssim" else _cosine)(prepared, _prepared(other, kind)))
    return alike


def _prepared(maps: Tensor, kind: Similarity) -> Tensor:
    """Transform the maps for the comparison."""
    if kind == "ssim":
        return _unit(maps.sum(1, keepdim=True))
    return _centered_ranks(maps.flatten(1)) if kind == "spearman" else maps.flatten(1)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    alike = F.cosine_similarity(first.double(), second.double(), dim=1, eps=TINY)
    # two zero vectors, such as the centered ranks of constant maps, count as alike
    return torch.where(first.any(1) | second.any(1), alike, 1.0)


def _centered_ranks(maps: Tensor) -> Tensor:
    # SciPy averages the ranks of ties, which torch's argsort does not
    ranks = torch.from_numpy(rankdata(maps.cpu().numpy(), axis=1)).to(maps.device)
    return ranks - ranks.mean(1, keepdim=True)


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.flatten(1).amin(1), maps.flatten(1).amax(1)
    # the clamp avoids 0 / 0 for constant maps
    span = (high - low).clamp(min=1e-30)
    wide = (-1, *(1 for _ in maps.shape[1:]))
    return (maps - low.view(wide)) / span.view(wide)


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    # odd window sides, at most the side of the maps
    sides = [min(WINDOW_PIXELS, side - 1 + side % 2) for side in first.shape[2:]]
    places = (torch.arange(side, dtype=first.dtype, device=first.device) - side // 2 for side in sides)
    window = torch.ones((), dtype=first.dtype, device=first.device)
    for place in places:
        weights = torch.exp(-place.square() / (2 * WINDOW_SIGMA**2))
        window = window[..., None] * (weights / weights.sum())
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(sides) - 1]

    def mean(maps: Tensor) -> Tensor:
        return convolve(maps, window[None, None])

    one, two = mean(first), mean(second)
    own, other = mean(first * first) - one * one, mean(second * second) - two * two
    both = mean(first * second) - one * two
    # the standard constants (0.01)² and (0.03)² for a value range of 1
    alike = (2 * one * two + 1e-4) * (2 * both + 9e-4)
    return (alike / ((one * one + two * two + 1e-4) * (own + other + 9e-4))).flatten(1).mean(1).double()
