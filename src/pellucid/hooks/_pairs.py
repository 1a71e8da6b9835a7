"""Test images that the gallery explains for two classes each: the misclassified ones and a sample of correct ones."""

from collections.abc import Collection

import numpy as np
import torch

from pellucid.hooks._hook import Scene
from pellucid.hooks._predictions import by_loss

__all__ = ["MOST_PAIRS", "choose_pairs", "classes_of_pairs"]

MISTAKES = 200
"""Maximum number of misclassified images."""
CORRECT = 30
"""Maximum number of sampled images that are classified correctly."""
FIRSTS = 20
"""Maximum number of classes whose first test image is included, since several figures show these images."""
HARDEST = 12
"""Number of images with the largest loss that are included even if they are classified correctly."""
MOST_PAIRS = MISTAKES + CORRECT + FIRSTS + HARDEST


def choose_pairs(scene: Scene, known: Collection[int], most: int) -> list[int]:
    """Return the indices of at most `most` test images: those with the largest loss first, then correct ones.

    Images in `known` are omitted. If there is not enough room for all images, a quarter of it is for the correct ones.
    With `--classes`, the true class of each image is one of those selected.
    """
    order, _ = by_loss(scene)
    is_wrong = (scene.logits.argmax(1) != scene.test.labels).numpy()
    mistakes = [index for index in order if is_wrong[index]][:MISTAKES]
    hardest = _without(known, [*order[:HARDEST], *mistakes])
    correct = np.array([index for index in order if not is_wrong[index]], dtype=int)
    sample = _spread(correct, scene.test.labels.numpy(), scene.seed)[:CORRECT]
    others = _without({*known, *hardest}, [*scene.first_of_each_class(FIRSTS), *sample])
    others = others[: max(most // 4, most - len(hardest))]
    return hardest[: most - len(others)] + others


def classes_of_pairs(scene: Scene, indices: list[int]) -> np.ndarray:
    """Return the predicted class of each image and its true class, or the runner-up if they are equal; (image, 2)."""
    logits, rows = scene.logits[indices].float(), torch.arange(len(indices))
    predictions, labels = logits.argmax(1), scene.test.labels[indices]
    # the lowest number for NaN and below it for the prediction, so that the two classes always differ
    rest = logits.nan_to_num(torch.finfo(torch.float32).min)
    rest[rows, predictions] = -torch.inf
    others = torch.where(labels == predictions, rest.argmax(1), labels)
    return torch.stack([predictions, others], 1).numpy()


def _without(known: Collection[int], indices: list[int]) -> list[int]:
    """Return the indices that are not in `known`, each once."""
    return [index for index in dict.fromkeys(indices) if index not in known]


def _spread(indices: np.ndarray, labels: np.ndarray, seed: int) -> list[int]:
    """Return the indices in a random order that takes one image of each class in turn."""
    shuffled = np.random.default_rng(seed).permutation(np.sort(indices))
    ranks = np.empty(len(shuffled), int)
    for label in np.unique(labels[shuffled]):
        own = np.flatnonzero(labels[shuffled] == label)
        ranks[own] = np.arange(len(own))
    return [int(index) for index in shuffled[np.argsort(ranks, kind="stable")]]
