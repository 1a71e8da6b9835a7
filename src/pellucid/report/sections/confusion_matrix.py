"""What is taken for what, cell by cell, with the images behind each cell."""

from typing import Any

import numpy as np

from pellucid.report._material import Entry, Material
from pellucid.report._pictures import sprite
from pellucid.report._section import Section

__all__ = ["confusion_matrix"]

MOST_CLASSES = 120
"""A larger matrix shows the classes with the most mistakes."""
ACROSS = 32
"""Thumbnails in a row of their picture."""


def confusion_matrix(material: Material) -> Section | None:
    """The counts of each epoch, and up to eight images per cell where the run kept them."""
    counts = material.by_epoch(material.entries("confusion_matrix", "data"), lambda entry: _counts(material, entry))
    if not counts:
        return None
    size = len(counts[max(counts)])
    counts = {epoch: cells for epoch, cells in counts.items() if len(cells) == size}
    chosen = _most_mistaken(counts[max(counts)])
    numbers = material.entries("confusion_matrix", "data", "images")
    thumbnails = material.entries("confusion_matrix", "arrays", "images")
    images = material.by_epoch(
        {epoch: entry for epoch, entry in thumbnails.items() if epoch in numbers},
        lambda entry: _images(material, entry, numbers[int(entry["epoch"])], chosen),
    )
    names = [*material.classes, *map(str, range(len(material.classes), size))]
    notes = []
    if len(chosen) < size:
        notes.append(
            f"Of {size} classes, the {len(chosen)} with the most mistakes are shown; recall and precision are of all."
        )
    if not images:
        notes.append("This run kept no test images for the cells.")
    return Section(
        name="confusion_matrix",
        kind="confusion_matrix",
        title="What it gets wrong",
        lead=(
            "Rows are the truth, columns the prediction; a darker cell holds a larger share of its row. Choose a cell "
            "to see test images of it."
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
        raise ValueError(f"counts has the shape {cells.shape}")
    return cells


def _most_mistaken(cells: np.ndarray) -> list[int]:
    mistakes = cells.sum(0) + cells.sum(1) - 2 * cells.diagonal()
    return sorted(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES].tolist())


def _matrix(cells: np.ndarray, chosen: list[int]) -> dict[str, Any]:
    return {
        "counts": cells[np.ix_(chosen, chosen)],
        "truths": cells.sum(1)[chosen],
        "predictions": cells.sum(0)[chosen],
        "right": int(cells.trace()),
        "images": int(cells.sum()),
    }


def _images(material: Material, entry: Entry, beside: Entry, chosen: list[int]) -> dict[str, Any] | None:
    """The thumbnails as one picture, and of each its index, label, prediction (places in `chosen`) and confidence."""
    arrays, numbers = material.arrays(entry), material.numbers(beside)
    if arrays is None or numbers is None:
        return None
    thumbnails = arrays["thumbnails"]
    if thumbnails.ndim != 4 or thumbnails.dtype != np.uint8 or thumbnails.shape[3] not in (1, 3):
        raise ValueError(f"thumbnails are {thumbnails.dtype} of the shape {thumbnails.shape}")
    columns = [np.array(numbers[name], dtype=np.int64) for name in ("indices", "labels", "predictions")]
    columns.append(np.array(numbers["confidences"], dtype=float))
    if any(column.shape != thumbnails.shape[:1] for column in columns):
        raise ValueError("there is not one number for each image")
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
