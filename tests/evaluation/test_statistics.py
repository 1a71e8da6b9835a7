from itertools import product

import numpy as np
import pytest
from scipy import stats

from pellucid.evaluation._statistics import compare, holm, intervals, sign_flip


def test_the_interval_is_close_to_the_normal_one_for_many_images():
    values = np.random.default_rng(0).normal(3, 2, size=(2000, 2))
    mean, low, high = intervals(values, seed=0)
    half = 1.96 * values.std(0) / np.sqrt(2000)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(high - mean, half, rtol=0.1)
    np.testing.assert_allclose(mean - low, half, rtol=0.1)


def test_intervals_are_close_to_scipys():
    values = np.random.default_rng(4).exponential(size=(60, 3))
    values[:20, 2] = np.nan
    _, low, high = intervals(values, seed=0)
    for column, *bounds in zip(values.T, low, high, strict=True):
        present = column[~np.isnan(column)]
        drawn = stats.bootstrap((present,), np.mean, n_resamples=5000, method="percentile", random_state=0)
        np.testing.assert_allclose(bounds, drawn.confidence_interval, atol=0.3 * present.std() / np.sqrt(len(present)))


def test_missing_values_are_ignored():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    mean, low, high = intervals(values, seed=0)
    assert mean[0] == 2
    assert (low[0], high[0]) == (1, 3)
    assert np.isnan([mean[1], low[1], high[1]]).all()


def test_p_is_close_to_the_exact_value_over_all_sign_flips():
    differences = np.random.default_rng(1).normal(0.4, 1, size=(10, 1))
    sums = [abs((np.array(signs) * differences[:, 0]).sum()) for signs in product((-1, 1), repeat=10)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    assert sign_flip(differences, seed=0)[0] == pytest.approx(exact, abs=0.02)


def test_p_is_never_zero():
    """No flip of 60 equal differences reaches their sum, so only the observed one counts (Phipson and Smyth, 2010)."""
    assert sign_flip(np.ones((60, 1)), seed=0)[0] == pytest.approx(1 / 10_001)


def test_p_is_close_to_scipys():
    differences = np.random.default_rng(5).normal(0.2, 1, size=(40, 4))
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=5000, vectorized=True, random_state=0
    )
    np.testing.assert_allclose(sign_flip(differences, seed=0), expected.pvalue, atol=0.03)


def test_p_is_uniform_under_the_null_hypothesis():
    p = sign_flip(np.random.default_rng(2).normal(size=(40, 400)), seed=0)
    assert abs((p < 0.1).mean() - 0.1) < 0.05
    assert min(holm(list(p))) > 0.05


def test_methods_are_compared_on_the_same_images():
    base = np.random.default_rng(3).normal(0, 10, size=200)
    values = {"a": base, "b": base + 0.1 + 0.01 * np.sin(np.arange(200)), "c": base[::-1]}
    comparisons = {(one, other): (difference, p) for one, other, difference, p in compare(values, seed=0)}
    assert comparisons["a", "b"][0] == pytest.approx(-0.1, abs=0.01)
    assert comparisons["a", "b"][1] < 0.001
    assert comparisons["a", "c"][1] > 0.05
