"""Influential training images of the explained test images, from the hook `influence`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.report._gallery import Gallery, is_same_network
from pellucid.report._material import Material
from pellucid.report.sections._thumbnails import checked_thumbnails, thumbnail_data

__all__ = ["influence_data"]

SIDES = {"for": "proponents", "against": "opponents"}


def influence_data(material: Material, parts: Sequence[Gallery]) -> dict[str, Any] | None:
    """Return the training images that raised or lowered the scores of the gallery's predictions, or None.

    `images` maps indices of test images to lists of (row of `thumbnails`, score); `labels` has one class per row.
    """
    stored = material.pairs("influence", _checked)
    if not stored:
        return None
    data: dict[str, Any] = stored[max(stored)]
    kept = {
        index: one
        for index, one in data["images"].items()
        if is_same_network(parts, index, one["target"], one["confidence"])
    }
    return {**data, "images": kept} if kept else None


def _checked(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Validate the hook's files; raises `KeyError`, `TypeError` or `ValueError` for invalid content."""
    shown = [int(index) for index in arrays["shown"]]
    if not shown:
        return None
    labels = [int(label) for label in record["shown_labels"]]
    pictures = checked_thumbnails(arrays["thumbnails"], len(shown))
    indices, targets = ([int(value) for value in record[name]] for name in ("indices", "predictions"))
    sides = {side: (arrays[name], arrays[f"{name}_scores"]) for side, name in SIDES.items()}
    if len(labels) != len(shown) or any(one.shape != both[0].shape or one.ndim != 2 or len(one) != len(indices)
                                        for both in sides.values() for one in both):  # fmt: skip
        raise ValueError(f"its arrays do not match {len(indices)} test images and {len(shown)} training images")
    if any(not np.isfinite(scores).all() for _, scores in sides.values()):
        raise ValueError("its scores are not finite")
    rows = {index: row for row, index in enumerate(shown)}
    images = {}
    for place, index in enumerate(indices):
        found = {side: _found(both[0][place], both[1][place], rows) for side, both in sides.items()}
        images[index] = {"target": targets[place], "confidence": float(record["confidences"][place]), **found}
    return {
        "images": images,
        "labels": labels,
        "thumbnails": thumbnail_data(dict(zip(shown, pictures, strict=True)), None),
        "note": _note(record),
    }


def _found(places: np.ndarray, scores: np.ndarray, rows: Mapping[int, int]) -> list[tuple[int, float]]:
    # −1 stands where fewer training images have the right sign
    return [
        (rows[int(index)], float(f"{score:.3g}")) for index, score in zip(places, scores, strict=True) if index >= 0
    ]


def _note(record: Mapping[str, Any]) -> str:
    scored, total = int(record["scored"]), int(record["training_images"])
    which = f"all {total:,} training images" if scored == total else f"a sample of {scored:,} of {total:,} images"
    error = float(record["projection_error"])
    rounding = f", with a projection of standard error {error:.0%}" if error else ""
    return f"Estimated by TRAK at the best checkpoint for {which}{rounding}. Compare scores only within an image."
