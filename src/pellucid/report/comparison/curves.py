"""Learning curves of the compared runs on one scale."""

import math
from typing import Any

from pellucid.report import Section
from pellucid.report.comparison._comparison import Comparison

__all__ = ["curves"]

KEYS = tuple(f"{part}_{quantity}" for quantity in ("loss", "accuracy") for part in ("train", "validation", "test"))


def curves(comparison: Comparison) -> Section | None:
    """Build the section with the curves of each folder once; None if no run has two epochs."""
    seen: dict[str, dict[str, Any]] = {}
    for model in comparison.models:
        key = str(model.folder.resolve())
        if key not in seen:
            seen[key] = {"name": model.run, "setting": model.setting, "lines": _lines(model.metrics), "marks": []}
        seen[key]["marks"].append({"epoch": model.epoch, "name": model.name})
    runs = [run for run in seen.values() if len(run["lines"]) > 1]
    if not runs:
        return None
    # the page draws a single setting's seeds in colors of their own
    has_means = len(comparison.settings) > 1 and any(len(setting.models) > 1 for setting in comparison.settings)
    return Section(
        name="curves",
        kind="compare_curves",
        title="Learning curves",
        lead="After each epoch; epoch 0 is the network before training. Circles mark the compared weights."
        + (" Thin lines are seeds, thick lines their mean." if has_means else ""),
        data={"runs": runs, "settings": [setting.name for setting in comparison.settings]},
        hook="",
    )


def _lines(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"epoch": line["epoch"], **{key: _number(line.get(key)) for key in KEYS}} for line in metrics]


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
