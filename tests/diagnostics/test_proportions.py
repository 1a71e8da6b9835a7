"""Intervals of proportions against SciPy, the tails of the binomial distribution, and exhaustive coverage."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pellucid.diagnostics._proportions import clopper_pearson, wilson


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
@pytest.mark.parametrize(("interval", "method"), [(clopper_pearson, "exact"), (wilson, "wilson")])
def test_intervals_agree_with_scipy(interval, method: str, level: float) -> None:
    for trials in (1, 7, 40):
        low, high = interval(torch.arange(trials + 1), torch.full((trials + 1,), trials), level)
        expected = [stats.binomtest(number, trials).proportion_ci(level, method) for number in range(trials + 1)]
        np.testing.assert_allclose(low, [one.low for one in expected], atol=1e-9)
        np.testing.assert_allclose(high, [one.high for one in expected], atol=1e-9)


def test_ends_of_the_exact_interval_are_where_the_binomial_tails_equal_half_the_level() -> None:
    (low,), (high,) = clopper_pearson(torch.tensor([3]), torch.tensor([20]), 0.98)

    def tail(p: float, counts: range) -> float:
        return sum(math.comb(20, k) * p**k * (1 - p) ** (20 - k) for k in counts)

    assert tail(float(low), range(3, 21)) == pytest.approx(0.01, abs=1e-9)
    assert tail(float(high), range(4)) == pytest.approx(0.01, abs=1e-9)


@pytest.mark.parametrize("trials", [1, 5, 40])
def test_exact_intervals_cover_every_probability(trials: int) -> None:
    low, high = clopper_pearson(torch.arange(trials + 1), torch.full((trials + 1,), trials))
    for p in np.linspace(0, 1, 41):
        inside = (low.numpy() <= p) & (p <= high.numpy())
        assert stats.binom.pmf(np.arange(trials + 1), trials, p)[inside].sum() >= 0.95 - 1e-12


@pytest.mark.parametrize("interval", [clopper_pearson, wilson])
def test_no_trials_have_no_interval(interval) -> None:
    low, high = interval(torch.tensor([0]), torch.tensor([0]))
    assert math.isnan(low.item())
    assert math.isnan(high.item())


@pytest.mark.parametrize("interval", [clopper_pearson, wilson])
def test_ends_stay_within_the_range(interval) -> None:
    low, high = interval(torch.tensor([0, 3]), torch.tensor([3, 3]))
    assert low[0] == 0
    assert high[1] == 1
