"""Draw an evaluation as a leaderboard: a table for the terminal, and a figure with the selectivity curves."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from pellucid.evaluation import CONTROLS, Evaluation
from pellucid.evaluation._conclusions import labels, representative
from pellucid.evaluation._evaluation import arrow
from pellucid.plots.leaderboard import Cell, Column, Curves, Line, leaderboard

__all__ = ["leaderboard_figure", "leaderboard_table"]


def leaderboard_table(evaluation: Evaluation) -> Table:
    """Return a table of means: one row per method, the best in bold, those worse than a control dimmed."""
    table = Table(title=f"{evaluation.images} images; ↑ higher is better, ↓ lower is better")
    table.add_column("method", overflow="fold")
    for metric, about in evaluation.metrics.items():
        heading = f"{metric.replace('_', ' ')} {arrow(about)}"
        table.add_column(heading, justify="right", overflow="fold", min_width=6)
    notes = labels(evaluation)
    # below the table, since names of methods leave no room for it in narrow terminals
    table.caption = "; ".join(f"† {method}: {note}" for method, note in notes.items()) or None
    for number, method in enumerate(evaluation.methods, 1):
        # a line between the methods and the controls, which come last
        is_last = method not in CONTROLS and set(evaluation.methods[number:]) <= set(CONTROLS)
        cells = (_cell_text(evaluation, method, metric) for metric in evaluation.metrics)
        table.add_row(f"{method} †" if method in notes else method, *cells, end_section=is_last)
    return table


def _cell_text(evaluation: Evaluation, method: str, metric: str) -> str:
    value = evaluation.value(method, metric)
    if math.isnan(value):
        return "–"
    if method == evaluation.best(metric):
        return f"[bold]{value:.3g}[/bold]"
    is_dim = method not in CONTROLS and (
        evaluation.beaten_by(method, metric) or evaluation.ignores_image(method, metric)
    )
    return f"[dim]{value:.3g}[/dim]" if is_dim else f"{value:.3g}"


def leaderboard_figure(evaluation: Evaluation, title: str) -> Figure:
    """Plot the leaderboard, with the selectivity curves if that metric was measured."""
    folded, equals = _folded(evaluation)
    shown = [method for method in evaluation.methods if method not in folded]
    columns = [
        Column(metric, bool(about["is_higher_better"]), _cells(evaluation, metric, shown))
        for metric, about in evaluation.metrics.items()
    ]
    controls = sum(method in CONTROLS for method in evaluation.methods)
    notes = labels(evaluation)
    lines = [Line(method, "; ".join(filter(None, (equals.get(method), notes.get(method))))) for method in shown]
    headline = (title, f"{evaluation.recommendation.reason} {_how_to_read(evaluation)}")
    return leaderboard(lines, columns, controls, _curves(evaluation, shown), headline)


def _folded(evaluation: Evaluation) -> tuple[set[str], dict[str, str]]:
    """Return the methods that agree with another one, and a note for each of those others."""
    folded, equals = set[str](), dict[str, str]()
    for group in evaluation.agreeing:
        shown = representative(evaluation, group)
        others = [method for method in group.methods if method != shown]
        folded.update(others)
        equals[shown] = f"= {', '.join(others)}"
    return folded, equals


def _how_to_read(evaluation: Evaluation) -> str:
    left_out = sorted({name.partition(",")[0] for name in evaluation.refused})
    return (
        f"{evaluation.images} images; 95% bootstrap interval below each mean; longer bars are better. Bold: "
        "best; ≈: not significantly different from the best; gray: worse than a control, or a map that wins by "
        "construction." + (f" Not applicable: {', '.join(left_out)}." if left_out else "")
    )


def _cells(evaluation: Evaluation, metric: str, shown: Sequence[str]) -> list[Cell]:
    # a method without a row, or without a finite mean, gets an empty cell
    rows = {row.method: row for row in evaluation.rows if row.metric == metric and math.isfinite(row.value)}
    ties, best, won_by = evaluation.ties(metric), evaluation.best(metric), evaluation.metrics[metric]["won_by"]
    return [
        Cell(
            row.value,
            row.low,
            row.high,
            is_best=method == best,
            is_tied=method in ties and method != best,
            is_beaten=method not in CONTROLS and bool(evaluation.beaten_by(method, metric)),
            is_trivial=(method in CONTROLS and method in won_by) or evaluation.ignores_image(method, metric),
        )
        if (row := rows.get(method))
        else Cell()
        for method in shown
    ]


def _curves(evaluation: Evaluation, shown: Sequence[str]) -> Curves | None:
    """Return the selectivity curves of these methods, the steepest first; None if selectivity was not measured."""
    name = next((label for label, about in evaluation.metrics.items() if about["name"] == "selectivity"), None)
    if name is None:
        return None
    measured = [method for method in shown if (method, name) in evaluation.scores]
    curves = {
        method: {part: np.array(points) for part, points in evaluation.scores[method, name].curves.items()}
        for method in sorted(measured, key=lambda method: evaluation.value(method, name))
    }
    output = evaluation.metrics[name]["options"]["output"]
    return Curves(curves, f"{output} of the explained class, mean over images")
