"""The test images as the network arranges them in the plane, epoch after epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from pellucid.plots.colours import class_colours
from pellucid.report._material import Entry, Material
from pellucid.report._pictures import sprite
from pellucid.report._section import Section

__all__ = ["STEPS", "embedding"]

STEPS = 10_000
"""Positions are told in whole steps of the longer side of all epochs' points."""
ACROSS = 32
"""Thumbnails in a row of the sprite."""
SCORES = ("trustworthiness", "knn_accuracy", "knn_accuracy_embedding")


@dataclass(frozen=True, eq=False)
class Plane:
    """The points of one epoch."""

    points: np.ndarray
    """(point, 2)."""
    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray | None
    thumbnails: np.ndarray | None
    """(point, side, side, channel) bytes."""
    scores: Mapping[str, float | None]


def embedding(material: Material) -> Section | None:
    """The t-SNE points of every epoch on one scale, with thumbnails and confidences where the run kept them."""
    numbers = material.entries("tsne", "data")
    planes: dict[int, Plane] = material.by_epoch(
        {epoch: entry for epoch, entry in material.entries("tsne", "arrays").items() if epoch in numbers},
        lambda entry: _plane(material, entry, numbers[int(entry["epoch"])]),
    )
    if not planes:
        return None
    images = _images(planes)
    pictures = _sprite(planes, images)
    classes = max(int(max(plane.labels.max(), plane.predictions.max())) + 1 for plane in planes.values())
    return Section(
        name="embedding",
        kind="embedding",
        title="How it arranges the images",
        lead="Each dot is a test image in its class's colour; images that are alike to the network lie close together. "
        "A ring marks an error, in the colour of the class it was taken for. Only nearness has a meaning, no axis has.",
        data={
            "steps": STEPS,
            "colours": [to_hex(colour) for colour in class_colours(max(classes, len(material.classes)))],
            "images": {"indices": list(images), "labels": list(images.values())},
            "sprite": pictures,
            "epochs": _epochs(planes, list(images)),
        },
        notes=tuple(_notes(planes, pictures)),
        hook="tsne",
    )


def _plane(material: Material, arrays: Entry, numbers: Entry) -> Plane | None:
    """The points of one epoch. Raises `KeyError`, `TypeError` or `ValueError` where the files hold something else."""
    points, record = material.arrays(arrays), material.numbers(numbers)
    return None if points is None or record is None else _checked(points, record)


def _checked(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Plane:
    points = np.asarray(arrays["points"], float)
    count = len(points)
    if points.shape != (count, 2) or not count or not np.isfinite(points).all():
        raise ValueError("its points are no finite positions in a plane")
    columns = {name: np.asarray(record[name], int) for name in ("indices", "labels", "predictions")}
    confidences = np.asarray(record["confidences"], float) if record.get("confidences") is not None else None
    for name, column in {**columns, "confidences": confidences}.items():
        if column is not None and column.shape != (count,):
            raise ValueError(f"it has {count} points, but {column.size} {name}")
    if min(columns["labels"].min(), columns["predictions"].min()) < 0:
        raise ValueError("a class is negative")
    thumbnails = arrays.get("thumbnails")
    if thumbnails is not None and (thumbnails.ndim != 4 or len(thumbnails) != count or thumbnails.dtype != np.uint8):
        raise ValueError(f"its thumbnails are {thumbnails.dtype} of shape {thumbnails.shape} for {count} points")
    scores = {name: None if record.get(name) is None else float(record[name]) for name in SCORES}
    return Plane(points, **columns, confidences=confidences, thumbnails=thumbnails, scores=scores)


def _images(planes: Mapping[int, Plane]) -> dict[int, int]:
    """The label of each image of any epoch, by its index in the test set, in that order."""
    labels = {
        int(index): int(label)
        for plane in planes.values()
        for index, label in zip(plane.indices, plane.labels, strict=True)
    }
    return dict(sorted(labels.items()))


def _sprite(planes: Mapping[int, Plane], images: Mapping[int, int]) -> dict[str, Any] | None:
    """Every image once; None where one is missing, or they differ in shape."""
    found = {
        int(index): thumbnail
        for plane in planes.values()
        if plane.thumbnails is not None
        for index, thumbnail in zip(plane.indices, plane.thumbnails, strict=True)
    }
    if found.keys() != images.keys() or len({thumbnail.shape for thumbnail in found.values()}) > 1:
        return None
    thumbnails = np.stack([found[index] for index in images])
    return {"uri": sprite(thumbnails, ACROSS), "side": thumbnails.shape[1], "across": ACROSS}


def _epochs(planes: Mapping[int, Plane], images: list[int]) -> dict[int, dict[str, Any]]:
    """What the page draws of each epoch: x to the right and y down, one scale for all, so that moves are comparable."""
    everything = np.concatenate([plane.points for plane in planes.values()])
    low, high = everything.min(0), everything.max(0)
    middle, side = (low + high) / 2, float((high - low).max()) or 1.0
    return {epoch: _epoch(plane, middle, side, images) for epoch, plane in planes.items()}


def _epoch(plane: Plane, middle: np.ndarray, side: float, images: list[int]) -> dict[str, Any]:
    places = np.rint(((plane.points - middle) / side * (1, -1) + 0.5) * STEPS).astype(int)
    confidences = plane.confidences
    return {
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
        notes.append("This run kept no thumbnails of these images, so the cards tell only what they are.")
    without = [str(epoch) for epoch, plane in planes.items() if plane.confidences is None]
    if without:
        which = "" if len(without) == len(planes) else f" of epoch {', '.join(without)}"
        notes.append(f"The confidences{which} were not kept, so none are told.")
    return notes
