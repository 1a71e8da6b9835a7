"""Mean ranks of methods over several metrics, image by image, and tests of their differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.evaluation._evaluation import Evaluation
from pellucid.evaluation._statistics import holm, intervals, sign_flip

__all__ = ["Ranked", "mean_ranks", "ranked", "worse_than"]

DIGIT = 0.001
"""One unit of the third digit, relative to an image's largest value (at least 1); values are rounded to it before
ranking."""


@dataclass(frozen=True)
class Ranked:
    """The mean rank of a method, from 1 (best), with its 95% bootstrap interval."""

    method: str
    rank: float
    low: float
    high: float
    images: int
    """Number of images on which the method was measured."""
    rivals: int
    """Number of methods that were ranked together."""
    is_dropped: bool = False
    """True if the method left the race before its end."""


def mean_ranks(evaluation: Evaluation, methods: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    """Return (image, method): the rank of each method on an image, from 1 (best), averaged over the metrics.

    Values that are equal to three digits share their mean rank, so that rounding errors do not decide. Ranks make
    metrics of different scale comparable, and a few images with extreme values cannot decide (Friedman, 1937; Demšar,
    2006). A method without a value for an image has no rank there in that metric, and NaN if it has none in any.
    """
    ranks = [_ranks(_values(evaluation, methods, metric)) for metric in metrics]
    stacked = np.stack(ranks)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def ranked(evaluation: Evaluation, methods: Sequence[str], metrics: Sequence[str], seed: int) -> list[Ranked]:
    """Return the mean rank of each method with its interval, the best first."""
    ranks = mean_ranks(evaluation, methods, metrics)
    means, lows, highs = intervals(ranks, seed)
    found = [
        Ranked(method, float(means[n]), float(lows[n]), float(highs[n]), evaluation.images, len(methods))
        for n, method in enumerate(methods)
    ]
    return sorted(found, key=lambda one: (np.isnan(one.rank), one.rank))


def worse_than(ranks: np.ndarray, best: int, level: float, seed: int) -> list[int]:
    """Return the columns of (image, method) ranks that are significantly worse than column `best`.

    Paired sign-flip tests, with Holm's correction for all comparisons with the best.

    >>> ranks = np.column_stack([np.ones(20), np.full(20, 2.0), np.tile([1.0, 1.5, 0.5, 1.0], 5)])
    >>> worse_than(ranks, 0, 0.05, seed=0)
    [1]
    """
    others = [column for column in range(ranks.shape[1]) if column != best]
    if not others:
        return []
    differences = ranks[:, others] - ranks[:, [best]]
    p = holm(sign_flip(differences, seed).tolist())
    means = np.nan_to_num(differences).sum(0)
    return [column for column, value, mean in zip(others, p, means, strict=True) if value < level and mean > 0]


def _values(evaluation: Evaluation, methods: Sequence[str], metric: str) -> np.ndarray:
    """Return (image, method) values with the sign that makes lower better; NaN where there is none."""
    sign = -1.0 if evaluation.metrics[metric]["is_higher_better"] else 1.0
    missing: list[float | None] = [None] * evaluation.images
    columns = [
        evaluation.scores[method, metric].values if (method, metric) in evaluation.scores else missing
        for method in methods
    ]
    # None becomes NaN
    return sign * np.array(columns, dtype=float).T


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value within its row, 1 for the smallest; equal values share their mean rank."""
    sizes = np.where(np.isnan(values), 0.0, np.abs(values)).max(axis=1, keepdims=True, initial=1.0)
    rounded = np.round(values / (DIGIT * sizes))
    own, others = rounded[:, :, None], rounded[:, None, :]
    ranks = 0.5 + (others < own).sum(2) + 0.5 * (others == own).sum(2)
    return np.where(np.isnan(values), np.nan, ranks)
