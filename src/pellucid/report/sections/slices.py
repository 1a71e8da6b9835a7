"""Error rates by slice: a sortable table with intervals and images."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.report import Material, Section
from pellucid.report.sections._thumbnails import checked_thumbnails, thumbnail_data
from pellucid.report.sections.figures import end_moment

__all__ = ["slices"]

MOST_ROWS = 200
"""Maximum number of slices in the table."""
NUMBERS = ("images", "errors", "error_rate", "low", "high")


def slices(material: Material) -> Section | None:
    """Build the section from the run's last measurement of slices."""
    tables = material.pairs("slices", _table)
    if not tables:
        return None
    table = tables[max(tables)]
    total, confidence, moment = table["looks"], table["confidence"], end_moment(material)
    notes = [moment] if moment else []
    if len(table["rows"]) < total:
        notes.append(f"The table has the {len(table['rows'])} worst of {total:,} slices.")
    notes += [f"Left out: {name}, because {reason}." for name, reason in table.pop("left_out").items()]
    return Section(
        name="slices",
        kind="slices",
        title="Error rate by slice",
        lead=(
            "A slice is the test images with one value of a column of the metadata, or of one embedding cluster. "
            f"The {confidence:.0%} intervals hold for all {total} slices at once (Clopper–Pearson, Bonferroni). "
            "Difference and p-value compare a slice with the rest (Fisher's exact test, Holm's correction)."
        ),
        data=table,
        guide="slices",
        notes=tuple(notes),
    )


def _table(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the rows with the images of the worst slices; None if the hook has measured nothing."""
    if not record.get("slices"):
        return None
    shown = [int(index) for index in record["shown"]]
    pictures = checked_thumbnails(arrays["thumbnails"], len(shown))
    examples = arrays["examples"]
    if examples.ndim != 2 or examples.dtype.kind not in "iu":
        raise ValueError(f"its examples have dtype {examples.dtype} and shape {examples.shape}")
    rows = [_row(row) for row in record["slices"][:MOST_ROWS]]
    for row, chosen in zip(rows, examples.tolist(), strict=False):
        row["examples"] = [index for index in chosen if index >= 0]
    return {
        "rows": rows,
        "images": int(record["images"]),
        "error_rate": float(record["error_rate"]),
        "confidence": float(record["confidence"]),
        "looks": int(record["looks"]),
        "most": max(row["high"] for row in rows),
        "thumbnails": thumbnail_data(dict(zip(shown, pictures, strict=True)), None),
        "left_out": {str(name): str(reason) for name, reason in dict(record["left_out"]).items()},
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a slice."""
    numbers = {name: float(row[name]) for name in NUMBERS}
    if not all(map(math.isfinite, numbers.values())) or not 0 <= numbers["low"] <= numbers["high"] <= 1:
        raise ValueError(f"the slice {row['column']} = {row['value']} has invalid numbers")
    return {
        "column": str(row["column"]),
        "value": str(row["value"]),
        "detail": f"{float(row['share']):.0%} are {row['majority']}" if "majority" in row else "",
        **numbers,
        "difference": None if row["difference"] is None else float(row["difference"]),
        "p": float(row["adjusted_p"]),
        "verdict": str(row["verdict"]) if row["verdict"] in ("worse", "better") else "",
        "examples": [],
    }
