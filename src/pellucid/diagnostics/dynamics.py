"""Training dynamics: how the predictions on training images changed while a network trained."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.options import Range, check_argument
from pellucid.core.types import Labels
from pellucid.diagnostics._arguments import check_tensors, holds_integers
from pellucid.diagnostics._proportions import wilson

__all__ = ["ClassLearning", "TrainingDynamics", "class_learning", "training_dynamics"]


@dataclass(frozen=True, eq=False)
class TrainingDynamics:
    """The dynamics of each image, over the observations that it has; each field has the shape (image,).

    `confidence`, `variability` and `correctness` are the axes of a data map (Swayamdipta et al., 2020). Images without
    observations have NaN there.
    """

    confidence: Tensor
    """Mean probability of the label; 0 to 1."""
    variability: Tensor
    """Standard deviation of this probability over the observations (divided by their number); 0 to 0.5."""
    correctness: Tensor
    """Share of the observations in which the label is predicted; 0 to 1."""
    forgetting_events: Tensor
    """Number of times that a correct prediction is followed by a wrong one (Toneva et al., 2019); int64."""
    first_learned: Tensor
    """Row of the first observation in which the label is predicted; −1 if it never is; int64."""
    observations: Tensor
    """Number of observations; int64."""

    @property
    def is_learned(self) -> Tensor:
        """True where the label was predicted at least once."""
        return self.first_learned >= 0

    @property
    def is_unforgettable(self) -> Tensor:
        """True where the label was predicted at least once, and always from then on (Toneva et al., 2019)."""
        return self.is_learned & (self.forgetting_events == 0)

    def easiest(self, count: int) -> Tensor:
        """Return the indices of the `count` images of the highest confidence; ties keep their order."""
        return self._first(-self.confidence, count)

    def hardest(self, count: int) -> Tensor:
        """Return the indices of the `count` images of the lowest confidence: often mislabeled, or unlike the others."""
        return self._first(self.confidence, count)

    def most_ambiguous(self, count: int) -> Tensor:
        """Return the indices of the `count` images of the highest variability."""
        return self._first(-self.variability, count)

    def _first(self, values: Tensor, count: int) -> Tensor:
        observed = (self.observations > 0).nonzero()[:, 0]
        return observed[values[observed].argsort(stable=True)][:count]


def training_dynamics(probabilities: Tensor, predictions: Tensor, labels: Labels) -> TrainingDynamics:
    """Return the dynamics of images from repeated predictions, one row per time.

    Args:
        probabilities: (time, image) probabilities of each image's label.
        predictions: (time, image) predicted classes; −1 where an image has no prediction, which leaves out the time.
        labels: (image,) class indices.

    Raises `ShapeError` if shapes or dtypes do not match, and `DataError` for a negative label, or if a probability
    with a prediction is not in 0…1.

    >>> probabilities = torch.tensor([[0.2, 0.9], [0.8, 0.9], [0.5, 0.9]])
    >>> predictions = torch.tensor([[1, 1], [0, 1], [1, 1]])
    >>> dynamics = training_dynamics(probabilities, predictions, torch.tensor([0, 1]))
    >>> [round(value, 3) for value in dynamics.confidence.tolist()], dynamics.forgetting_events.tolist()
    ([0.5, 0.9], [1, 0])
    >>> dynamics.first_learned.tolist(), dynamics.hardest(1).tolist()
    ([1, 0], [0])
    """
    check_tensors(probabilities=probabilities)
    _check(predictions, labels)
    if probabilities.shape != predictions.shape:
        raise ShapeError(
            f"Expected probabilities and predictions of one shape, got {tuple(probabilities.shape)} and "
            f"{tuple(predictions.shape)}. Pass one probability per prediction."
        )
    seen, correct = predictions >= 0, predictions == labels
    values = probabilities.detach().double().where(seen, 0.0)
    if not ((values >= 0) & (values <= 1)).all():  # also false for NaN
        raise DataError(
            "a probability is not in 0…1; pass probabilities, not logits, and the prediction −1 where there is none."
        )
    count = seen.sum(0)
    confidence = values.sum(0) / count  # NaN without observations
    variance = ((values - confidence) ** 2).where(seen, 0.0).sum(0) / count
    return TrainingDynamics(
        confidence=confidence.float(),
        variability=variance.sqrt().float(),
        correctness=(correct.sum(0) / count).float(),
        forgetting_events=_forgetting_events(seen, correct),
        first_learned=_first_row(correct),
        observations=count,
    )


def _forgetting_events(seen: Tensor, correct: Tensor) -> Tensor:
    """Count the transitions from correct to wrong between consecutive observations of each image."""
    events = torch.zeros(seen.shape[1], dtype=torch.int64, device=seen.device)
    was_correct = torch.zeros(seen.shape[1], dtype=torch.bool, device=seen.device)
    for is_seen, is_correct in zip(seen, correct, strict=True):
        events += is_seen & was_correct & ~is_correct
        was_correct = is_correct.where(is_seen, was_correct)  # the last observation counts
    return events


def _first_row(conditions: Tensor) -> Tensor:
    """Return the first row (time, …) in which each condition is true, −1 if there is none."""
    # argmax returns the first of several maxima
    return conditions.int().argmax(0).where(conditions.any(0), -1)


def _settled_row(conditions: Tensor) -> Tensor:
    """Return the first row (time, …) from which each condition stays true, −1 if it is false in the last."""
    violations = len(conditions) - conditions.flip(0).logical_not().int().argmax(0)  # the row after the last one
    return violations.where(~conditions.all(0), 0).where(conditions[-1], -1)


@dataclass(frozen=True, eq=False)
class ClassLearning:
    """The accuracy on the images of each class over time, and the time at which it reaches a threshold."""

    accuracy: Tensor
    """(time, class): share of the class's images that are predicted correctly; NaN without images."""
    low: Tensor
    """(time, class): lower end of the 95% Wilson interval of the accuracy."""
    high: Tensor
    """(time, class): its upper end."""
    learned: Tensor
    """(class,): first row from which the accuracy stays at or above the threshold; −1 if there is none; int64."""
    earliest: Tensor
    """(class,): the same for the upper end of the interval, before which the class was hardly learned; int64."""
    latest: Tensor
    """(class,): the same for the lower end, by which the class was almost surely learned; −1: not by the end; int64."""


def class_learning(predictions: Tensor, labels: Labels, classes: int, *, threshold: float = 0.9) -> ClassLearning:
    """Return when each class was learned, with 95% intervals for the sampling of its images.

    A class counts as learned once the accuracy on its images stays at or above the threshold.
    The interval of this time ends where the same holds for the ends of the Wilson interval of the accuracy (1927).

    Args:
        predictions: (time, image) predicted classes; −1 where an image has no prediction.
        labels: (image,) class indices below `classes`.
        classes: number of classes.
        threshold: accuracy at which a class counts as learned, above 0 and at most 1.

    Raises `ShapeError` if shapes or dtypes do not match, `DataError` for a negative label, and `ConfigError` for an
    invalid threshold or number of classes.

    >>> predictions = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]])
    >>> learning = class_learning(predictions, torch.tensor([0, 0, 1, 1]), 2, threshold=0.5)
    >>> learning.accuracy.tolist(), learning.learned.tolist()
    ([[1.0, 0.0], [1.0, 0.5], [1.0, 1.0]], [0, 1])
    """
    _check(predictions, labels)
    labels = labels.long()
    check_argument("class_learning", "classes", classes, Annotated[int, Range(1)])
    if not 0 < threshold <= 1:
        raise ConfigError(f"got threshold={threshold}; expected an accuracy above 0 and at most 1, such as 0.9.")
    if len(labels) and int(labels.max()) >= classes:
        raise ConfigError(f"the labels are in {labels.min()}…{labels.max()}, expected 0…{classes - 1}; check classes.")
    # one sum over all images per class, as a product with its membership would take (image, class) values
    right, total = (
        torch.zeros(len(predictions), classes, dtype=torch.float64, device=labels.device).index_add_(
            1, labels, chosen.double()
        )
        for chosen in (predictions == labels, predictions >= 0)
    )
    low, high = wilson(right, total)
    accuracy = right / total
    return ClassLearning(
        accuracy.float(),
        low.float(),
        high.float(),
        *(_settled_row(values >= threshold) for values in (accuracy, high, low)),
    )


def _check(predictions: Any, labels: Any) -> None:
    check_tensors(predictions=predictions, labels=labels)
    if predictions.ndim != 2 or predictions.shape[1:] != labels.shape:
        raise ShapeError(
            f"Expected predictions of shape (time, {len(labels)}), one column per label, got "
            f"{tuple(predictions.shape)}. Stack the predictions of several times as rows."
        )
    if not len(predictions):
        raise ShapeError("Expected predictions of at least one time, got none.")
    if not holds_integers(predictions) or not holds_integers(labels):
        raise ShapeError(
            f"Expected class indices, got predictions of {predictions.dtype} and labels of {labels.dtype}. Pass "
            "logits.argmax(1), and labels.long()."
        )
    # a label of −1 would equal the prediction −1 of an image that has none
    if len(labels) and int(labels.min()) < 0:
        raise DataError(f"the labels go down to {int(labels.min())}; expected class indices from 0. Remove the images.")
