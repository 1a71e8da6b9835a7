"""Confusion matrix of all test images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from pellucid.hooks import HOOKS, Artifact, Hook, Scene
from pellucid.hooks._predictions import by_loss, predictions_of
from pellucid.hooks._thumbnails import PAGE_SIDE, lossless_size, thumbnails
from pellucid.plots.confusion_matrix import confusion_matrix

__all__ = ["ConfusionMatrix"]

PER_CELL = 8
"""Maximum number of example images per cell."""
AT_MOST = 1000
"""Maximum number of example images in total."""
MANY = 50
"""Maximum number of classes that are all shown; with more, the numbers would be too small to read."""
DRAWN = 30
"""Number of classes that the figure shows if there are more than `MANY`."""


@HOOKS.register("confusion_matrix")
@dataclass(frozen=True)
class ConfusionMatrix(Hook):
    """Confusion matrix with true classes as rows and predictions as columns, and recall, precision and accuracy.

    Recall is the fraction of a class's images predicted correctly, precision the fraction of a class's predictions that
    are correct; both are in 0…1, and None if the denominator is zero.
    """

    def run(self, scene: Scene) -> Iterable[Artifact]:
        """Yield a figure with the numbers `counts`, `classes`, `accuracy`, `recall` and `precision`, and examples.

        The second artifact, `images`, holds test images of each cell: the array `thumbnails` (image, side, side,
        channel), and the numbers `indices`, `labels`, `predictions` and `confidences`. The third, `predictions`, holds
        one value per test image: the arrays `labels`, `predictions`, `confidences` (probability of the prediction) and
        `losses` (cross-entropy in nats).
        """
        count = len(scene.classes)
        predictions = scene.logits.argmax(1)
        # Cell (truth, prediction) has the flat index truth × count + prediction.
        cells = torch.bincount(scene.test.labels * count + predictions, minlength=count * count)
        counts = cells.reshape(count, count).numpy()
        # rows (axis 1) are the true classes, columns (axis 0) the predictions
        recall, precision = (_share(counts.diagonal(), counts.sum(axis)) for axis in (1, 0))
        accuracy = float(counts.trace() / counts.sum())
        title = f"{scene.title}: confusion matrix, accuracy {accuracy:.2%}"
        summary = f"{counts.sum() - counts.trace():,} of {counts.sum():,} test images misclassified"
        chosen = scene.shown_classes(DRAWN) if count > MANY else list(range(count))
        choice = _choice(len(chosen), count)
        shown_recall, shown_precision = (_padded(values[chosen], bool(choice)) for values in (recall, precision))
        yield Artifact(
            caption=f"{title}. Rows: true class, columns: prediction, cells: number of images; {summary}.{choice}",
            figure=confusion_matrix(
                _condensed(counts, chosen),
                [scene.classes[label] for label in chosen] + ["other"] * bool(choice),
                shown_recall,
                shown_precision,
                (title, f"{summary}.{choice}" if choice else summary),
                has_others=bool(choice),
            ),
            numbers={
                "counts": counts.tolist(),
                "classes": list(scene.classes),
                "accuracy": accuracy,
                "recall": _with_none(recall),
                "precision": _with_none(precision),
            },
        )
        examples = predictions_of(scene, _of_each_cell(scene.test.labels.numpy(), predictions.numpy()))
        yield Artifact(
            caption=f"{scene.title}: {len(examples.indices):,} test images, up to {PER_CELL} from each cell of the "
            "confusion matrix.",
            name="images",
            arrays={"thumbnails": thumbnails(scene.test[examples.indices], PAGE_SIDE)},
            numbers={**examples.numbers, "lossless_size": lossless_size(scene.test, PAGE_SIDE)},
        )
        yield Artifact(
            caption=f"{scene.title}: predictions for all {len(predictions):,} test images.",
            name="predictions",
            arrays=_all_predictions(scene),
        )


def _all_predictions(scene: Scene) -> dict[str, np.ndarray]:
    confidences, predictions = scene.logits.float().softmax(1).max(1)
    return {
        "labels": scene.test.labels.numpy().astype(np.int32),
        "predictions": predictions.numpy().astype(np.int32),
        "confidences": confidences.numpy(),
        "losses": by_loss(scene)[1].numpy(),
    }


def _choice(shown: int, count: int) -> str:
    """Return a sentence on the selection of classes, with a leading space; empty if all are shown."""
    if shown == count:
        return ""
    return (
        f" Shows {shown} of {count:,} classes, those with the most errors first; other: the remaining "
        f"{count - shown:,}, whose confusions with each other are in the last cell."
    )


def _condensed(counts: np.ndarray, chosen: list[int]) -> np.ndarray:
    """Return the counts of the chosen classes, with a row and a column for the sums of all others, if there are any."""
    if len(chosen) == len(counts):
        return counts
    others = np.setdiff1d(np.arange(len(counts)), chosen)
    rows = np.vstack([counts[chosen], counts[others].sum(0, keepdims=True)])
    return np.hstack([rows[:, chosen], rows[:, others].sum(1, keepdims=True)])


def _padded(values: np.ndarray, has_others: bool) -> np.ndarray:
    """Append NaN for the row of other classes, for which recall and precision are undefined."""
    return np.append(values, np.nan) if has_others else values


def _of_each_cell(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the indices of the first images of each cell (truth, prediction), errors first.

    Beyond `AT_MOST` images, every cell loses its last ones.
    """
    # Sort by cell, then rank the images within each cell: position minus the start of the cell.
    order = np.lexsort((predictions, labels))
    is_first = np.append(True, (np.diff(labels[order]) != 0) | (np.diff(predictions[order]) != 0))
    starts = np.flatnonzero(is_first)
    ranks = np.arange(len(order)) - starts[np.cumsum(is_first) - 1]
    is_right = labels[order] == predictions[order]
    # Keep errors first and low ranks first, so that the cut at AT_MOST drops the last images of every cell.
    wanted = np.lexsort((ranks, is_right))
    wanted = wanted[ranks[wanted] < PER_CELL][:AT_MOST]
    # errors first; errors and correct predictions are each in the order of their cells
    return order[wanted[np.lexsort((wanted, is_right[wanted]))]]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `part / whole`, NaN where the whole is zero."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _with_none(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
