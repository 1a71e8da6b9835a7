"""What an evaluation found: rows, comparisons, curves; as JSON, CSV and a table."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from rich.table import Table

from pellucid.evaluation import CONTROLS, METRICS
from pellucid.evaluation._metric import Measured
from pellucid.evaluation._statistics import compare, intervals

__all__ = ["Comparison", "Evaluation", "Row", "Scores"]

CERTAIN = 0.05
"""The adjusted p below which a difference counts."""


@dataclass(frozen=True)
class Row:
    """One metric of one method: the mean over the images, and its 95 % bootstrap interval."""

    method: str
    metric: str
    value: float
    low: float
    high: float
    images: int
    """Those of which the metric says something."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Means of the metric's other numbers."""


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images."""

    metric: str
    method: str
    other: str
    difference: float
    """Mean of the method's values less the other's."""
    p: float
    """Two-sided, by random sign flips of the paired differences, adjusted by Holm for all pairs of the metric."""


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric of one method, image by image: what is kept so that an evaluation can be resumed."""

    values: list[float | None]
    beside: dict[str, list[float | None]]
    curves: dict[str, list[float]]

    @staticmethod
    def of(measured: Measured) -> "Scores":
        """Plain numbers of what a metric returned; NaN becomes None."""
        return Scores(
            _listed(measured.values),
            {name: _listed(values) for name, values in measured.beside.items()},
            {name: values.double().tolist() for name, values in measured.curves.items()},
        )


def _listed(values: Any) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.double().tolist()]


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _array(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How good several explanation methods are, by several metrics, on the same images and draws."""

    methods: tuple[str, ...]
    """In the order asked for; the controls at the end."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Each metric by its label: `name`, `options`, `asks`, `is_higher_better`, `low`, `high`, `won_by`."""
    scores: Mapping[tuple[str, str], Scores]
    """By method and metric, image by image."""
    images: int
    seed: int
    refused: Mapping[str, str] = field(default_factory=dict)
    """Methods (or METHOD, METRIC pairs) that do not apply, and why."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Clock time by metric, of what was computed now."""

    def __repr__(self) -> str:
        """The means, a line for each method; the best of each metric with a star."""
        heading = [
            "",
            *(f"{metric} {'↑' if told['is_higher_better'] else '↓'}" for metric, told in self.metrics.items()),
        ]
        best = {metric: self.best(metric) for metric in self.metrics}
        table = [heading]
        for method in self.methods:
            stars = ("*" if method == best[metric] else " " for metric in self.metrics)
            means = (self.value(method, metric) for metric in self.metrics)
            table.append([method, *(f"{mean:.3f}{star}" for mean, star in zip(means, stars, strict=True))])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        first, *others = widths
        rows = ("  ".join([f"{row[0]:<{first}}", *map(str.rjust, row[1:], others)]).rstrip() for row in table)
        return "\n".join([f"Evaluation of {self.images} images, seed {self.seed}", *rows])

    @cached_property
    def rows(self) -> list[Row]:
        """One row per metric and method, metric by metric."""
        return [row for metric in self.metrics for row in self._rows(metric)]

    def _rows(self, metric: str) -> list[Row]:
        found = [(method, self.scores[method, metric]) for method in self.methods if (method, metric) in self.scores]
        if not found:
            return []
        values = np.column_stack([_array(scores.values) for _, scores in found])
        means, lows, highs = intervals(values, self.seed)
        return [
            Row(
                method,
                metric,
                float(means[number]),
                float(lows[number]),
                float(highs[number]),
                int((~np.isnan(values[:, number])).sum()),
                {name: float(np.nanmean(_array(other))) for name, other in scores.beside.items()},
            )
            for number, (method, scores) in enumerate(found)
        ]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every pair of methods by every metric: the paired difference, and whether it is more than chance."""
        made = []
        for metric in self.metrics:
            values = {m: _array(self.scores[m, metric].values) for m in self.methods if (m, metric) in self.scores}
            made += [Comparison(metric, *pair) for pair in compare(values, self.seed)]
        return made

    def value(self, method: str, metric: str) -> float:
        """One mean; NaN where the method was not measured."""
        return next((r.value for r in self.rows if (r.method, r.metric) == (method, metric)), math.nan)

    def best(self, metric: str) -> str | None:
        """The method, controls apart, with the best mean."""
        sign = 1 if self.metrics[metric]["is_higher_better"] else -1
        rows = [r for r in self.rows if r.metric == metric and r.method not in CONTROLS and math.isfinite(r.value)]
        return max(rows, key=lambda row: sign * row.value).method if rows else None

    def ties(self, metric: str) -> set[str]:
        """The methods that differ from the best one by no more than chance would make, itself included."""
        best = self.best(metric)
        close = {
            ({pair.method, pair.other} - {best}).pop()
            for pair in self.comparisons
            if pair.metric == metric and best in (pair.method, pair.other) and pair.p >= CERTAIN
        }
        return (close | ({best} if best else set())) - set(CONTROLS)

    def beaten_by(self, method: str, metric: str) -> list[str]:
        """The controls whose mean is better than the method's; those that win by construction are left out."""
        about = self.metrics[metric]
        sign, own = (1 if about["is_higher_better"] else -1), self.value(method, metric)
        others = [name for name in CONTROLS if name in self.methods and name not in about["won_by"] and name != method]
        return [name for name in others if sign * self.value(name, metric) > sign * own]

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "Evaluation":
        """The evaluation that `to_dict` told of: its rows and comparisons, with no values of single images.

        Raises `KeyError`, `TypeError` or `ValueError` where the record is not such a one.
        """
        about, methods = dict(record["metrics"]), tuple(map(str, record["methods"]))
        found = Evaluation(methods, about, {}, int(record["images"]), int(record["seed"]), dict(record["refused"]))
        rows = [
            Row(**{**row, **{name: _nan(row[name]) for name in ("value", "low", "high")}}) for row in record["rows"]
        ]
        pairs = [Comparison(**{**pair, "p": _nan(pair["p"])}) for pair in record["comparisons"]]
        vars(found).update(rows=rows, comparisons=pairs)  # what the cached properties would compute from the scores
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values of single images, as JSON can hold it: what is not finite is None."""
        told: dict[str, Any] = _finite(self._told())
        return told

    def _told(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "seed": self.seed,
            "methods": list(self.methods),
            "metrics": {name: dict(about) for name, about in self.metrics.items()},
            "rows": [asdict(row) for row in self.rows],
            "best": {metric: self.best(metric) for metric in self.metrics},
            "comparisons": [asdict(pair) for pair in self.comparisons],
            "curves": {
                f"{metric}, {method}": scores.curves
                for (method, metric), scores in self.scores.items()
                if scores.curves
            },
            "refused": dict(self.refused),
            "timing": {"seconds": dict(self.seconds)},
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_csv(self) -> str:
        """The rows, with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "metric", "value", "low", "high", "images"])
        writer.writerows([row.method, row.metric, row.value, row.low, row.high, row.images] for row in self.rows)
        return text.getvalue()

    def to_table(self) -> Table:
        """For the terminal: a line per method, a column per metric; the best bold, worse than a control dim."""
        table = Table(title=f"{self.images} images; ↑ higher is better, ↓ lower is better")
        table.add_column("method", overflow="fold")
        for metric, about in self.metrics.items():
            arrow = "↑" if about["is_higher_better"] else "↓"
            table.add_column(f"{metric.replace('_', ' ')} {arrow}", justify="right", overflow="fold", min_width=6)
        for method in self.methods:
            is_last = method == self.methods[-1] or (method not in CONTROLS and self._next(method) in CONTROLS)
            table.add_row(method, *(self._cell(method, metric) for metric in self.metrics), end_section=is_last)
        return table

    def _next(self, method: str) -> str:
        return self.methods[self.methods.index(method) + 1]

    def _cell(self, method: str, metric: str) -> str:
        value = self.value(method, metric)
        if math.isnan(value):
            return "–"
        if method == self.best(metric):
            return f"[bold]{value:.3g}[/bold]"
        dim = method not in CONTROLS and self.beaten_by(method, metric)
        return f"[dim]{value:.3g}[/dim]" if dim else f"{value:.3g}"


def about_metric(name: str, metric: Any) -> dict[str, Any]:
    """What `Evaluation.metrics` tells of a metric."""
    return {
        "name": name,
        "options": asdict(metric),
        "asks": metric.asks,
        "is_higher_better": metric.is_higher_better,
        "low": metric.low if math.isfinite(metric.low) else None,
        "high": metric.high if math.isfinite(metric.high) else None,
        "won_by": sorted(metric.won_by),
    }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def name_of(metric: Any) -> str:
    """The name a metric's type is registered under."""
    return next(name for name, entry in METRICS._entries.items() if entry is type(metric))
