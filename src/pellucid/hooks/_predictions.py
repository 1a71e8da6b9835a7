"""Predictions and losses of individual test images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.hooks._hook import Scene

__all__ = ["Predictions", "by_loss", "losses_of", "predictions_of"]


@dataclass(frozen=True)
class Predictions:
    """Labels and predictions of some test images, as lists of JSON values; confidences are rounded to six digits."""

    indices: list[int]
    labels: list[int]
    predictions: list[int]
    confidences: list[float]
    """Probabilities of the predicted classes."""

    @property
    def numbers(self) -> dict[str, list[int] | list[float]]:
        """The four lists by name."""
        return dict(vars(self))


def predictions_of(scene: Scene, indices: Sequence[int] | np.ndarray) -> Predictions:
    """Return the network's predictions for the test images at `indices`."""
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    confidences, predictions = scene.logits[chosen].float().softmax(1).max(1)
    return Predictions(
        chosen.tolist(),
        scene.test.labels[chosen].tolist(),
        predictions.tolist(),
        [round(p, 6) for p in confidences.tolist()],
    )


def losses_of(scene: Scene, indices: Sequence[int] | np.ndarray) -> list[float]:
    """Return the loss of the test images at `indices`: the cross-entropy in nats, with six significant digits."""
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    # float, because half precision has too few digits
    logs = scene.logits[chosen].float().log_softmax(1)
    # 0 - …, because the negative of 0 would be written as -0.0
    losses = 0 - logs.gather(1, scene.test.labels[chosen, None])[:, 0]
    return [float(f"{loss:.6g}") for loss in losses.tolist()]


def by_loss(scene: Scene) -> tuple[list[int], torch.Tensor]:
    """Return the test images of the selected classes by decreasing loss, as indices, and the loss of every test image.

    The loss is the cross-entropy in nats. Ties keep the order of the test set; NaN counts as an infinite loss.
    """
    # float, because half precision has too few digits to rank by loss
    losses = -scene.logits.float().log_softmax(1).gather(1, scene.test.labels[:, None])[:, 0]
    order = losses.nan_to_num(torch.inf).argsort(descending=True, stable=True)
    if scene.chosen_classes is not None:
        order = order[torch.isin(scene.test.labels[order], torch.tensor(scene.chosen_classes))]
    return order.tolist(), losses
