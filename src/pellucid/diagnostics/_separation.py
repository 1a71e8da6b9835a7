"""AUROC of two samples of scores with its confidence interval, and the false positive rate at a fixed threshold."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.diagnostics._arguments import check_tensors

__all__ = ["Separation", "separation"]

ACCEPTED_SHARE = 0.95
"""Share of the in-distribution images that the threshold of `Separation.fpr` accepts."""
HALVINGS = 60
"""Steps of bisection: the width falls below the resolution of a float."""


@dataclass(frozen=True)
class Separation:
    """Separation of in-distribution from out-of-distribution images by one score."""

    auroc: float
    """Area under the ROC curve: the probability that the score of an out-of-distribution image is higher than that of
    an in-distribution image; ties count half. 0.5 is chance, 1 perfect separation, below 0.5 worse than chance."""
    low: float
    """Lower end of the confidence interval of `auroc`."""
    high: float
    """Upper end of the confidence interval of `auroc`."""
    fpr: float
    """FPR at 95% TPR: share of the out-of-distribution images accepted by the lowest threshold that accepts 95% of the
    in-distribution images. 0 is best."""
    inside: int
    """Number of in-distribution images."""
    outside: int
    """Number of out-of-distribution images."""


def separation(inside: Tensor, outside: Tensor, *, level: float = 0.95) -> Separation:
    r"""Compute AUROC with a confidence interval, and FPR at 95% TPR, of scores that should be higher `outside`.

    The variance is that of DeLong, DeLong and Clarke-Pearson (*Comparing the areas under two or more correlated
    receiver operating characteristic curves*, 1988),

    $$
    \mathrm{Var}(A) = \frac{S_{10}}{m} + \frac{S_{01}}{n}
    $$

    where $S_{10}$ is the variance, over the $m$ images outside, of the share of the images inside with a lower score,
    and $S_{01}$ that, over the $n$ images inside, of the share of the images outside with a higher score. The interval
    is symmetric on the logit scale, so it stays within 0 and 1. Where the variance vanishes, as for perfect separation,
    or cannot be estimated, the interval is that of Newcombe (*Confidence intervals for an effect size measure based on
    the Mann–Whitney statistic, part 2*, 2006, method 5).

    The two samples have to be independent: do not compare images with modified copies of themselves.

    Args:
        inside: (image,): scores of in-distribution images, finite.
        outside: (image,): scores of out-of-distribution images, finite.
        level: confidence level, above 0 and below 1.

    Raises `ShapeError` for scores that are not vectors, `DataError` for an empty sample or scores that are not finite,
    and `ConfigError` for an invalid level.

    >>> result = separation(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.5, 0.6]))
    >>> round(result.auroc, 3), round(result.fpr, 3)
    (0.958, 0.333)
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level!r}; pass a number between 0 and 1, such as 0.95.")
    inside, outside = _checked("inside", inside), _checked("outside", outside)
    above = _share_below(outside, inside)  # of the scores inside, for each one outside
    below = 1 - _share_below(inside, outside)
    auroc = float(above.mean())
    n, m = len(inside), len(outside)
    z = NormalDist().inv_cdf((1 + level) / 2)
    variance = float(above.var() / m + below.var() / n) if min(m, n) > 1 else 0.0
    low, high = _logit_interval(auroc, variance, z) if variance > 0 else _newcombe_interval(auroc, (m, n), z)
    threshold = inside.sort().values[math.ceil(ACCEPTED_SHARE * n) - 1]
    return Separation(auroc, low, high, float((outside <= threshold).double().mean()), n, m)


def _checked(name: str, scores: Any) -> Float[Tensor, " image"]:
    check_tensors(**{name: scores})
    if scores.ndim != 1:
        raise ShapeError(f"{name} has shape {tuple(scores.shape)}; pass one score per image, a vector.")
    if not len(scores):
        raise DataError(f"{name} has no scores; pass at least one.")
    scores = scores.detach().to("cpu", torch.float64)
    if unusable := int((~scores.isfinite()).sum()):
        raise DataError(
            f"{unusable} of {len(scores)} scores in {name} are NaN or infinite; leave out the images without a score."
        )
    return scores


def _share_below(scores: Tensor, others: Tensor) -> Tensor:
    """Return, for each of `scores`, the share of `others` below it, with ties counted half."""
    ordered = others.sort().values
    below, up_to = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
    return (below + up_to).double() / (2 * len(others))


def _logit_interval(auroc: float, variance: float, z: float) -> tuple[float, float]:
    # by the delta method; the variance is positive only for 0 < auroc < 1
    center, half = math.log(auroc / (1 - auroc)), z * math.sqrt(variance) / (auroc * (1 - auroc))
    low, high = (_logistic(center + sign * half) for sign in (-1, 1))
    return low, high


def _logistic(value: float) -> float:
    # the exponential of a large number would overflow
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _newcombe_interval(auroc: float, sizes: tuple[int, int], z: float) -> tuple[float, float]:
    """Return the areas whose distance from `auroc` is z standard deviations, each by its own variance."""
    m, n = sizes

    def excess(area: float) -> float:
        among = ((m + n) / 2 - 1) * ((1 - area) / (2 - area) + area / (1 + area))
        return (auroc - area) ** 2 - z**2 * area * (1 - area) * (1 + among) / (m * n)

    return _root(excess, 0.0, auroc), _root(excess, 1.0, auroc)


def _root(excess: Callable[[float], float], end: float, middle: float) -> float:
    """Return the root between an `end`, where the excess is not negative, and `middle`, where it is not positive."""
    for _ in range(HALVINGS):
        center = (end + middle) / 2
        end, middle = (center, middle) if excess(center) > 0 else (end, center)
    return middle
