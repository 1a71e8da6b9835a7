"""Calibration: reliability diagram, calibration error, temperature and risk-coverage curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.report import Material, Section

__all__ = ["calibration"]

BINS = ("counts", "confidence", "accuracy", "low", "high")
"""Columns of a reliability diagram, besides the edges of its bins."""
SCORES = ("accuracy", "confidence", "ece", "expected_ece", "p", "loss")
CLASSES = ("counts", "expected_counts", "ece", "expected_ece", "p", "brier")
TEMPERATURE = ("values", "low", "high", "images", "source", "note")
CURVE = ("coverage", "risk", "best")
MOST_CLASSES = 50
"""Maximum number of classes in the table."""


def calibration(material: Material) -> Section | None:
    """Build the section with the reliability diagrams and the curve of each epoch, and a table of the classes."""
    names = material.classes

    def read(entry: Mapping[str, Any]) -> dict[str, Any] | None:
        record = material.numbers(entry)
        return None if record is None else _epoch(record, names)

    epochs = material.by_epoch(material.entries("calibration", "data"), read)
    if not epochs:
        return None
    count = max(one["class_count"] for one in epochs.values())
    notes = [f"The table shows {MOST_CLASSES} of {count:,} classes, those with the lowest p-values."]
    return Section(
        name="calibration",
        kind="calibration",
        title="Calibration: can its confidence be trusted?",
        lead=(
            "Of the predictions with 80% confidence, 80% should be correct. Points below the diagonal are "
            "overconfident, points above it underconfident. Bars are 95% intervals of the accuracy."
        ),
        data={"epochs": epochs},
        guide="calibration",
        notes=tuple(notes if count > MOST_CLASSES else ()),
    )


def _epoch(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of an epoch; raises an error if a value is missing or of the wrong length."""
    predicted, scaled, curve = record["predicted"], record["scaled"], record["risk_coverage"]
    columns = {name: np.array(curve[name], dtype=float) for name in CURVE}
    if len({values.shape for values in columns.values()}) > 1 or not columns["risk"].size:
        raise ValueError("the columns of the risk-coverage curve differ in length")
    classes = {name: np.array(predicted["classes"][name], dtype=float) for name in CLASSES}
    count = len(classes["counts"])
    if any(values.shape != (count,) for values in classes.values()):
        raise ValueError("the columns of the classes differ in length")
    # the most significant first; among equal ones, those with the largest error beyond the expected one
    order = np.lexsort((classes["expected_ece"] - classes["ece"], classes["p"]))[:MOST_CLASSES]
    return {
        "predicted": _diagram(predicted),
        "scaled": None if scaled is None else _diagram(scaled),
        "temperature": {name: record["temperature"][name] for name in TEMPERATURE},
        "curve": {**columns, "aurc": float(curve["aurc"]), "excess_aurc": float(curve["excess_aurc"])},
        "classes": {name: values[order] for name, values in classes.items()}
        | {"names": [names[label] if label < len(names) else str(label) for label in order.tolist()]},
        "class_count": count,
    }


def _diagram(record: Mapping[str, Any]) -> dict[str, Any]:
    bins = {name: np.array(record["bins"][name], dtype=float) for name in BINS}
    edges = np.array(record["bins"]["edges"], dtype=float)
    if edges.ndim != 1 or any(values.shape != (len(edges) - 1,) for values in bins.values()) or len(edges) < 2:
        raise ValueError("the columns of the reliability diagram differ in length")
    scores = {name: None if record[name] is None else float(record[name]) for name in SCORES}
    return {**scores, "images": int(record["images"]), "draws": int(record["draws"]), "edges": edges, "bins": bins} | {
        "brier": {name: float(value) for name, value in record["brier"].items()}
    }
