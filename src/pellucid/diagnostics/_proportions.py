"""Confidence intervals of proportions."""

from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["clopper_pearson", "wilson"]


def wilson(successes: Tensor, trials: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return the ends of the score intervals of proportions (Wilson, 1927), in float64; NaN without trials.

    The two tensors have broadcastable shapes.

    >>> low, high = wilson(torch.tensor([9]), torch.tensor([10]))
    >>> round(float(low), 3), round(float(high), 3)
    (0.596, 0.982)
    """
    z, count = NormalDist().inv_cdf((1 + level) / 2), trials.double()
    share = successes.double() / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)).sqrt()
    # rounding can move the ends at 0 and 1 across them
    return (middle - half).clamp(min=0), (middle + half).clamp(max=1)


def clopper_pearson(successes: Tensor, trials: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return the ends of exact intervals of proportions (Clopper and Pearson, 1934), in float64; NaN without trials.

    Both tensors are on the CPU and have equal shapes. The interval covers the true probability with at least the
    probability `level`. If the probabilities of the trials differ, the number of successes varies less than a binomial
    one of the same mean (Hoeffding, 1956), so that the interval is wide enough.

    >>> low, high = clopper_pearson(torch.tensor([0, 5]), torch.tensor([10, 10]))
    >>> [(round(one, 3), round(other, 3)) for one, other in zip(low.tolist(), high.tolist())]
    [(0.0, 0.308), (0.187, 0.813)]
    """
    from scipy.special import betainccinv, betaincinv

    tail = (1 - level) / 2
    hits, misses = successes.double().numpy(), (trials - successes).double().numpy()
    # at the ends of the range, the beta distribution of the limit is degenerate; its parameter only has to be positive
    low = torch.as_tensor(betaincinv(hits.clip(1e-9), misses + 1, tail), dtype=torch.float64, device="cpu")
    high = torch.as_tensor(betainccinv(hits + 1, misses.clip(1e-9), tail), dtype=torch.float64, device="cpu")
    low = torch.where(successes > 0, low, 0.0)
    high = torch.where(successes < trials, high, 1.0)
    nothing = torch.full_like(low, torch.nan)
    return torch.where(trials > 0, low, nothing), torch.where(trials > 0, high, nothing)
