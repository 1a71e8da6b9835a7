"""Confusion matrix, and the most frequent confusions with an example of each."""

from typing import Any

import numpy as np

from pellucid.report import Section
from pellucid.report.stored._survey import MOST_COUNTED, Survey

__all__ = ["confusion"]

MOST_CLASSES = 30
TOP = 20
STRONGEST = 45
"""Strongest color of a cell in percent, so that text on it stays readable."""


def confusion(made: Survey) -> Section | None:
    """Build the section; None without labels."""
    if not made.labeled:
        return None
    counts = made.confusion
    tables = [] if counts is None else [_top(made, counts), _matrix(made, counts)]
    notes = (f"Confusions of more than {MOST_COUNTED:,} classes are not counted.",) if counts is None else ()
    return Section(
        name="confusion",
        kind="tables",
        title="Confusion matrix: what does the model get wrong?",
        label="Confusion",
        lead="Numbers of images by true class (row) and prediction (column). Errors have their own color scale.",
        data={"tables": tables},
        notes=notes,
        hook="",
    )


def _top(made: Survey, counts: np.ndarray) -> dict[str, Any]:
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:TOP]
    places = [(int(one) // len(errors), int(one) % len(errors)) for one in order if errors.flat[one]]
    names = made.stored.classes
    rows = [
        [names[row], names[column], f"{errors[row, column]:,}", _share(errors, counts, row, column),
         made.wrong_keys.get((row, column), "–")]
        for row, column in places
    ]  # fmt: skip
    return {
        "caption": "Most frequent confusions",
        "note": "" if rows else "No misclassified images.",
        "head": ["True class", "Prediction", "Images", "Share of the class", "First key"],
        "rows": rows,
        "is_open": True,
    }


def _share(errors: np.ndarray, counts: np.ndarray, row: int, column: int) -> str:
    return f"{errors[row, column] / counts[row].sum():.1%}"


def _matrix(made: Survey, counts: np.ndarray) -> dict[str, Any]:
    errors = counts - np.diag(counts.diagonal())
    weights = errors.sum(0) + errors.sum(1)
    # classes with the most errors, then those with the most images
    order = np.lexsort((-counts.sum(1), -weights))[:MOST_CLASSES]
    chosen = np.sort(order)
    names = [made.stored.classes[number] for number in chosen.tolist()]
    most = max(1, int(errors[np.ix_(chosen, chosen)].max()))
    best = max(1, int(counts.diagonal()[chosen].max()))
    rows = []
    for row in chosen.tolist():
        cells: list[Any] = [made.stored.classes[row]]
        for column in chosen.tolist():
            count = int(counts[row, column])
            share = (count / (best if row == column else most)) ** 0.5
            tone = "right" if row == column else "wrong"
            cells.append({"text": f"{count:,}" if count else "·", "tone": tone, "share": round(STRONGEST * share)})
        rows.append(cells)
    note = f"The {len(chosen)} of {len(counts):,} classes with the most errors." if len(chosen) < len(counts) else ""
    return {"caption": "Confusion matrix", "note": note, "head": ["true ↓ predicted →", *names], "rows": rows,
            "is_open": True, "is_matrix": True}  # fmt: skip
