"""Bootstrap intervals of means, and paired tests between methods on the same images.

SciPy's `bootstrap` and `permutation_test` cannot skip missing values, so they would need one call per column. Here, one
matrix product serves all columns: about 10 times as fast for the intervals, and 60 times for the tests. The tests
compare the results with SciPy's.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from pellucid.core.multiple_tests import holm
from pellucid.core.seeding import derive_seed

__all__ = ["RESAMPLES", "SIGN_FLIPS", "holm", "intervals", "sign_flip"]

RESAMPLES = 2000
SIGN_FLIPS = 10_000
FLIPS_AT_ONCE = 1000


def intervals(values: np.ndarray, seed: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the mean and the percentile bootstrap interval (Efron, 1979) of each column.

    `values` is (image, column); NaN counts as missing. All columns share the same resamples of images.

    >>> mean, low, high = intervals(np.ones((5, 1)), seed=0)
    >>> float(mean[0]), float(low[0]), float(high[0])
    (1.0, 1.0, 1.0)
    """
    count = len(values)
    draws = np.random.default_rng(derive_seed(seed, "bootstrap"))
    is_there = ~np.isnan(values)
    # missing values add nothing to the sums, and are not counted in the divisor
    plain = np.where(is_there, values, 0.0)
    # multinomial counts are the weights of a resample with replacement: one matrix product gives all bootstrap means
    weights = draws.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ plain) / (weights @ is_there)
        mean = plain.sum(0) / is_there.sum(0)
    tail = (1 - level) / 2
    low, high = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    for column in np.isfinite(mean).nonzero()[0]:
        # a resample that misses every defined image has no mean
        found = means[:, column][np.isfinite(means[:, column])]
        low[column], high[column] = np.quantile(found, [tail, 1 - tail])
    # the percentile interval of a very skewed sample can miss the mean
    return mean, np.minimum(low, mean), np.maximum(high, mean)


def sign_flip(differences: np.ndarray, seed: int) -> np.ndarray:
    """Return the (column,) two-sided p-values of the hypothesis of zero mean, by random sign flips (Fisher, 1935).

    `differences` is (image, column); NaN counts as missing. All columns share the same flips, and both counts are
    increased by 1, so that p is never 0 (Phipson and Smyth, 2010).

    >>> p = sign_flip(np.column_stack([np.ones(30), np.tile([1.0, -1.0], 15)]), seed=0)
    >>> bool(p[0] < 0.001), bool(p[1] > 0.5)
    (True, True)
    """
    # missing values become 0, which no sign changes
    plain = np.nan_to_num(differences)
    # the tolerance counts ties as reached, despite rounding in the sums
    observed = np.abs(plain.sum(0)) - 1e-9 * np.abs(plain).sum(0)
    draws = np.random.default_rng(derive_seed(seed, "sign flips"))
    reached = np.zeros(plain.shape[1])
    for _ in range(SIGN_FLIPS // FLIPS_AT_ONCE):
        # in parts, which bounds the memory; the same signs for all columns
        signs = 2.0 * draws.integers(0, 2, size=(FLIPS_AT_ONCE, len(plain))) - 1
        reached += (np.abs(signs @ plain) >= observed).sum(0)
    return np.asarray((reached + 1) / (SIGN_FLIPS + 1))


def compare(values: Mapping[str, np.ndarray], seed: int) -> list[tuple[str, str, float, float]]:
    """Return (method, other, mean difference, adjusted p) for each pair of methods measured on the same images."""
    pairs = list(combinations(values, 2))
    if not pairs:
        return []
    differences = np.column_stack([values[one] - values[other] for one, other in pairs])
    is_there = ~np.isnan(differences)
    means = np.nan_to_num(differences).sum(0) / np.maximum(is_there.sum(0), 1)
    p = holm(sign_flip(differences, seed).tolist())
    return [(one, other, float(mean), value) for (one, other), mean, value in zip(pairs, means, p, strict=True)]
