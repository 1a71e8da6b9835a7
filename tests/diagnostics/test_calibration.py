"""Calibration: reliability diagram, calibration error with its null distribution, and Brier score."""

import inspect
import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from pellucid.diagnostics import brier_score, calibration
from pellucid.diagnostics._resampled import _label_sets, calibration_errors, exceedance, family_wise
from pellucid.errors import ConfigError, DataError, ShapeError


def simulated(images: int, classes: int, scale: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random logits and labels drawn from their softmax: a calibrated model."""
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, classes, generator=draw, dtype=torch.float64)
    return logits, logits.softmax(1).multinomial(1, generator=draw)[:, 0]


def plain_ece(confidence: np.ndarray, hits: np.ndarray, bins: int) -> float:
    """Return the calibration error by its definition, bin by bin."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins) | ((b == 0) & (confidence == 0))
        if inside.any():
            total += inside.sum() / len(confidence) * abs(hits[inside].mean() - confidence[inside].mean())
    return total


def test_small_case_by_hand() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.85, 0.15], [0.35, 0.65], [0.45, 0.55], [0.1, 0.9]]).double()
    result = calibration(probabilities, torch.tensor([0, 1, 1, 0, 1]), bins=5)
    # bins (0.4, 0.6]: 0.55, wrong; (0.6, 0.8]: 0.65, right; (0.8, 1]: 0.95, 0.85 and 0.9, of which two are right
    assert result.bins.counts.tolist() == [0, 0, 1, 1, 3]
    assert result.bins.confidence[2:].tolist() == pytest.approx([0.55, 0.65, 0.9])
    assert result.bins.accuracy[2:].tolist() == pytest.approx([0, 1, 2 / 3])
    assert result.bins.confidence[:2].isnan().all()
    assert result.bins.low[:2].isnan().all()
    assert result.ece == pytest.approx((0.55 + 0.35 + abs(2 - 2.7)) / 5)
    assert (result.images, result.accuracy, result.confidence) == (5, 0.6, pytest.approx(0.78))
    assert result.classes.counts.tolist() == [2, 3]
    assert result.classes.expected_counts.tolist() == pytest.approx([2.7, 2.3])


@pytest.mark.parametrize(("classes", "bins", "seed"), list(product((2, 5), (4, 15), range(3))))
def test_bins_agree_with_scikit_learn(classes: int, bins: int, seed: int) -> None:
    logits, labels = simulated(300, classes, 2.0, seed)
    result = calibration(logits.softmax(1), labels, bins=bins, draws=19)
    confidence, predictions = (one.numpy() for one in logits.softmax(1).max(1))
    hits = predictions == labels.numpy()
    accuracy, mean = calibration_curve(hits, confidence, n_bins=bins)
    filled = result.bins.counts > 0
    np.testing.assert_allclose(result.bins.accuracy[filled], accuracy)
    np.testing.assert_allclose(result.bins.confidence[filled], mean)
    assert result.ece == pytest.approx(plain_ece(confidence, hits, bins))
    for label in range(classes):
        p = logits.softmax(1)[:, label].numpy()
        assert result.classes.ece[label].item() == pytest.approx(plain_ece(p, labels.numpy() == label, bins))


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_brier_score_agrees_with_scikit_learn(classes: int) -> None:
    logits, labels = simulated(200, classes, 1.5, seed=classes)
    score = brier_score(logits.softmax(1), labels)
    for label in range(classes):
        oracle = brier_score_loss(labels.numpy() == label, logits.softmax(1)[:, label].numpy())
        assert score.scores[label].item() == pytest.approx(oracle)
    assert score.score == pytest.approx(sum(score.scores.tolist()))
    assert set(score.to_dict()) == {
        "score", "reliability", "resolution", "uncertainty", "within_bin_variance", "within_bin_covariance"
    }  # fmt: skip


@pytest.mark.parametrize(("classes", "bins", "seed"), list(product((2, 4, 50), (1, 3, 15), range(3))))
def test_decomposition_of_the_brier_score_is_exact(classes: int, bins: int, seed: int) -> None:
    logits, _ = simulated(150, classes, 3.0, seed)
    labels = torch.randint(classes, (150,), generator=torch.Generator().manual_seed(seed))
    score = brier_score(logits.softmax(1), labels, bins)
    parts = score.reliability - score.resolution + score.uncertainty
    parts += score.within_bin_variance - score.within_bin_covariance
    torch.testing.assert_close(parts, score.scores, rtol=0, atol=1e-14)


def test_terms_of_the_brier_score_by_hand() -> None:
    # probabilities 0.2 and 0.8 alone in their bins: nothing varies within a bin
    p = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.8, 0.8]).double()
    score = brier_score(torch.stack([1 - p, p], 1), torch.tensor([0, 0, 0, 1, 1, 1]), bins=5)
    assert score.uncertainty.tolist() == pytest.approx([0.25, 0.25])
    assert score.reliability[1].item() == pytest.approx((4 * 0.05**2 + 2 * 0.2**2) / 6)
    assert score.resolution[1].item() == pytest.approx((4 * 0.25**2 + 2 * 0.5**2) / 6)
    assert score.within_bin_variance.abs().max() < 1e-15
    assert score.within_bin_covariance.abs().max() < 1e-15


def test_labels_are_drawn_from_the_probabilities() -> None:
    probabilities = torch.tensor([[0.0, 0.7, 0.3, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]).double()
    labels = torch.tensor([3, 3, 3])
    sets = torch.cat(list(_label_sets(probabilities, labels, 20_000, 15, seed=1)), 1)
    assert sets.shape == (3, 20_001)
    assert sets[:, 0].tolist() == labels.tolist()
    for row, expected in zip(sets[:, 1:], probabilities, strict=True):
        found = torch.bincount(row, minlength=4) / 20_000
        assert (found - expected).abs().max() < 0.015
        assert not found[expected == 0].any()


def test_null_distribution_is_the_exact_one_of_few_images() -> None:
    p = torch.tensor([0.7, 0.6, 0.9]).double()
    probabilities = torch.stack([p, 1 - p], 1)
    exact = 0.0
    for outcome in product((0, 1), repeat=3):
        chance = math.prod(float(q) if hit else 1 - float(q) for q, hit in zip(p, outcome, strict=True))
        exact += chance * plain_ece(p.numpy(), np.array(outcome), 15)
    result = calibration(probabilities, torch.tensor([0, 0, 0]), draws=20_000)
    assert result.expected_ece == pytest.approx(exact, abs=0.004)
    assert result.critical_ece >= result.expected_ece
    assert (result.null.diff() >= 0).all()


def test_p_value_counts_the_draws_that_reach_the_error() -> None:
    logits, labels = simulated(100, 3, 1.0, seed=4)
    overall, each = calibration_errors(logits.softmax(1), labels, 15, 99, seed=0)
    result = calibration(logits.softmax(1), labels, draws=99)
    assert result.ece == overall[0]
    assert result.p == pytest.approx((1 + (overall[1:] >= overall[0] - 1e-12).sum().item()) / 100)
    assert exceedance(torch.tensor([3.0, 1.0, 2.0, 0.5]).double()) == 0.25
    assert torch.equal(result.classes.p, family_wise(each))


def test_family_wise_p_values_are_those_of_the_largest_standardized_error() -> None:
    errors = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double()
    errors[:, 3] = 0.5  # does not vary, so it is as expected
    values = errors.numpy()[:, :3]
    standardized = (values - values.mean(0)) / values.std(0, ddof=1)
    expected = [(standardized.max(1) >= one - 1e-12).mean() for one in standardized[0]]
    p = family_wise(errors)
    assert p.tolist() == pytest.approx([*expected, 1.0])
    assert p.min() >= 1 / 50


@pytest.mark.parametrize(
    ("classes", "scale", "images"), [(3, 1.5, 120), pytest.param(10, 4.0, 200, marks=pytest.mark.slow)]
)
def test_calibrated_models_are_rejected_at_the_level_of_the_test(classes: int, scale: float, images: int) -> None:
    p, of_class = [], []
    for seed in range(200):
        logits, labels = simulated(images, classes, scale, seed)
        result = calibration(logits.softmax(1), labels, draws=199, seed=seed)
        p.append(result.p)
        of_class.append(result.classes.p.min().item())
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09
    assert 0.02 <= np.mean(np.array(of_class) <= 0.05) <= 0.09  # of all classes together


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_miscalibrated_models_are_rejected(temperature: float) -> None:
    rejected = 0
    for seed in range(20):
        logits, labels = simulated(500, 5, 2.0, seed)
        rejected += calibration((logits / temperature).softmax(1), labels, draws=199).p <= 0.05
    assert rejected >= 19


def test_a_single_miscalibrated_class_is_named() -> None:
    logits, labels = simulated(2000, 6, 2.0, seed=0)
    logits[:, 2] += 1.0
    result = calibration(logits.softmax(1), labels, draws=499)
    assert result.classes.p[2].item() == pytest.approx(1 / 500)
    assert result.classes.expected_counts[2] > result.classes.counts[2] + 50


def test_certain_predictions() -> None:
    perfect = torch.eye(3).double()[torch.tensor([0, 1, 2, 0])]
    right = calibration(perfect, torch.tensor([0, 1, 2, 0]))
    assert (right.ece, right.p, right.brier.score, right.accuracy) == (0, 1, 0, 1)
    assert right.classes.p.tolist() == [1, 1, 1]
    wrong = calibration(perfect, torch.tensor([1, 2, 0, 1]), draws=99)
    assert (wrong.ece, wrong.p, wrong.brier.score, wrong.accuracy) == (1, 0.01, 2, 0)
    assert wrong.classes.p.tolist() == pytest.approx([0.01] * 3)
    assert right.bins.high[-1] == 1
    assert wrong.bins.low[-1] == 0


def test_labels_of_one_class_only() -> None:
    result = calibration(torch.full((50, 4), 0.25), torch.zeros(50, dtype=torch.int64), draws=99)
    assert (result.ece, result.p) == (pytest.approx(0.75), 0.01)
    assert result.classes.counts.tolist() == [50, 0, 0, 0]
    assert result.brier.uncertainty.tolist() == [0, 0, 0, 0]
    assert result.brier.score == pytest.approx(0.75)


def test_the_order_of_images_and_the_dtype_do_not_matter() -> None:
    logits, labels = simulated(80, 4, 1.0, seed=3)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    probabilities = logits.softmax(1)
    first, second = calibration(probabilities, labels), calibration(probabilities[order], labels[order])
    assert first.ece == pytest.approx(second.ece)
    assert first.brier.to_dict() == pytest.approx(second.brier.to_dict())
    single = calibration(probabilities.float(), labels)
    assert single.ece == pytest.approx(first.ece, abs=1e-6)
    assert calibration(probabilities, labels, seed=5).null.tolist() != first.null.tolist()
    assert calibration(probabilities, labels).null.tolist() == first.null.tolist()


def test_values_as_json() -> None:
    logits, labels = simulated(40, 3, 1.0, seed=0)
    record = calibration(logits.softmax(1), labels, bins=10).to_dict()
    assert record["bins"]["accuracy"][0] is None
    assert record["draws"] == 1000
    assert len(record["bins"]["edges"]) == 11
    assert len(record["classes"]["p"]) == len(record["classes"]["brier"]) == 3


def test_figure() -> None:
    logits, labels = simulated(60, 3, 1.0, seed=0)
    result = calibration(logits.softmax(1), labels)
    figure = result.figure("title", after=calibration((logits / 2).softmax(1), labels))
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["predicted", "with temperature"]
    assert not result.figure().legends


@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        (torch.tensor([[2.0, -1.0]]), [0], DataError, r"probabilities\[0\] sums to 1 and has a minimum of -1"),
        (torch.tensor([[0.5, 0.5], [0.9, 0.3]]), [0, 0], DataError, r"probabilities\[1\] sums to 1.2 .*softmax"),
        (torch.tensor([[0.5, math.nan]]), [0], DataError, r"NaN at index \(0, 1\)"),
        (torch.tensor([[0.5, 0.5]]), [2], DataError, "labels are from 2 to 2, but probabilities has 2 classes"),
        (torch.tensor([[0.5, 0.5]]), [-1], DataError, "from -1"),
        (torch.tensor([[0.5, 0.5]]), [0, 1], ShapeError, "one class index per image"),
        (torch.ones(3, 1), [0, 0, 0], ShapeError, "at least two classes"),
        (torch.zeros(0, 3), [], DataError, "got 0 images"),
    ],
)
def test_invalid_values_are_refused(probabilities, labels, error, message) -> None:
    with pytest.raises(error, match=message):
        calibration(probabilities, torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize("options", [{"bins": 0}, {"draws": 5}, {"seed": -1}])
def test_invalid_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        calibration(torch.full((2, 2), 0.5), torch.tensor([0, 1]), **options)


@pytest.mark.parametrize("bins", [0, -1, 2.5, True, "5"])
def test_brier_score_needs_a_whole_number_of_bins(bins) -> None:
    with pytest.raises(ConfigError, match="the argument bins of brier_score is"):
        inspect.unwrap(brier_score)(torch.tensor([[0.8, 0.2]]), torch.tensor([0]), bins)


def test_arrays_and_lists_are_refused_by_name() -> None:
    probabilities, labels = torch.tensor([[0.8, 0.2]]), torch.tensor([0])
    with pytest.raises(ShapeError, match=r"probabilities is of type ndarray; expected a tensor"):
        inspect.unwrap(calibration)(probabilities.numpy(), labels)
    with pytest.raises(ShapeError, match=r"labels is of type list; expected a tensor"):
        inspect.unwrap(calibration)(probabilities, [0])
    with pytest.raises(ShapeError, match=r"dtype torch\.complex64"):
        calibration(probabilities, labels.to(torch.complex64))
