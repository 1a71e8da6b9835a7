"""Training dynamics against values computed by hand and one image at a time."""

import inspect
import math
import statistics
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.diagnostics import class_learning, training_dynamics
from pellucid.errors import ConfigError, DataError, ShapeError

NAN = math.nan


def test_values_by_hand() -> None:
    probabilities = torch.tensor(
        [
            [0.1, 0.9, 0.2, NAN, NAN],
            [0.7, 0.9, 0.2, 0.6, NAN],
            [0.4, 0.9, NAN, 0.3, NAN],
            [0.8, 0.9, 0.2, 0.9, NAN],
        ]
    )
    predictions = torch.tensor([[2, 1, 0, -1, -1], [0, 1, 1, 1, -1], [1, 1, -1, 0, -1], [0, 1, 0, 1, -1]])
    labels = torch.tensor([0, 1, 2, 1, 0])
    result = training_dynamics(probabilities, predictions, labels)
    assert result.confidence[:4].tolist() == pytest.approx([0.5, 0.9, 0.2, 0.6])
    # deviations from 0.5: −0.4, 0.2, −0.1, 0.3, with squares that sum to 0.3
    assert result.variability[:4].tolist() == pytest.approx([math.sqrt(0.3 / 4), 0, 0, math.sqrt(0.06)], abs=1e-7)
    assert result.correctness[:4].tolist() == pytest.approx([0.5, 1, 0, 2 / 3])
    assert result.forgetting_events.tolist() == [1, 0, 0, 1, 0]
    assert result.first_learned.tolist() == [1, 0, -1, 1, -1]
    assert result.observations.tolist() == [4, 4, 3, 3, 0]
    assert result.is_learned.tolist() == [True, True, False, True, False]
    assert result.is_unforgettable.tolist() == [False, True, False, False, False]
    assert all(math.isnan(values[4]) for values in (result.confidence, result.variability, result.correctness))
    assert result.hardest(2).tolist() == [2, 0]
    assert result.easiest(1).tolist() == [1]
    assert result.most_ambiguous(9).tolist() == [0, 3, 1, 2]


def test_a_forgotten_image_counts_across_epochs_without_it() -> None:
    """Consecutive observations count, not consecutive rows."""
    predictions = torch.tensor([[0], [-1], [1], [0], [-1], [-1], [1]])
    result = training_dynamics(torch.full((7, 1), 0.5), predictions, torch.tensor([0]))
    assert result.forgetting_events.tolist() == [2]


@settings(max_examples=40, deadline=None)
@given(times=st.integers(1, 6), images=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_each_image_alone(times: int, images: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(times, images, generator=draws)
    predictions = torch.randint(-1, 3, (times, images), generator=draws)
    labels = torch.randint(3, (images,), generator=draws)
    result = training_dynamics(probabilities, predictions, labels)
    for image, label in enumerate(labels.tolist()):
        rows = [row for row in range(times) if predictions[row, image] >= 0]
        own = [float(probabilities[row, image]) for row in rows]
        correct = [int(predictions[row, image]) == label for row in rows]
        assert int(result.observations[image]) == len(rows)
        if rows:
            assert float(result.confidence[image]) == pytest.approx(statistics.fmean(own), abs=1e-6)
            assert float(result.variability[image]) == pytest.approx(statistics.pstdev(own), abs=1e-6)
            assert float(result.correctness[image]) == pytest.approx(sum(correct) / len(rows))
        events = sum(first and not second for first, second in pairwise(correct))
        assert int(result.forgetting_events[image]) == events
        assert int(result.first_learned[image]) == (rows[correct.index(True)] if True in correct else -1)
    assert float(result.variability.nan_to_num().max()) <= 0.5 + 1e-6


def test_class_learning_by_hand() -> None:
    """Class 0 has 20 images, of which 10, 18 and 20 are right; class 1 has one; class 2 has none."""
    labels = torch.tensor([0] * 20 + [1])
    predictions = torch.zeros(3, 21, dtype=torch.int64)
    predictions[0, :10] = 1
    predictions[1, :2] = 1
    predictions[2, 20] = 1
    result = class_learning(predictions, labels, 3, threshold=0.8)
    torch.testing.assert_close(result.accuracy[:, :2], torch.tensor([[0.5, 0], [0.9, 0], [1, 1]]))
    assert result.accuracy[:, 2].isnan().all()
    # the ends of Wilson's interval are the shares from which the observed one deviates by 1.96 standard errors
    for row, share in enumerate((0.5, 0.9, 1.0)):
        low, high = float(result.low[row, 0]), float(result.high[row, 0])
        assert share - low == pytest.approx(1.959964 * math.sqrt(low * (1 - low) / 20), abs=1e-5)
        assert high - share == pytest.approx(1.959964 * math.sqrt(high * (1 - high) / 20), abs=1e-3)
    assert float(result.low[2, 1]) == pytest.approx(1 / (1 + 1.959964**2), abs=1e-6)
    assert result.learned.tolist() == [1, 2, -1]
    assert result.earliest.tolist() == [1, 2, -1]
    assert result.latest.tolist() == [2, -1, -1]


@pytest.mark.parametrize(
    ("accuracies", "learned"),
    [([1, 1, 1], 0), ([0, 1, 1], 1), ([1, 0, 1], 2), ([1, 1, 0], -1), ([0, 0, 0], -1), ([1], 0), ([0], -1)],
)
def test_a_class_is_learned_once_it_stays_correct(accuracies: list[int], learned: int) -> None:
    predictions = 1 - torch.tensor(accuracies)[:, None]
    assert class_learning(predictions, torch.tensor([0]), 1).learned.tolist() == [learned]


def test_the_interval_contains_the_learning_time() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=draws)
    is_right = torch.rand(9, 200, generator=draws) < torch.linspace(0.2, 0.99, 9)[:, None]
    result = class_learning(labels.where(is_right, (labels + 1) % 4), labels, 4)
    never = torch.tensor(len(is_right))
    first, middle, last = (rows.where(rows >= 0, never) for rows in (result.earliest, result.learned, result.latest))
    assert (first <= middle).all()
    assert (middle <= last).all()
    assert (result.low <= result.accuracy).all()
    assert (result.accuracy <= result.high).all()


def test_the_interval_covers_the_time_of_the_population() -> None:
    """In 400 samples, the interval misses the time at which the population reaches 90% in few cases."""
    draws = torch.Generator().manual_seed(1)
    shares = torch.linspace(0.6, 0.98, 12)
    labels = torch.zeros(60, dtype=torch.int64)
    population = int((shares >= 0.9).nonzero()[0])
    missed = 0
    for _ in range(400):
        # an image is learned at one time and never forgotten
        times = torch.rand(60, generator=draws)
        result = class_learning((times > shares[:, None]).long(), labels, 1)
        latest = int(result.latest[0]) if result.latest[0] >= 0 else len(shares)
        missed += not (result.earliest[0] >= 0 and int(result.earliest[0]) <= population <= latest)
    assert missed <= 400 * 0.08


@pytest.mark.parametrize(
    ("probabilities", "predictions", "labels", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2).long(), ShapeError, r"shape \(time, 2\), one column"),
        (torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(3).long(), ShapeError, r"got \(2, 2\) and \(2, 3\)"),
        (torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(3).long(), ShapeError, "at least one time"),
        (torch.full((1, 1), 1.5), torch.zeros(1, 1), torch.zeros(1).long(), DataError, "not in 0…1"),
        (torch.full((1, 1), NAN), torch.zeros(1, 1), torch.zeros(1).long(), DataError, "not in 0…1"),
    ],
)
def test_invalid_input(probabilities, predictions, labels, error, message) -> None:
    with pytest.raises(error, match=message):
        training_dynamics(probabilities, predictions.long(), labels)


def test_invalid_threshold_and_classes() -> None:
    predictions, labels = torch.zeros(1, 2).long(), torch.tensor([0, 2])
    with pytest.raises(ConfigError, match=r"threshold=0"):
        class_learning(predictions, labels, 3, threshold=0)
    with pytest.raises(ConfigError, match=r"labels are in 0…2, expected 0…1"):
        class_learning(predictions, labels, 2)


@pytest.mark.parametrize(
    ("predictions", "labels", "error", "message"),
    [
        (torch.full((2, 1), -1), torch.tensor([-1]), DataError, "labels go down to -1"),
        (torch.zeros(2, 1), torch.tensor([0]), ShapeError, r"predictions of torch\.float32"),
        (torch.zeros(2, 1).long(), torch.tensor([0.5]), ShapeError, r"labels of torch\.float32"),
        (torch.zeros(2, 1).long(), [0], ShapeError, r"labels is of type list; expected a tensor"),
    ],
)
def test_only_class_indices_are_compared(predictions, labels, error, message) -> None:
    with pytest.raises(error, match=message):
        inspect.unwrap(training_dynamics)(torch.full((2, 1), 0.5), predictions, labels)
    with pytest.raises(error, match=message):
        inspect.unwrap(class_learning)(predictions, labels, 2)


def test_results_have_no_gradient_and_small_integers_are_class_indices() -> None:
    probabilities, predictions = torch.rand(3, 2, requires_grad=True), torch.tensor([[0, 1]]).repeat(3, 1)
    dynamics = inspect.unwrap(training_dynamics)(probabilities, predictions, torch.tensor([0, 1], dtype=torch.uint8))
    assert not dynamics.confidence.requires_grad
    assert dynamics.correctness.tolist() == [1, 1]
    assert inspect.unwrap(class_learning)(predictions, torch.tensor([0, 1], dtype=torch.uint8), 2).learned.tolist() == [
        0,
        0,
    ]
