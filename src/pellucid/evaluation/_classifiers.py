"""Tests of differences in accuracy: between two classifiers on the same images, and between settings over seeds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest, norm, t, ttest_ind

__all__ = ["ImageDifference", "SeedDifference", "image_difference", "seed_difference"]


@dataclass(frozen=True)
class ImageDifference:
    """Difference in accuracy (first minus second) of two classifiers on the same images."""

    difference: float
    """Between -1 and 1."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    p: float
    """Two-sided p-value of the hypothesis of equal accuracy."""
    first_only: int
    """Number of images that only the first classifies correctly."""
    second_only: int
    images: int

    def to_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def image_difference(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> ImageDifference:
    """Compare two classifiers on the same images; `first` and `second` are (image,), True where they are correct.

    The p-value is that of the exact form of McNemar's test (1947): the images that only one of them classifies
    correctly are a fair coin under the hypothesis. The interval is that of Agresti and Min (2005), which adds half an
    image to each cell of the table and so does not vanish if the classifiers agree everywhere.

    >>> image_difference(np.array([True] * 9 + [False]), np.array([True] * 4 + [False] * 6)).p
    0.0625
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    count = len(first)
    first_only, second_only = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = first_only + second_only
    p = float(binomtest(first_only, discordant, 0.5).pvalue) if discordant else 1.0
    added, apart = count + 2, first_only - second_only
    error = sqrt(discordant + 1 - apart**2 / added) / added
    reach = float(norm.ppf((1 + level) / 2)) * error
    return ImageDifference(
        difference=apart / count,
        low=min(apart / added - reach, apart / count),
        high=max(apart / added + reach, apart / count),
        p=p,
        first_only=first_only,
        second_only=second_only,
        images=count,
    )


@dataclass(frozen=True)
class SeedDifference:
    """Difference in mean accuracy (first minus second) of two settings, each trained with one or more seeds."""

    difference: float
    low: float
    """Lower end of the 95% interval; NaN if it is undefined."""
    high: float
    p: float
    """Two-sided p-value of the hypothesis of equal means; NaN if it is undefined."""
    first_seeds: int
    second_seeds: int
    method: str
    """`welch`, or `prediction` if one setting has a single seed."""

    def to_dict(self) -> dict[str, float | str]:
        """Return the numbers by name."""
        return asdict(self)


def seed_difference(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> SeedDifference | None:
    """Compare two settings by the accuracies of their seeds; None if both have a single seed.

    With two or more seeds each, this is Welch's t-test (1947), which does not assume equal variances. With a single
    seed of one setting, that seed is compared with the distribution of the other setting's seeds (Crawford and Howell,
    1998), which assumes equal variances. If the seeds of a setting don't vary at all, interval and p are undefined.

    >>> seed_difference([0.91, 0.92, 0.93], [0.96, 0.97, 0.98]).p < 0.01
    True
    """
    sizes = len(first), len(second)
    if max(sizes) < 2:
        return None
    difference = float(np.mean(first) - np.mean(second))
    low, high, p, method = np.nan, np.nan, np.nan, "welch" if min(sizes) > 1 else "prediction"
    if method == "welch":
        # not the standard deviation, which rounding makes positive for equal values
        if np.ptp(first) > 0 or np.ptp(second) > 0:
            result = ttest_ind(first, second, equal_var=False)
            limits = result.confidence_interval(level)
            low, high, p = float(limits.low), float(limits.high), float(result.pvalue)
    else:
        several = first if sizes[0] > 1 else second
        error = float(np.std(several, ddof=1)) * sqrt(1 + 1 / len(several))
        if np.ptp(several) > 0:
            freedom = len(several) - 1
            reach = error * float(t.ppf((1 + level) / 2, freedom))
            low, high = difference - reach, difference + reach
            p = float(2 * t.sf(abs(difference) / error, freedom))
    return SeedDifference(difference, low, high, p, *sizes, method)
