"""Interactive t-SNE embedding of test images, animated over the epochs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from pellucid.core.text import listed
from pellucid.plots.colours import class_colours
from pellucid.report import Material, Section
from pellucid.report.sections._thumbnails import checked_thumbnails, deflated, exact_size, thumbnail_data

__all__ = ["STEPS", "embedding"]

STEPS = 10_000
"""Resolution of the positions: integers from 0 to STEPS along the longer side of all epochs' points."""
SCORES = ("trustworthiness", "knn_accuracy", "knn_accuracy_embedding")
"""Quality scores of the embedding in the hook's numbers."""
SMALLEST_LOSS = 1e-4
"""Lower end of the color scale for losses, at least: below it, all losses are negligible."""


@dataclass(frozen=True, eq=False)
class Plane:
    """Points of one epoch."""

    points: np.ndarray
    """Positions (point, 2)."""
    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    """Probabilities of the predictions; NaN if unknown."""
    losses: np.ndarray
    """Cross-entropy in nats; NaN if unknown."""
    neighbors: np.ndarray
    """Nearest points in the embedding (point, neighbor), as positions in `indices`; (point, 0) if unknown."""
    thumbnails: np.ndarray | None
    """Thumbnails (point, side, side, channel) as bytes."""
    exact_size: tuple[int, int] | None
    """Height and width of the images, if the thumbnails hold their exact pixels."""
    scores: Mapping[str, float | None]


def embedding(material: Material) -> Section | None:
    """Build the section with the points of every epoch on one scale, with thumbnails and values if available."""
    planes: dict[int, Plane] = material.pairs("tsne", _plane)
    if not planes:
        return None
    derived = _derive_losses(material, planes)
    images = _images(planes)
    pictures = _thumbnails(planes, images)
    classes = max(int(max(plane.labels.max(), plane.predictions.max())) + 1 for plane in planes.values())
    return Section(
        name="embedding",
        kind="embedding",
        title="Embedding (t-SNE): which images look alike to the network?",
        lead="Each dot is a test image; images with similar embeddings are close together. Only distances between "
        "neighbors are meaningful; the axes are not.",
        data={
            "steps": STEPS,
            # above ten classes, the colors depend on the number of classes, so count them as the figures do
            "colours": [to_hex(colour) for colour in class_colours(max(classes, len(material.classes)))],
            "scale": "".join(to_hex(colour)[1:] for colour in colormaps["viridis"](np.arange(256))),
            "loss_range": _loss_range(np.concatenate([plane.losses for plane in planes.values()])),
            "confidence_range": _confidence_range(np.concatenate([plane.confidences for plane in planes.values()])),
            "images": {"indices": list(images), "labels": list(images.values())},
            "test_images": _count(material.data.get("test_images")),
            "thumbnails": pictures,
            "has_images": pictures is not None,
            "epochs": _epochs(planes, list(images)),
        },
        notes=tuple(_notes(planes, pictures, derived)),
        hook="tsne",
    )


def _plane(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Plane:
    """Check the points of one epoch; raises `KeyError`, `TypeError` or `ValueError` for invalid files."""
    points = np.asarray(arrays["points"], float)
    count = len(points)
    if points.shape != (count, 2) or not count or not np.isfinite(points).all():
        raise ValueError("its points are not finite 2D positions")
    columns = {name: np.asarray(record[name], int) for name in ("indices", "labels", "predictions")}
    values = {name: _values(record.get(name), count) for name in ("confidences", "losses")}
    for name, column in {**columns, **values}.items():
        if column.shape != (count,):
            raise ValueError(f"it has {count} points but {column.size} {name}")
    if min(column.min() for column in columns.values()) < 0:
        raise ValueError("a class or an index is negative")
    if len(np.unique(columns["indices"])) < count:
        raise ValueError("an image occurs twice")
    thumbnails = arrays.get("thumbnails")
    return Plane(
        points,
        **columns,
        **values,
        neighbors=_neighbors(arrays.get("neighbors"), count),
        thumbnails=None if thumbnails is None else checked_thumbnails(thumbnails, count),
        exact_size=None if thumbnails is None else exact_size(record, thumbnails),
        scores={name: None if record.get(name) is None else float(record[name]) for name in SCORES},
    )


def _values(column: Any, count: int) -> np.ndarray:
    # null becomes NaN
    return np.full(count, np.nan) if column is None else np.asarray(column, float)


def _neighbors(nearest: np.ndarray | None, count: int) -> np.ndarray:
    if nearest is None:
        return np.zeros((count, 0), int)
    if nearest.ndim != 2 or len(nearest) != count or nearest.dtype.kind != "i":
        raise ValueError(f"its neighbors have dtype {nearest.dtype} and shape {nearest.shape} for {count} points")
    if nearest.size and not (nearest.min() >= 0 and nearest.max() < count):
        raise ValueError("a neighbor is not one of the points")
    return nearest


def _derive_losses(material: Material, planes: Mapping[int, Plane]) -> list[int]:
    """Fill in losses that the hook did not store, and return the epochs for which those of errors remain unknown."""
    missing = [epoch for epoch, plane in planes.items() if np.isnan(plane.losses).all()]
    entries = material.entries("confusion_matrix", "arrays", "predictions")
    known = material.by_epoch({epoch: entries[epoch] for epoch in missing if epoch in entries}, material.arrays)
    derived = []
    for epoch in missing:
        plane, losses = planes[epoch], np.asarray(known.get(epoch, {}).get("losses", ()), float)
        if losses.ndim == 1 and len(losses) > plane.indices.max():
            plane.losses[:] = losses[plane.indices]
            continue
        # where the prediction is correct, its confidence is the probability of the true class
        right = (plane.labels == plane.predictions) & (plane.confidences > 0)
        plane.losses[right] = 0 - np.log(plane.confidences[right])
        if right.any() and not right.all():
            derived.append(epoch)
    return derived


def _loss_range(losses: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of the logarithmic color scale, the same for all epochs; None without a positive loss.

    >>> _loss_range(np.array([0.02, 0.3, 4.21, np.nan]))
    (0.01, 4.3)
    """
    known = losses[np.isfinite(losses) & (losses > 0)]
    if not known.size:
        return None
    # the largest loss, rounded up to two digits
    digit = 10.0 ** (floor(log10(known.max())) - 1)
    high = float(f"{ceil(round(known.max() / digit, 6)) * digit:.2g}")
    low = max(SMALLEST_LOSS, 10.0 ** floor(log10(np.quantile(known, 0.05))))
    return (low if low < high else high / 10, high)


def _confidence_range(confidences: np.ndarray) -> tuple[float, float] | None:
    """Return the ends of the color scale, from the smallest confidence, rounded down to a tenth, to 1."""
    known = confidences[np.isfinite(confidences)]
    return (min(floor(known.min() * 10) / 10, 0.9), 1.0) if known.size else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _images(planes: Mapping[int, Plane]) -> dict[int, int]:
    """Return the label of every image in any epoch, by its index in the test set, sorted by index."""
    labels = {
        int(index): int(label)
        for plane in planes.values()
        for index, label in zip(plane.indices, plane.labels, strict=True)
    }
    return dict(sorted(labels.items()))


def _thumbnails(planes: Mapping[int, Plane], images: Iterable[int]) -> dict[str, Any] | None:
    """Pack the thumbnail of every image once, in the order of `images`; None if some are missing."""
    available = {
        int(index): thumbnail
        for plane in planes.values()
        if plane.thumbnails is not None
        for index, thumbnail in zip(plane.indices, plane.thumbnails, strict=True)
    }
    sizes = {plane.exact_size for plane in planes.values() if plane.thumbnails is not None}
    if any(index not in available for index in images):
        return None
    return thumbnail_data({index: available[index] for index in images}, sizes.pop() if len(sizes) == 1 else None)


def _epochs(planes: Mapping[int, Plane], images: list[int]) -> dict[int, dict[str, Any]]:
    """Return the data of each epoch; x points right and y down, on one scale so that movements are comparable."""
    everything = np.concatenate([plane.points for plane in planes.values()])
    low, high = everything.min(0), everything.max(0)
    # one side for both axes keeps the aspect; `or 1.0` is for points that are all equal
    middle, side = (low + high) / 2, float((high - low).max()) or 1.0
    return {epoch: _epoch(plane, middle, side, images) for epoch, plane in planes.items()}


def _epoch(plane: Plane, middle: np.ndarray, side: float, images: list[int]) -> dict[str, Any]:
    """Return the scores and the packed columns: rows, x, y, predictions, each neighbor; confidences, losses.

    The first are int32, the last two float32, little-endian. They are packed so that the page decodes an epoch only
    when it is shown.
    """
    # (1, −1) turns the vertical axis around: the page measures from the top
    places = np.rint(((plane.points - middle) / side * (1, -1) + 0.5) * STEPS)
    # `images` is sorted, so this finds the position of each index
    rows = np.searchsorted(images, plane.indices)
    whole = [rows, *places.T, plane.predictions, *rows[plane.neighbors].T]
    content = b"".join(
        [np.stack(whole).astype("<i4").tobytes(), np.stack([plane.confidences, plane.losses]).astype("<f4").tobytes()]
    )
    return {
        "count": len(plane.points),
        "neighbors": plane.neighbors.shape[1],
        "packed": deflated(content),
        **plane.scores,
    }


def _notes(planes: Mapping[int, Plane], pictures: object, derived: list[int]) -> list[str]:
    notes = [] if pictures is not None else ["This run has no thumbnails of these images."]
    unsure = [epoch for epoch, plane in planes.items() if np.isnan(plane.confidences).all()]
    for epochs, missing in ((unsure, "confidences"), (derived, "losses of misclassified images")):
        if epochs:
            several = f"Epochs {listed(list(map(str, epochs)))} have" if len(epochs) > 1 else f"Epoch {epochs[0]} has"
            notes.append(f"{'This run has' if len(epochs) == len(planes) else several} no {missing}.")
    return notes
