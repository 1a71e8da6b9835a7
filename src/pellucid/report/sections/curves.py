"""Learning curves: loss and accuracy over the epochs."""

import math
from typing import Any

from pellucid.report import Material, Section

__all__ = ["curves"]

KEYS = tuple(f"{part}_{quantity}" for quantity in ("loss", "accuracy") for part in ("train", "validation", "test"))


def curves(material: Material) -> Section | None:
    """Build the section with two charts and a table, in which the selected and the best epoch are marked."""
    if not material.metrics or material.run.get("kind") == "inspect":  # a curve needs at least two epochs
        return None
    lines = [{"epoch": line["epoch"]} | {key: _number(line.get(key)) for key in KEYS} for line in material.metrics]
    return Section(
        name="curves",
        kind="curves",
        title="Learning curves",
        lead="Cross-entropy loss in nats and accuracy after each epoch; epoch 0 is the network before training.",
        data={"lines": lines, "best": material.best_epoch},
        hook="",
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
