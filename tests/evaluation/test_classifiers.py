"""Tests of differences in accuracy, against formulas written out and simulations."""

from math import comb, sqrt

import numpy as np
import pytest
from scipy import stats

from pellucid.evaluation._classifiers import image_difference, seed_difference


def outcomes(both: int, first_only: int, second_only: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    cells = [(True, True)] * both + [(True, False)] * first_only + [(False, True)] * second_only
    table = np.array(cells + [(False, False)] * neither)
    return table[:, 0], table[:, 1]


@pytest.mark.parametrize("cells", [(80, 12, 3, 5), (9_000, 40, 60, 900), (5, 0, 7, 1)])
def test_p_is_that_of_a_fair_coin(cells: tuple[int, int, int, int]) -> None:
    result = image_difference(*outcomes(*cells))
    _, first, second, _ = cells
    tail = sum(comb(first + second, k) for k in range(min(first, second) + 1)) / 2 ** (first + second)
    assert result.p == pytest.approx(min(1.0, 2 * tail))
    assert (result.first_only, result.second_only, result.images) == (first, second, sum(cells))
    assert result.difference == pytest.approx((first - second) / sum(cells))


def test_interval_is_walds_with_half_an_image_added_to_each_cell() -> None:
    both, first, second, neither = 80, 12, 3, 5
    result = image_difference(*outcomes(both, first, second, neither))
    count, one, two = both + first + second + neither + 2, first + 0.5, second + 0.5
    middle = (one - two) / count
    error = sqrt((one + two) - (one - two) ** 2 / count) / count
    assert result.low == pytest.approx(middle - 1.959964 * error, rel=1e-6)
    assert result.high == pytest.approx(middle + 1.959964 * error, rel=1e-6)


def test_interval_covers_the_true_difference() -> None:
    draws = np.random.default_rng(0)
    true, covered = 0.06 - 0.02, 0
    for _ in range(400):
        counts = draws.multinomial(200, [0.9, 0.06, 0.02, 0.02])
        result = image_difference(*outcomes(*counts))
        covered += result.low <= true <= result.high
    assert covered / 400 > 0.92


def test_equal_classifiers_differ_by_nothing_but_have_an_interval() -> None:
    correct = np.arange(50) % 7 > 0
    result = image_difference(correct, correct)
    assert (result.difference, result.p) == (0.0, 1.0)
    assert -0.1 < result.low < 0 < result.high < 0.1


def test_seeds_are_compared_by_welchs_test() -> None:
    one, two = [0.91, 0.93, 0.92, 0.95], [0.96, 0.97, 0.955]
    result = seed_difference(one, two)
    assert result is not None
    variances = [np.var(values, ddof=1) / len(values) for values in (one, two)]
    error = sqrt(sum(variances))
    freedom = sum(variances) ** 2 / sum(v**2 / (n - 1) for v, n in zip(variances, (4, 3), strict=True))
    difference = np.mean(one) - np.mean(two)
    assert result.p == pytest.approx(2 * stats.t.sf(abs(difference) / error, freedom))
    assert result.low == pytest.approx(difference - stats.t.ppf(0.975, freedom) * error)
    assert (result.method, result.first_seeds, result.second_seeds) == ("welch", 4, 3)


def test_a_single_seed_is_compared_with_the_spread_of_the_others() -> None:
    several = [0.91, 0.93, 0.92]
    result = seed_difference([0.97], several)
    assert result is not None
    error = np.std(several, ddof=1) * sqrt(1 + 1 / 3)
    assert result.p == pytest.approx(2 * stats.t.sf((0.97 - 0.92) / error, 2))
    assert result.method == "prediction"
    assert seed_difference([0.97], [0.91]) is None


def test_false_alarms_over_seeds_are_rare() -> None:
    draws = np.random.default_rng(1)
    alarms = 0
    for _ in range(500):
        result = seed_difference(draws.normal(0.9, 0.01, 3).tolist(), draws.normal(0.9, 0.01, 2).tolist())
        alarms += result is not None and result.p < 0.05
    assert alarms / 500 < 0.08


def test_seeds_without_any_spread_prove_nothing() -> None:
    # the standard deviation of three times 0.9921 is not 0 but 1e-16
    for first, second in ([0.9, 0.9], [0.8, 0.8]), ([0.9921] * 3, [0.9919] * 3), ([0.9921] * 3, [0.9919]):
        result = seed_difference(first, second)
        assert result is not None
        assert np.isnan(result.p)
        assert np.isnan(result.low)
