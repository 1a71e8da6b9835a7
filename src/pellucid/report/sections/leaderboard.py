"""Leaderboard of explanation methods: a sortable table of methods by metrics."""

import math
from collections.abc import Mapping
from typing import Any

from pellucid.core.text import listed
from pellucid.evaluation import CONTROLS, Evaluation, Row
from pellucid.evaluation._conclusions import labels, representative
from pellucid.plots.leaderboard import number_text, positions
from pellucid.report import Material, Section
from pellucid.report.sections.figures import end_moment

__all__ = ["leaderboard"]

CURVES = ("share", "most", "least")


def leaderboard(material: Material) -> Section | None:
    """Build the section from the run's last leaderboard, with intervals, comparisons and conclusions."""
    tables = material.by_epoch(
        material.entries("leaderboard", "data"),
        lambda entry: (
            None if (record := material.numbers(entry)) is None else _table(Evaluation.from_dict(record), record)
        ),
    )
    if not tables:
        return None
    table = tables[max(tables)]
    # taken out of the data for the script, since the reasons are shown as notes
    moment = end_moment(material)
    notes = (
        *([moment] if moment else []),
        *(f"Not applicable: {name}: {why}" for name, why in table.pop("refused").items()),
        *(f"Left out: {name}. {why}" for name, why in table.pop("left_out").items()),
    )
    return Section(
        name="leaderboard",
        kind="leaderboard",
        title="Leaderboard: which explanations can be trusted?",
        lead=(
            f"Mean score of every method on {table['images']} test images, with its 95% bootstrap interval. Within "
            "each column, longer bars are better. The controls below the line ignore the network: a method that "
            "scores worse than a control explains little."
        ),
        data=table,
        guide="evaluation",
        notes=notes,
    )


def _table(evaluation: Evaluation, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conclusions, one column per metric, and one row per method with a cell for each column."""
    rows = {(row.method, row.metric): row for row in evaluation.rows}
    curves, meaning = _curves(evaluation, record)
    bars = {metric: _bars(evaluation, metric) for metric in evaluation.metrics}
    notes, recommended = labels(evaluation), evaluation.recommendation
    return {
        "images": evaluation.images,
        "recommended": recommended.method,
        "reason": recommended.reason,
        "columns": [_column(name, about) for name, about in evaluation.metrics.items()],
        "rows": [
            {
                "method": method,
                "is_control": method in CONTROLS,
                "note": notes.get(method, ""),
                "cells": [
                    _cell(evaluation, rows.get((method, metric)), metric, bars[metric].get(method, 0.0))
                    for metric in evaluation.metrics
                ],
                "curve": curves.get(method),
            }
            for method in evaluation.methods
        ],
        "groups": [
            {"shown": representative(evaluation, group), "methods": list(group.methods), "reason": group.reason}
            for group in evaluation.agreeing
        ],
        "curve_meaning": meaning,
        "refused": dict(evaluation.refused),
        "left_out": dict(record.get("left_out") or {}),
    }


def _column(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name.replace("_", " "),
        "is_higher_better": bool(about["is_higher_better"]),
        # records of older versions have only the question
        **{part: str(about.get(part, "")).replace("`", "") for part in ("asks", "definition", "weakness", "source")},
    }


def _bars(evaluation: Evaluation, metric: str) -> dict[str, float]:
    """Return the length of each method's bar, from the worst (0) to the best (1) of the column."""
    values = {method: evaluation.value(method, metric) for method in evaluation.methods}
    shares = positions(list(values.values()), bool(evaluation.metrics[metric]["is_higher_better"]))
    return {method: round(share, 4) for method, share in zip(values, shares, strict=True) if math.isfinite(share)}


def _cell(evaluation: Evaluation, row: Row | None, metric: str, bar: float) -> dict[str, Any] | None:
    """Return a mean and its interval as text, the value to sort by and a verdict; None if not measured."""
    if row is None or not math.isfinite(row.value):
        return None
    best, beaten_by = evaluation.best(metric), evaluation.beaten_by(row.method, metric)
    is_control = row.method in CONTROLS
    verdict, said = "", ""
    if row.method == best:
        verdict, said = "best", "best"
    elif row.method in evaluation.ties(metric):
        verdict, said = "tied", "≈ best"
    if evaluation.ignores_image(row.method, metric) and not is_control:
        verdict, said = "trivial", labels(evaluation)[row.method]
    elif not is_control and beaten_by:
        said = ", ".join(part for part in (said, f"worse than {listed(beaten_by)}") if part)
        # the best method keeps its mark; the text still says which controls are better
        verdict = verdict if verdict == "best" else "beaten"
    elif is_control and row.method in evaluation.metrics[metric]["won_by"]:
        verdict, said = "trivial", "wins by construction"
    return {
        "value": row.value,
        "text": number_text(row.value),
        "interval": f"{number_text(row.low)} … {number_text(row.high)}",
        "bar": bar,
        "verdict": verdict,
        "said": said,
    }


def _curves(evaluation: Evaluation, record: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the selectivity curves by method, and the meaning of their vertical axis."""
    metric = next((name for name, about in evaluation.metrics.items() if about["name"] == "selectivity"), None)
    drawn = record.get("curves", {})
    if metric is None or not isinstance(drawn, dict):
        return {}, ""
    curves = {
        method: {part: [float(value) for value in lines[part]] for part in CURVES}
        for method in evaluation.methods
        if (lines := drawn.get(f"{metric}, {method}"))
    }
    return curves, f"explained class's {evaluation.metrics[metric]['options']['output']}"
