"""Which explanation can be trusted: methods by metrics, as a table that can be sorted."""

import math
from collections.abc import Mapping
from typing import Any

from pellucid.evaluation import CONTROLS
from pellucid.evaluation._evaluation import Evaluation, Row
from pellucid.plots.leaderboard import number_text
from pellucid.report._material import Material
from pellucid.report._section import Section
from pellucid.report.sections.figures import end_moment

__all__ = ["leaderboard"]

CURVES = ("share", "most", "least")


def leaderboard(material: Material) -> Section | None:
    """The last leaderboard of the run: every mean with its interval, and what the comparisons say of it."""
    tables = material.by_epoch(
        material.entries("leaderboard", "data"),
        lambda entry: (
            None if (record := material.numbers(entry)) is None else _table(Evaluation.from_dict(record), record)
        ),
    )
    if not tables:
        return None
    table = tables[max(tables)]
    notes = (end_moment(material), *(f"Not applicable: {name}: {why}" for name, why in table.pop("refused").items()))
    return Section(
        name="leaderboard",
        kind="leaderboard",
        title="Which explanation can be trusted",
        lead=(
            f"Every method measured on {table['images']} test images: the mean, and its 95 % bootstrap interval below. "
            "The controls under the line owe nothing to the network; what is worse than one of them says little."
        ),
        data=table,
        guide="evaluation",
        notes=notes,
    )


def _table(found: Evaluation, record: Mapping[str, Any]) -> dict[str, Any]:
    """Columns (a metric each), and rows (a method each) with a cell for each column."""
    rows = {(row.method, row.metric): row for row in found.rows}
    curves, meaning = _curves(found, record)
    return {
        "images": found.images,
        "columns": [_column(name, about) for name, about in found.metrics.items()],
        "rows": [
            {
                "method": method,
                "is_control": method in CONTROLS,
                "cells": [_cell(found, rows.get((method, metric)), metric) for metric in found.metrics],
                "curve": curves.get(method),
            }
            for method in found.methods
        ],
        "curve_meaning": meaning,
        "refused": dict(found.refused),
    }


def _column(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    higher = bool(about["is_higher_better"])
    return {"name": name.replace("_", " "), "asks": str(about["asks"]), "is_higher_better": higher}


def _cell(found: Evaluation, row: Row | None, metric: str) -> dict[str, Any] | None:
    """A mean and its interval as texts, the value to sort by, and what is to be said of it; None: not measured."""
    if row is None or not math.isfinite(row.value):
        return None
    best, beaten_by = found.best(metric), found.beaten_by(row.method, metric)
    is_control = row.method in CONTROLS
    verdict, said = "", ""
    if row.method == best:
        verdict, said = "best", "best"
    elif row.method in found.ties(metric):
        verdict, said = "tied", "≈ best"
    if not is_control and beaten_by:
        said = ", ".join(part for part in (said, f"worse than {_listed(beaten_by)}") if part)
        verdict = verdict if verdict == "best" else "beaten"
    elif is_control and row.method in found.metrics[metric]["won_by"]:
        verdict, said = "trivial", "wins by construction"
    return {
        "value": row.value,
        "text": number_text(row.value),
        "interval": f"{number_text(row.low)} … {number_text(row.high)}",
        "verdict": verdict,
        "said": said,
    }


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _curves(found: Evaluation, record: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The curves of selectivity by method, and what their height is."""
    metric = next((name for name, about in found.metrics.items() if about["name"] == "selectivity"), None)
    drawn = record.get("curves", {})
    if metric is None or not isinstance(drawn, dict):
        return {}, ""
    curves = {
        method: {part: [float(value) for value in lines[part]] for part in CURVES}
        for method in found.methods
        if (lines := drawn.get(f"{metric}, {method}"))
    }
    return curves, f"explained class's {found.metrics[metric]['options']['output']}"
