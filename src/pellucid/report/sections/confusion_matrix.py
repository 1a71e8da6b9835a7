"""Interactive confusion matrix with example images for each cell."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pellucid.report import Entry, Material, Section
from pellucid.report._pictures import sprite

__all__ = ["confusion_matrix"]

MOST_CLASSES = 50
"""Maximum number of classes shown completely, as in the figure."""
SHOWN_CLASSES = 30
"""Number of classes shown if there are more: those with the most errors, then those with the most images."""
ACROSS = 32
"""Thumbnails per row of the sprite image."""


def confusion_matrix(material: Material) -> Section | None:
    """Build the section with the counts of each epoch and, if the run has them, up to eight images per cell."""
    counts = material.by_epoch(material.entries("confusion_matrix", "data"), lambda entry: _counts(material, entry))
    if not counts:
        return None
    # the number of classes can only change if files of several runs are mixed
    size = len(counts[max(counts)])
    counts = {epoch: cells for epoch, cells in counts.items() if len(cells) == size}
    chosen = _most_mistaken(counts[max(counts)])
    images = material.pairs("confusion_matrix", partial(_images, chosen=chosen), "images")
    # classes without a name are shown by their index
    names = [*material.classes, *map(str, range(len(material.classes), size))]
    notes = []
    if len(chosen) < size:
        notes.append(
            f"Shows the {len(chosen)} of {size} classes with the most errors; recall and precision include all classes."
        )
    if not images:
        notes.append("This run has no example images for the cells.")
    return Section(
        name="confusion_matrix",
        kind="confusion_matrix",
        title="Confusion matrix: what does it get wrong?",
        lead=(
            "Rows are the true classes, columns the predictions; darker cells hold a larger share of their row. Select "
            "a cell to see its test images."
        ),
        data={
            "classes": [names[number] for number in chosen],
            "matrices": {epoch: _matrix(cells, chosen) for epoch, cells in counts.items()},
            "images": images,
            "across": ACROSS,
        },
        notes=tuple(notes),
    )


def _counts(material: Material, entry: Entry) -> np.ndarray | None:
    record = material.numbers(entry)
    if record is None:
        return None
    cells = np.array(record["counts"], dtype=np.int64)
    if cells.ndim != 2 or cells.shape[0] != cells.shape[1] or not cells.size or cells.min() < 0:
        raise ValueError(f"counts is not a square matrix of nonnegative integers (shape {cells.shape})")
    return cells


def _most_mistaken(cells: np.ndarray) -> list[int]:
    if len(cells) <= MOST_CLASSES:
        return list(range(len(cells)))
    # errors in the row and in the column of each class
    mistakes = cells.sum(0) + cells.sum(1) - 2 * cells.diagonal()
    # sorted by the last key first; stable, so that ties keep the order of the classes
    order = np.lexsort((-cells.sum(1), -mistakes))
    return sorted(order[:SHOWN_CLASSES].tolist())


def _matrix(cells: np.ndarray, chosen: list[int]) -> dict[str, Any]:
    return {
        "counts": cells[np.ix_(chosen, chosen)],
        "truths": cells.sum(1)[chosen],
        "predictions": cells.sum(0)[chosen],
        "right": int(cells.trace()),
        "images": int(cells.sum()),
    }


def _images(arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any], chosen: list[int]) -> dict[str, Any] | None:
    """Return the thumbnails as a sprite image with their indices, labels, predictions and confidences.

    Labels and predictions are positions in `chosen`, or -1 for classes that are not shown.
    """
    thumbnails = arrays["thumbnails"]
    if thumbnails.ndim != 4 or thumbnails.dtype != np.uint8 or thumbnails.shape[3] not in (1, 3):
        raise ValueError(f"thumbnails have the dtype {thumbnails.dtype} and the shape {thumbnails.shape}")
    columns = [np.array(numbers[name], dtype=np.int64) for name in ("indices", "labels", "predictions")]
    columns.append(np.array(numbers["confidences"], dtype=float))
    if any(column.shape != thumbnails.shape[:1] for column in columns):
        raise ValueError("the number of values differs from the number of images")
    if not len(thumbnails):
        return None
    indices, labels, predictions, confidences = columns
    place = {number: position for position, number in enumerate(chosen)}
    return {
        "uri": sprite(thumbnails, ACROSS),
        "side": thumbnails.shape[1],
        "indices": indices,
        "labels": [place.get(int(label), -1) for label in labels],
        "predictions": [place.get(int(label), -1) for label in predictions],
        "confidences": confidences,
    }
