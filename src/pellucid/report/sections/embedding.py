"""Interactive t-SNE embedding of test images, animated over the epochs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from pellucid.plots.colours import class_colours
from pellucid.report import Material, Section
from pellucid.report._pictures import sprite

__all__ = ["STEPS", "embedding"]

STEPS = 10_000
"""Resolution of the positions: integers from 0 to STEPS along the longer side of all epochs' points."""
ACROSS = 32
"""Thumbnails per row of the sprite image."""
SCORES = ("trustworthiness", "knn_accuracy", "knn_accuracy_embedding")
"""Quality scores of the embedding in the hook's numbers."""


@dataclass(frozen=True, eq=False)
class Plane:
    """Points of one epoch."""

    points: np.ndarray
    """Positions (point, 2)."""
    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray | None
    thumbnails: np.ndarray | None
    """Thumbnails (point, side, side, channel) as bytes."""
    scores: Mapping[str, float | None]


def embedding(material: Material) -> Section | None:
    """Build the section with the points of every epoch on one scale, with thumbnails and confidences if available."""
    planes: dict[int, Plane] = material.pairs("tsne", _plane)
    if not planes:
        return None
    images = _images(planes)
    pictures = _sprite(planes, images)
    classes = max(int(max(plane.labels.max(), plane.predictions.max())) + 1 for plane in planes.values())
    return Section(
        name="embedding",
        kind="embedding",
        title="Embedding (t-SNE): which images look alike to the network?",
        lead="Each dot is a test image, colored by its true class; images with similar embeddings are close together. "
        "A ring marks a misclassified image, in the color of the predicted class. Only distances between neighbors are "
        "meaningful; the axes are not.",
        data={
            "steps": STEPS,
            # above ten classes, the colors depend on the number of classes, so count them as the figures do
            "colours": [to_hex(colour) for colour in class_colours(max(classes, len(material.classes)))],
            "images": {"indices": list(images), "labels": list(images.values())},
            "sprite": pictures,
            "epochs": _epochs(planes, list(images)),
        },
        notes=tuple(_notes(planes, pictures)),
        hook="tsne",
    )


def _plane(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Plane:
    """Check the points of one epoch; raises `KeyError`, `TypeError` or `ValueError` for invalid files."""
    points = np.asarray(arrays["points"], float)
    count = len(points)
    if points.shape != (count, 2) or not count or not np.isfinite(points).all():
        raise ValueError("its points are not finite 2D positions")
    columns = {name: np.asarray(record[name], int) for name in ("indices", "labels", "predictions")}
    confidences = np.asarray(record["confidences"], float) if record.get("confidences") is not None else None
    for name, column in {**columns, "confidences": confidences}.items():
        if column is not None and column.shape != (count,):
            raise ValueError(f"it has {count} points but {column.size} {name}")
    if min(columns["labels"].min(), columns["predictions"].min()) < 0:
        raise ValueError("a class index is negative")
    thumbnails = arrays.get("thumbnails")
    if thumbnails is not None and (thumbnails.ndim != 4 or len(thumbnails) != count or thumbnails.dtype != np.uint8):
        raise ValueError(
            f"its thumbnails have dtype {thumbnails.dtype} and shape {thumbnails.shape} for {count} points"
        )
    scores = {name: None if record.get(name) is None else float(record[name]) for name in SCORES}
    return Plane(points, **columns, confidences=confidences, thumbnails=thumbnails, scores=scores)


def _images(planes: Mapping[int, Plane]) -> dict[int, int]:
    """Return the label of every image in any epoch, by its index in the test set, sorted by index."""
    labels = {
        int(index): int(label)
        for plane in planes.values()
        for index, label in zip(plane.indices, plane.labels, strict=True)
    }
    return dict(sorted(labels.items()))


def _sprite(planes: Mapping[int, Plane], images: Mapping[int, int]) -> dict[str, Any] | None:
    """Return a sprite image with every image once; None if some are missing or differ in shape."""
    available = {
        int(index): thumbnail
        for plane in planes.values()
        if plane.thumbnails is not None
        for index, thumbnail in zip(plane.indices, plane.thumbnails, strict=True)
    }
    if available.keys() != images.keys() or len({thumbnail.shape for thumbnail in available.values()}) > 1:
        return None
    thumbnails = np.stack([available[index] for index in images])
    return {"uri": sprite(thumbnails, ACROSS), "side": thumbnails.shape[1], "across": ACROSS}


def _epochs(planes: Mapping[int, Plane], images: list[int]) -> dict[int, dict[str, Any]]:
    """Return the data of each epoch; x points right and y down, on one scale so that movements are comparable."""
    everything = np.concatenate([plane.points for plane in planes.values()])
    low, high = everything.min(0), everything.max(0)
    # one side for both axes keeps the aspect; `or 1.0` is for points that are all equal
    middle, side = (low + high) / 2, float((high - low).max()) or 1.0
    return {epoch: _epoch(plane, middle, side, images) for epoch, plane in planes.items()}


def _epoch(plane: Plane, middle: np.ndarray, side: float, images: list[int]) -> dict[str, Any]:
    # (1, −1) turns the vertical axis around: the page measures from the top
    places = np.rint(((plane.points - middle) / side * (1, -1) + 0.5) * STEPS).astype(int)
    confidences = plane.confidences
    return {
        # `images` is sorted, so this finds the position of each index
        "rows": np.searchsorted(images, plane.indices),
        "x": places[:, 0],
        "y": places[:, 1],
        "predictions": plane.predictions,
        "confidences": None if confidences is None else [round(float(value), 4) for value in confidences],
        **plane.scores,
    }


def _notes(planes: Mapping[int, Plane], pictures: object) -> list[str]:
    notes = []
    if pictures is None:
        notes.append("This run has no thumbnails of these images.")
    without = [str(epoch) for epoch, plane in planes.items() if plane.confidences is None]
    if without:
        which = "This run" if len(without) == len(planes) else f"Epoch {', '.join(without)}"
        notes.append(f"{which} has no confidences.")
    return notes
