"""Layers of the network as a table, with the filters of the first layer after each epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pellucid.plots.colours import scale_limit
from pellucid.report import Material, Section
from pellucid.report.sections.explain import packed

__all__ = ["network"]

STEPS = 127
"""Quantization steps on each side of zero."""


def network(material: Material) -> Section | None:
    """Build the section from the hook `network`: the layers of the last epoch, and the filters of every epoch."""
    records = material.by_epoch(
        material.entries("network", "data"),
        lambda entry: None if (record := material.numbers(entry)) is None else _record(record),
    )
    if not records:
        return None
    latest = records[max(records)]
    filters = material.by_epoch(
        material.entries("network", "arrays"),
        lambda entry: None if (arrays := material.arrays(entry)) is None else _filters(arrays),
    )
    return Section(
        name="network",
        kind="network",
        title="Network: layers and filters",
        lead=f"{len(latest['layers'])} layers, {latest['parameters']:,} parameters, in the order of a forward pass.",
        data={**latest, "filters": filters, "count": latest["filters"]},
    )


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            "name": str(row["name"]),
            "kind": str(row["kind"]),
            "detail": str(row["detail"]),
            "shape": "–" if row["shape"] is None else " × ".join(str(int(side)) for side in row["shape"]) or "1",
            "parameters": int(row["parameters"]),
            "calls": int(row["calls"]),
        }
        for row in record["layers"]
    ]
    return {"layers": rows, "parameters": int(record["parameters"]), "filters": int(record["filters"])}


def _filters(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    values = arrays["filters"].astype(float)
    if values.ndim != 4 or values.shape[1] not in (1, 3) or not values.size or not np.isfinite(values).all():
        raise ValueError(f"its filters have shape {values.shape}, or are not finite")
    limit = scale_limit(values)
    # the channels last, as in pixels
    steps = np.rint(values.transpose(0, 2, 3, 1) / limit * STEPS).clip(-STEPS, STEPS).astype(np.int8)
    return {"shape": steps.shape, "limit": float(f"{limit:.4g}"), "bytes": packed(steps)}
