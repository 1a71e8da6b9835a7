"""Effective rank: the number of dimensions that features make use of."""

import torch
from torch import Tensor

from pellucid.core.errors import ShapeError
from pellucid.diagnostics._arguments import check_tensors

__all__ = ["effective_rank"]

ROUNDING = 1e-6
"""Variation relative to the largest feature below which features count as constant."""


def effective_rank(features: Tensor) -> float:
    r"""Return the effective rank of features (sample, feature), after subtracting the mean of each feature.

    It is $\exp(-\sum_i p_i \ln p_i)$ with $p_i = \sigma_i / \sum_j \sigma_j$ for the singular values $\sigma_i$ of the
    centered features (Roy and Vetterli, *The effective rank*, 2007): k if k singular values are equal and the others
    zero. It lies between 1 and min(samples − 1, features), and rotating, shifting or rescaling the features as a whole
    does not change it. It is 0 for features without variation, and NaN if one is not finite.

    Raises `ShapeError` unless there are two axes and at least one sample.

    >>> round(effective_rank(torch.eye(4)), 4), effective_rank(torch.ones(5, 3))
    (3.0, 0.0)
    """
    check_tensors(features=features)
    if features.ndim != 2 or 0 in features.shape:
        raise ShapeError(
            f"features has shape {tuple(features.shape)}; expected (sample, feature) with at least one each."
        )
    values = features.detach().double()
    if not bool(values.isfinite().all()):
        return float("nan")
    largest = values.abs().max()
    values = values - values.mean(0)
    spread = values.abs().max()
    if float(spread) <= ROUNDING * float(largest):
        return 0.0
    values = values / spread
    # the smaller of the two Gram matrices; its eigenvalues are the squares of the singular values
    gram = values.T @ values if values.shape[1] <= values.shape[0] else values @ values.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    # what the rounding of the eigenvalues alone can cause is no dimension
    singular = singular[singular > 1e-7 * singular.max()]
    share = singular / singular.sum()
    return float((-(share * share.log()).sum()).exp())
