"""Embeddings of two models side by side."""

from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from pellucid.plots.colours import class_colours
from pellucid.report import Section
from pellucid.report._pictures import sprite
from pellucid.report.comparison._comparison import Comparison

__all__ = ["aligned", "embedding"]

STEPS = 10_000
"""Resolution of the positions."""
ACROSS = 32
"""Thumbnails per row of the sprite image."""
LEAST = 3
"""Minimum number of common points to align two embeddings."""


def embedding(comparison: Comparison) -> Section | None:
    """Build the section from the runs' t-SNE; None if fewer than two runs have one, or the first has none."""
    known = {number: model.points for number, model in enumerate(comparison.models) if model.points is not None}
    if 0 not in known or len(known) < 2:
        return None
    rows = comparison.point_rows()
    place = {int(row): position for position, row in enumerate(rows)}
    reference = known[0]
    planes: dict[int, dict[str, Any]] = {}
    for number, own in known.items():
        is_shown = np.isin(own[0], rows)
        places = _places(aligned(own, reference)[is_shown])
        planes[number] = {"points": [place[int(row)] for row in own[0][is_shown]], "x": places[:, 0], "y": places[:, 1]}
    missing = [model.name for number, model in enumerate(comparison.models) if number not in known]
    return Section(
        name="embedding",
        kind="compare_embedding",
        title="Embeddings side by side (t-SNE)",
        label="Embeddings",
        lead="Each dot is a test image, colored by its true class; the other model's points are rotated or mirrored "
        "to match the first's. Point at a dot to find the same image in both. Rings mark misclassified images.",
        data={
            "names": [model.name for model in comparison.models],
            "classes": comparison.classes,
            "steps": STEPS,
            "colours": [to_hex(colour) for colour in class_colours(len(comparison.classes))],
            "indices": comparison.indices[rows],
            "labels": comparison.labels[rows],
            "predictions": {number: comparison.models[number].predictions[rows] for number in known},
            "planes": planes,
            "sprite": _sprite(comparison, rows),
        },
        notes=(f"No t-SNE points are stored for: {', '.join(missing)}.",) if missing else (),
        hook="",
    )


def aligned(points: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return `points` rotated or mirrored to match `reference` (orthogonal Procrustes, Schönemann, 1966).

    Both are pairs of rows and positions (point, 2); the common rows are matched by least squares. The page scales and
    centers each embedding anyway.
    """
    _, own, other = np.intersect1d(points[0], reference[0], return_indices=True)
    if len(own) < LEAST:
        return points[1]
    middle, target = points[1][own].mean(0), reference[1][other].mean(0)
    left, _, right = np.linalg.svd((points[1][own] - middle).T @ (reference[1][other] - target))
    return np.asarray((points[1] - middle) @ (left @ right))


def _places(points: np.ndarray) -> np.ndarray:
    """Return integer positions; x points right and y down."""
    low, high = points.min(0), points.max(0)
    side = float((high - low).max()) or 1.0
    return np.rint(((points - (low + high) / 2) / side * (1, -1) + 0.5) * STEPS).astype(int)


def _sprite(comparison: Comparison, rows: np.ndarray) -> dict[str, Any] | None:
    pictures = comparison.pictures
    if "thumbnails" not in pictures or not np.array_equal(pictures["point_rows"], rows):
        return None
    thumbnails = pictures["thumbnails"]
    return {"uri": sprite(thumbnails, ACROSS), "side": thumbnails.shape[1], "across": ACROSS}
