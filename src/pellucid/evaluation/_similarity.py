"""How alike two heatmaps are, image by image."""

from typing import Literal

import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

__all__ = ["Similarity", "similarity"]

Similarity = Literal["spearman", "cosine", "ssim"]

WINDOW_PIXELS, WINDOW_SIGMA = 11, 1.5
"""Of the structural similarity, as Wang et al. (2004) have them."""


def similarity(first: Tensor, second: Tensor, kind: Similarity) -> Tensor:
    """(image,): at most 1, which is reached by equal maps.

    `spearman` is the correlation of the ranks of all entries, `cosine` that of the angle, and `ssim` the structural
    similarity (Wang et al., 2004, eq. 13) of the maps with their channels added, each scaled to [0, 1]. Two maps that
    are constant count as alike, and one as unlike any that is not.

    >>> maps = torch.rand(2, 1, 8, 8)
    >>> [round(float(similarity(maps, maps, kind).min()), 6) for kind in ("spearman", "cosine", "ssim")]
    [1.0, 1.0, 1.0]
    """
    if kind == "ssim":
        return _ssim(_unit(first.sum(1, keepdim=True)), _unit(second.sum(1, keepdim=True)))
    first, second = first.flatten(1), second.flatten(1)
    if kind == "spearman":
        first, second = _centred_ranks(first), _centred_ranks(second)
    return _cosine(first, second)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    one, two = first.double().norm(dim=1), second.double().norm(dim=1)
    product = (first.double() * second.double()).sum(1) / (one * two).clamp(min=1e-300)
    return torch.where((one == 0) & (two == 0), 1.0, product)


def _centred_ranks(maps: Tensor) -> Tensor:
    ranks = torch.from_numpy(rankdata(maps.cpu().numpy(), axis=1)).to(maps.device)
    return ranks - ranks.mean(1, keepdim=True)


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.flatten(1).amin(1), maps.flatten(1).amax(1)
    span = (high - low).clamp(min=1e-30)
    return (maps - low[:, None, None, None]) / span[:, None, None, None]


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    sides = [min(WINDOW_PIXELS, side - 1 + side % 2) for side in first.shape[2:]]
    places = (torch.arange(side, dtype=first.dtype, device=first.device) - side // 2 for side in sides)
    rows, columns = (torch.exp(-place.square() / (2 * WINDOW_SIGMA**2)) for place in places)
    window = (rows[:, None] * columns / (rows.sum() * columns.sum()))[None, None]

    def mean(maps: Tensor) -> Tensor:
        return F.conv2d(maps, window)

    one, two = mean(first), mean(second)
    own, other = mean(first * first) - one * one, mean(second * second) - two * two
    both = mean(first * second) - one * two
    alike = (2 * one * two + 1e-4) * (2 * both + 9e-4)
    return (alike / ((one * one + two * two + 1e-4) * (own + other + 9e-4))).flatten(1).mean(1).double()
