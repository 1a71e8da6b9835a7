"""Risk-coverage curve."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from pellucid.diagnostics import risk_coverage
from pellucid.errors import DataError, ShapeError


def plain_curve(confidence: list[float], is_correct: list[bool]) -> list[float]:
    """Return the curve by its definition: sort, then count errors."""
    order = sorted(range(len(confidence)), key=lambda index: -confidence[index])
    return [sum(not is_correct[index] for index in order[: kept + 1]) / (kept + 1) for kept in range(len(order))]


@pytest.mark.parametrize("seed", range(5))
def test_curve_is_that_of_sorted_images(seed: int) -> None:
    draw = np.random.default_rng(seed)
    confidence, is_correct = draw.random(60), draw.random(60) < 0.7
    result = risk_coverage(torch.tensor(confidence), torch.tensor(is_correct))
    expected = plain_curve(confidence.tolist(), is_correct.tolist())
    np.testing.assert_allclose(result.risk, expected)
    assert result.aurc == pytest.approx(np.mean(expected))
    ordered = plain_curve(is_correct.astype(float).tolist(), is_correct.tolist())
    assert result.excess_aurc == pytest.approx(np.mean(expected) - np.mean(ordered))
    assert result.error_rate == pytest.approx(1 - is_correct.mean())
    assert result.coverage[-1] == 1


def test_equal_confidences_are_the_mean_of_all_orders() -> None:
    confidence, is_correct = [0.9, 0.5, 0.5, 0.5, 0.2], [True, False, True, False, True]
    curves = []
    for order in permutations((1, 2, 3)):
        places = [0, *order, 4]
        curves.append(plain_curve([5, 4, 3, 2, 1], [is_correct[place] for place in places]))
    result = risk_coverage(torch.tensor(confidence), torch.tensor(is_correct))
    np.testing.assert_allclose(result.risk, np.mean(curves, 0))


def test_a_constant_confidence_is_a_random_order() -> None:
    is_correct = torch.tensor([True, False, True, True])
    result = risk_coverage(torch.full((4,), 0.5), is_correct)
    assert result.risk.tolist() == pytest.approx([0.25] * 4)
    assert result.aurc == pytest.approx(0.25)


def test_perfect_and_worst_order() -> None:
    is_correct = torch.arange(10) >= 3
    best = risk_coverage(is_correct.float(), is_correct)
    assert best.excess_aurc == pytest.approx(0, abs=1e-15)
    assert best.risk_at(0.7) == 0
    assert best.risk_at(0.71) == pytest.approx(1 / 8)
    worst = risk_coverage(1 - is_correct.double(), is_correct)
    assert worst.risk.tolist() == pytest.approx([1, 1, 1, *(3 / kept for kept in range(4, 11))])


def test_all_right_and_all_wrong() -> None:
    confidence = torch.rand(20, generator=torch.Generator().manual_seed(0))
    right = risk_coverage(confidence, torch.ones(20, dtype=torch.bool))
    wrong = risk_coverage(confidence, torch.zeros(20, dtype=torch.bool))
    assert (right.aurc, right.excess_aurc, right.error_rate) == (0, 0, 0)
    assert (wrong.aurc, wrong.excess_aurc, wrong.error_rate) == (1, 0, 1)


def test_only_the_order_of_confidences_matters() -> None:
    draw = torch.Generator().manual_seed(0)
    confidence, is_correct = torch.rand(200, generator=draw).double(), torch.rand(200, generator=draw) < 0.8
    first, second = risk_coverage(confidence, is_correct), risk_coverage(confidence.exp(), is_correct)
    assert torch.equal(first.risk, second.risk)
    order = torch.randperm(200, generator=draw)
    assert torch.equal(first.risk, risk_coverage(confidence[order], is_correct[order]).risk)


@pytest.mark.parametrize("images", [1, 7, 400, 1234])
def test_drawn_curve_ends_at_full_coverage(images: int) -> None:
    draw = torch.Generator().manual_seed(0)
    result = risk_coverage(torch.rand(images, generator=draw), torch.rand(images, generator=draw) < 0.8)
    curve = result.curve()
    assert len(curve["coverage"]) == min(images, 400)
    assert curve["coverage"][-1] == 1
    assert curve["risk"][-1] == curve["best"][-1] == pytest.approx(result.error_rate, abs=1e-6)
    assert all(best <= risk + 1e-6 for best, risk in zip(curve["best"], curve["risk"], strict=True))


@pytest.mark.parametrize(
    ("confidence", "is_correct", "error", "message"),
    [
        (torch.tensor([0.5, math.nan]), torch.tensor([True, False]), DataError, "NaN at index 1"),
        (torch.tensor([0.5]), torch.tensor([True, False]), ShapeError, "one bool per image"),
        (torch.tensor([0.5]), torch.tensor([1]), ShapeError, "int64"),
        (torch.zeros(0), torch.zeros(0, dtype=torch.bool), ShapeError, "one float per image"),
    ],
)
def test_invalid_values_are_refused(confidence, is_correct, error, message) -> None:
    with pytest.raises(error, match=message):
        risk_coverage(confidence, is_correct)


def test_coverage_out_of_range_is_refused() -> None:
    curve = risk_coverage(torch.tensor([0.5, 0.6]), torch.tensor([True, False]))
    assert curve.risk_at(1) == 0.5
    with pytest.raises(DataError, match="coverage is 0"):
        curve.risk_at(0.0)
