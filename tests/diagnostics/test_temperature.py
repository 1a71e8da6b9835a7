"""Temperature scaling."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from pellucid.diagnostics import calibration, cross_fit_temperature, fit_temperature
from pellucid.errors import DataError, ShapeError


def simulated(images: int, classes: int, temperature: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits that are `temperature` times those from which the labels are drawn."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    return temperature * logits, logits.softmax(1).multinomial(1, generator=draw)[:, 0]


@pytest.mark.parametrize(("classes", "temperature", "seed"), list(product((2, 7), (0.2, 1.0, 6.0), range(3))))
def test_temperature_is_that_of_scipy(classes: int, temperature: float, seed: int) -> None:
    logits, labels = simulated(200, classes, temperature, seed)

    def loss(log_t: float) -> float:
        return F.cross_entropy(logits / math.exp(log_t), labels).item()

    oracle = minimize_scalar(loss, bounds=(math.log(0.01), math.log(100)), method="bounded", options={"xatol": 1e-9})
    result = fit_temperature(logits, labels)
    assert result.value == pytest.approx(math.exp(oracle.x), rel=1e-5)
    assert result.loss <= oracle.fun + 1e-12
    assert result.loss == pytest.approx(loss(math.log(result.value)), abs=1e-12)
    assert result.loss_before == pytest.approx(loss(0), abs=1e-12)
    assert result.low < result.value < result.high
    assert (result.is_determined, result.images) == (True, 200)


def test_derivative_vanishes_at_the_minimum() -> None:
    logits, labels = simulated(100, 4, 3.0, seed=0)
    inverse = torch.tensor(1 / fit_temperature(logits, labels).value, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(inverse * logits, labels), inverse)
    assert slope.abs() < 1e-10


def test_scaled_logits_scale_the_temperature() -> None:
    logits, labels = simulated(100, 3, 1.0, seed=1)
    one, shifted = fit_temperature(logits, labels), fit_temperature(logits + torch.arange(100.0)[:, None], labels)
    assert fit_temperature(5 * logits, labels).value == pytest.approx(5 * one.value, rel=1e-9)
    assert shifted.value == pytest.approx(one.value, rel=1e-9)
    assert fit_temperature(logits.float(), labels).value == pytest.approx(one.value, rel=1e-5)


def test_interval_covers_the_true_temperature() -> None:
    covered = 0
    for seed in range(200):
        result = fit_temperature(*simulated(150, 3, 2.0, seed))
        covered += result.low <= 2.0 <= result.high
    assert 0.91 <= covered / 200 <= 0.985


def test_temperature_repairs_calibration_and_keeps_predictions() -> None:
    logits, labels = simulated(2000, 5, 3.0, seed=0)
    validation, test = slice(0, 1000), slice(1000, 2000)
    scaled = fit_temperature(logits[validation], labels[validation]).apply(logits[test])
    assert torch.equal(scaled.argmax(1), logits[test].argmax(1))
    before, after = (calibration(one.softmax(1), labels[test], draws=199) for one in (logits[test], scaled))
    assert (before.p, after.p > 0.05) == (1 / 200, True)
    assert after.brier.score < before.brier.score


@pytest.mark.parametrize("classes", [2, 5])
def test_separable_images_give_the_lowest_temperature(classes: int) -> None:
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(0))
    result = fit_temperature(logits, logits.argmax(1))
    assert (result.value, result.is_determined) == (pytest.approx(0.01), False)
    assert "almost no image is misclassified" in result.note
    assert math.isnan(result.low)


def test_logits_without_information_give_the_highest_temperature() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    result = fit_temperature(logits, logits.argmin(1))
    assert (result.value, result.is_determined) == (pytest.approx(100), False)
    assert "say nothing about the labels" in result.note


def test_equal_logits_have_no_temperature() -> None:
    result = fit_temperature(torch.full((5, 3), 7.0), torch.tensor([0, 1, 2, 0, 1]))
    assert (result.value, result.is_determined) == (1.0, False)
    assert result.loss == result.loss_before == pytest.approx(math.log(3))


def test_huge_logits_do_not_overflow() -> None:
    logits, labels = simulated(100, 3, 1.0, seed=2)
    shifted = fit_temperature(50 * logits + 1e6, labels)
    assert shifted.value == pytest.approx(50 * fit_temperature(logits, labels).value, rel=1e-6)
    assert np.isfinite([shifted.loss, shifted.loss_before]).all()


def test_cross_fitting_scales_each_half_by_the_temperature_of_the_other() -> None:
    logits, labels = simulated(101, 4, 2.0, seed=0)
    both = cross_fit_temperature(logits, labels, seed=3)
    first = both.is_first
    assert (int(first.sum()), both.is_determined, both.note) == (50, True, "")
    assert both.temperatures[0] == fit_temperature(logits[first], labels[first])
    assert both.temperatures[1] == fit_temperature(logits[~first], labels[~first])
    scaled = both.apply(logits)
    assert torch.equal(scaled[first], logits[first] / both.temperatures[1].value)
    assert torch.equal(scaled[~first], logits[~first] / both.temperatures[0].value)
    assert torch.equal(first, cross_fit_temperature(logits, labels, seed=3).is_first)
    assert not torch.equal(first, cross_fit_temperature(logits, labels, seed=4).is_first)
    with pytest.raises(ShapeError, match="fitted to 101"):
        both.apply(logits[:5])


def test_cross_fitting_reports_an_undetermined_half() -> None:
    logits = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    both = cross_fit_temperature(logits, logits.argmax(1))
    assert not both.is_determined
    assert "misclassified" in both.note


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = torch.zeros(3, 2)
    logits[1, 0] = value
    with pytest.raises(DataError, match=r"at index \(1, 0\)"):
        fit_temperature(logits, torch.tensor([0, 1, 0]))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="got 1 images; at least 2 are required"):
        cross_fit_temperature(torch.zeros(1, 2), torch.tensor([0]))
