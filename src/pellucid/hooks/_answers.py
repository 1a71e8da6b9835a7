"""What the network says of test images, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.hooks._hook import Scene

__all__ = ["Answers", "answers", "by_loss"]


@dataclass(frozen=True)
class Answers:
    """Truth and answer for some test images, as lists of JSON values; probabilities to six digits."""

    indices: list[int]
    labels: list[int]
    predictions: list[int]
    confidences: list[float]
    """The probability of the predicted class."""

    @property
    def numbers(self) -> dict[str, list[int] | list[float]]:
        """The four lists by name."""
        return dict(vars(self))


def answers(scene: Scene, indices: Sequence[int] | np.ndarray) -> Answers:
    """What the network says of the test images at `indices`."""
    chosen = torch.as_tensor(indices, dtype=torch.int64)
    confidences, predictions = scene.logits[chosen].float().softmax(1).max(1)
    return Answers(
        chosen.tolist(),
        scene.test.labels[chosen].tolist(),
        predictions.tolist(),
        [round(p, 6) for p in confidences.tolist()],
    )


def by_loss(scene: Scene) -> tuple[list[int], torch.Tensor]:
    """Indices of the test images of the chosen classes, the largest loss first; and the loss of every test image.

    The loss is the cross entropy, in nats. Ties, and losses that are no number, stay in the order of the test set.
    """
    losses = -scene.logits.float().log_softmax(1).gather(1, scene.test.labels[:, None])[:, 0]
    order = losses.nan_to_num(torch.inf).argsort(descending=True, stable=True)
    if scene.chosen_classes is not None:
        order = order[torch.isin(scene.test.labels[order], torch.tensor(scene.chosen_classes))]
    return order.tolist(), losses
