"""Interactive confusion matrix with example images for each cell."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from pellucid.report import Entry, Material, Section
from pellucid.report.sections._thumbnails import checked_thumbnails, deflated, exact_size, thumbnail_data

__all__ = ["confusion_matrix"]

MOST_CLASSES = 50
"""Maximum number of classes shown completely, as in the figure."""
SHOWN_CLASSES = 30
"""Number of classes shown if there are more: those with the most errors, then those with the most images."""


def confusion_matrix(material: Material) -> Section | None:
    """Build the section with the counts of each epoch, up to eight images per cell, and the indices of all images.

    Images and indices are left out of the section if the run did not store them.
    """
    counts = material.by_epoch(material.entries("confusion_matrix", "data"), lambda entry: _counts(material, entry))
    if not counts:
        return None
    # the number of classes can only change if files of several runs are mixed
    size = len(counts[max(counts)])
    counts = {epoch: cells for epoch, cells in counts.items() if len(cells) == size}
    chosen = _most_mistaken(counts[max(counts)])
    kept = material.pairs("confusion_matrix", _images, "images")
    thumbnails = _thumbnails(kept)
    # classes without a name are shown by their index
    names = [*material.classes, *map(str, range(len(material.classes), size))]
    notes = []
    if len(chosen) < size:
        notes.append(
            f"Shows the {len(chosen)} of {size:,} classes with the most errors; recall and precision include all "
            "classes."
        )
    if thumbnails is None:
        notes.append("This run has no example images for the cells.")
    return Section(
        name="confusion_matrix",
        kind="confusion_matrix",
        title="Confusion matrix: what does it get wrong?",
        lead=(
            "Rows are the true classes, columns the predictions. Errors have their own color scale, so that rare "
            "ones stand out. Select a cell to see its test images."
        ),
        data={
            "classes": [names[number] for number in chosen],
            "numbers": chosen,
            "matrices": {epoch: _matrix(cells, chosen) for epoch, cells in counts.items()},
            "images": {epoch: columns for epoch, (columns, _, _) in kept.items()},
            "thumbnails": thumbnails,
            "has_images": thumbnails is not None,
            **_outcomes(material, counts),
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


Kept = tuple[dict[str, np.ndarray], np.ndarray, tuple[int, int] | None]
"""Columns of the example images of an epoch, their thumbnails, and the size of the images if those are exact."""


def _images(arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Kept | None:
    columns = {name: np.array(numbers[name], dtype=np.int64) for name in ("indices", "labels", "predictions")}
    columns["confidences"] = np.array(numbers["confidences"], dtype=float)
    thumbnails = checked_thumbnails(arrays["thumbnails"], len(columns["indices"]))
    if any(column.shape != thumbnails.shape[:1] for column in columns.values()):
        raise ValueError("the number of values differs from the number of images")
    return (columns, thumbnails, exact_size(numbers, thumbnails)) if len(thumbnails) else None


def _thumbnails(kept: Mapping[int, Kept]) -> dict[str, Any] | None:
    """Pack the thumbnails of all epochs, each image once."""
    images = {
        int(index): thumbnail
        for columns, thumbnails, _ in kept.values()
        for index, thumbnail in zip(columns["indices"], thumbnails, strict=True)
    }
    sizes = {size for _, _, size in kept.values()}
    return thumbnail_data(images, sizes.pop() if len(sizes) == 1 else None)


def _outcomes(material: Material, counts: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """Return the packed labels of all test images, and by epoch the packed differences, prediction minus label.

    Most differences are zero, so that they compress to a few kilobytes, even for many images and classes.
    """
    entries = material.entries("confusion_matrix", "arrays", "predictions")
    read = partial(_checked_outcomes, material, counts)
    outcomes = material.by_epoch({epoch: entries[epoch] for epoch in counts if epoch in entries}, read)
    if not outcomes:
        return {"labels": None, "differences": {}}
    labels, _ = outcomes[max(outcomes)]
    return {
        "labels": _packed(labels),
        "differences": {
            epoch: _packed(predictions - own)
            for epoch, (own, predictions) in outcomes.items()
            if np.array_equal(own, labels)
        },
    }


def _checked_outcomes(
    material: Material, counts: Mapping[int, np.ndarray], entry: Entry
) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the labels and predictions of all test images; raises `ValueError` if they do not give the counts."""
    arrays = material.arrays(entry)
    if arrays is None:
        return None
    stored = [arrays[name] for name in ("labels", "predictions")]
    if any(column.dtype.kind not in "iu" for column in stored):
        raise ValueError(f"its labels and predictions have dtype {stored[0].dtype} and {stored[1].dtype}")
    labels, predictions = (column.astype(np.int64) for column in stored)
    cells = counts[int(entry["epoch"])]
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ValueError(f"it has labels of shape {labels.shape} and predictions of shape {predictions.shape}")
    if (
        not labels.size
        or min(labels.min(), predictions.min()) < 0
        or max(labels.max(), predictions.max()) >= len(cells)
    ):
        raise ValueError(f"a class is not in 0…{len(cells) - 1}")
    flat = np.bincount(labels * len(cells) + predictions, minlength=cells.size)
    if not np.array_equal(flat, cells.ravel()):
        raise ValueError("its predictions differ from the counts of the confusion matrix")
    return labels, predictions


def _packed(values: np.ndarray) -> str:
    return deflated(values.astype("<i4").tobytes())
