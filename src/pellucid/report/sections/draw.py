"""Predictions and maps of drawn and dropped images: the network itself, as a program for the page's script."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.report import Material, Section
from pellucid.report.sections.explain import packed
from pellucid.report.sections.figures import end_moment

__all__ = ["draw"]

STYLE = ("background", "box", "center", "at", "stroke")


def draw(material: Material) -> Section | None:
    """Build the section from the hook `live`: a network, or the reason why the page cannot run it."""
    made = material.pairs("live", lambda arrays, record: _data(arrays, record))
    entries = material.entries("live", "data", "left_out")
    reasons = material.by_epoch(entries, lambda entry: (material.numbers(entry) or {}).get("reason"))
    # of a run that was extended, only the last network counts
    if made and max(made) >= max(reasons, default=-1):
        return _section(made[max(made)], f"{end_moment(material)} Independent of the epoch slider.".strip())
    return _section({"reason": str(reasons[max(reasons)]).rstrip(".")}) if reasons else None


def _section(data: Mapping[str, Any], *notes: str) -> Section:
    is_drawing = data.get("drawing") is not None or "reason" in data
    return Section(
        name="draw",
        kind="draw",
        title="Draw: what does the network predict?" if is_drawing else "Try an image: what does the network predict?",
        lead=""
        if "reason" in data
        else f"{'Draw with the mouse or a finger, drop' if is_drawing else 'Drop'} an image file, or start from a test "
        "image. The network runs in this page, even offline. Nothing is sent anywhere.",
        data=data,
        notes=notes,
        guide="report",
        hook="live",
    )


def _data(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> dict[str, Any]:
    """Check the output of the hook; raises `KeyError`, `TypeError` or `ValueError` for invalid files."""
    program, examples = dict(record["program"]), np.asarray(arrays["examples"])
    shape = [int(size) for size in program["input"]]
    columns = {name: [int(value) for value in record[name]] for name in ("indices", "labels", "predictions")}
    if examples.dtype != np.uint8 or list(examples.shape[1:]) != shape:
        raise ValueError(
            f"its examples have dtype {examples.dtype} and shape {examples.shape}, expected uint8 of {shape}"
        )
    if any(len(column) != len(examples) for column in columns.values()):
        raise ValueError(f"its labels do not match its {len(examples)} examples")
    drawing = record.get("drawing")
    return {
        "model": {
            "program": program,
            "weights": packed(np.asarray(arrays["weights"], np.float32)),
            "indices": packed(np.asarray(arrays["indices"], np.int32)),
        },
        "drawing": None if drawing is None else {name: drawing[name] for name in STYLE},
        "crop_share": float(record.get("crop_share", 1.0)),
        "examples": {
            "bytes": packed(examples.transpose(0, 2, 3, 1)),
            **columns,
            "confidences": [float(value) for value in record["confidences"]],
        },
        "has_images": True,
    }
