"""Difference of the confusion matrices of two models."""

from typing import Any

import numpy as np

from pellucid.report import Section
from pellucid.report.comparison._comparison import Comparison, Pair

__all__ = ["confusion"]

MOST_CLASSES = 30
"""Maximum number of classes shown: of more, those with the largest changes."""


def confusion(comparison: Comparison) -> Section:
    """Build the section with the difference of each pair."""
    size = len(comparison.classes)
    return Section(
        name="confusion",
        kind="compare_confusion",
        title="Difference of the confusion matrices",
        label="Confusion",
        lead="Number of test images of each true class (row) and prediction (column): the first model minus the other. "
        "Red: more images by the first; blue: more by the other.",
        data={
            "names": [model.name for model in comparison.models],
            "classes": comparison.classes,
            "pairs": [_pair(comparison, pair) for pair in comparison.pairs],
        },
        notes=(f"Shows the {MOST_CLASSES} of {size} classes with the largest changes.",) if size > MOST_CLASSES else (),
        hook="",
    )


def _pair(comparison: Comparison, pair: Pair) -> dict[str, Any]:
    first, second = (_counts(comparison, number) for number in (pair.first, pair.second))
    change = np.abs(first - second)
    chosen = np.arange(len(comparison.classes))
    if len(chosen) > MOST_CLASSES:
        chosen = np.sort(np.argsort(-(change.sum(0) + change.sum(1)), kind="stable")[:MOST_CLASSES])
    grid = np.ix_(chosen, chosen)
    return {"second": pair.second, "chosen": chosen, "first": first[grid], "other": second[grid]}


def _counts(comparison: Comparison, number: int) -> np.ndarray:
    size, predictions = len(comparison.classes), comparison.models[number].predictions
    counts = np.bincount(comparison.labels * size + predictions, minlength=size * size)
    return counts.reshape(size, size)
