"""Which classes the network takes for which others, over all test images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.core.contracts import Artifact
from pellucid.hooks import HOOKS
from pellucid.hooks._answers import answers
from pellucid.hooks._hook import Hook, Scene
from pellucid.hooks._thumbnails import PAGE_SIDE, thumbnails
from pellucid.plots.confusion_matrix import confusion_matrix

__all__ = ["ConfusionMatrix"]

PER_CELL = 8
"""At most so many test images of a cell are kept to be looked at."""
AT_MOST = 1000
"""And of all cells."""


@HOOKS.register("confusion_matrix")
@dataclass(frozen=True)
class ConfusionMatrix(Hook):
    """A matrix of test images, rows truth and columns prediction, with recall, precision and accuracy.

    Recall is the share of a class's images that are found, precision the share of a class's predictions that are
    right; both are in 0…1 and None where there is nothing to divide by.
    """

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """One figure, with the numbers `counts`, `classes`, `accuracy`, `recall` and `precision`; and test images.

        The second artifact, `images`, holds test images of each cell: the array `thumbnails` (image, side, side,
        channel), and as numbers `indices`, `labels`, `predictions` and `confidences`.
        """
        count = len(scene.classes)
        predictions = scene.logits.argmax(1)
        cells = torch.bincount(scene.test.labels * count + predictions, minlength=count * count)
        counts = cells.reshape(count, count).numpy()
        recall, precision = (_share(counts.diagonal(), counts.sum(axis)) for axis in (1, 0))
        accuracy = float(counts.trace() / counts.sum())
        title = f"{scene.title}: what is taken for what, accuracy {accuracy:.2%}"
        summary = f"{counts.sum() - counts.trace():,} of {counts.sum():,} test images wrong"
        yield Artifact(
            caption=f"{title}. Rows: truth, columns: prediction, cells: images; {summary}.",
            figure=confusion_matrix(counts, scene.classes, recall, precision, (title, summary)),
            numbers={
                "counts": counts.tolist(),
                "classes": list(scene.classes),
                "accuracy": accuracy,
                "recall": _with_none(recall),
                "precision": _with_none(precision),
            },
        )
        told = answers(scene, _of_each_cell(scene.test.labels.numpy(), predictions.numpy()))
        yield Artifact(
            caption=f"{scene.title}: {len(told.indices):,} test images, up to {PER_CELL} of each cell of the matrix.",
            name="images",
            arrays={"thumbnails": thumbnails(scene.test[told.indices], PAGE_SIDE)},
            numbers=told.numbers,
        )


def _of_each_cell(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Indices of the first images of each cell (truth, prediction), cell by cell, those of errors first.

    Where they are too many, each cell gives up its last ones.
    """
    order = np.lexsort((predictions, labels))
    is_first = np.append(True, (np.diff(labels[order]) != 0) | (np.diff(predictions[order]) != 0))
    starts = np.flatnonzero(is_first)
    ranks = np.arange(len(order)) - starts[np.cumsum(is_first) - 1]
    is_right = labels[order] == predictions[order]
    wanted = np.lexsort((ranks, is_right))
    wanted = wanted[ranks[wanted] < PER_CELL][:AT_MOST]
    return order[wanted[np.lexsort((wanted, is_right[wanted]))]]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _with_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
