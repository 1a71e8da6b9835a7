"""Results of an evaluation: means, comparisons and curves, as JSON, CSV and a table."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pellucid.core.cards import card, table_html, text_html
from pellucid.evaluation import CONTROLS
from pellucid.evaluation._conclusions import Group, agreeing, name_in, remarks
from pellucid.evaluation._metric import Measured
from pellucid.evaluation._recommendation import Recommendation, recommend
from pellucid.evaluation._statistics import compare, intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["Comparison", "Evaluation", "Row", "Scores", "arrow"]

CERTAIN = 0.05
"""Significance level for the adjusted p."""


@dataclass(frozen=True)
class Row:
    """One metric of one method: the mean over the images, with its 95% bootstrap interval."""

    method: str
    metric: str
    value: float
    low: float
    high: float
    images: int
    """Number of images for which the metric is defined."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Means of the metric's secondary values."""


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two methods on the same images."""

    metric: str
    method: str
    other: str
    difference: float
    """Mean of the method's values minus the other's."""
    p: float
    """Two-sided p of a paired sign-flip test, Holm-adjusted over all pairs of the metric."""


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric of one method, image by image; cached so that an evaluation can be resumed."""

    values: list[float | None]
    beside: dict[str, list[float | None]]
    curves: dict[str, list[float]]

    @staticmethod
    def of(measured: Measured) -> "Scores":
        """Convert a metric's result to plain numbers; NaN becomes None."""
        return Scores(
            _as_list(measured.values),
            {name: _as_list(values) for name, values in measured.beside.items()},
            {name: values.double().tolist() for name, values in measured.curves.items()},
        )


def _as_list(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.double().tolist()]


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _array(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """The quality of explanation methods by several metrics, on the same images and random draws."""

    methods: tuple[str, ...]
    """In the requested order, with the controls last."""
    metrics: Mapping[str, Mapping[str, Any]]
    """Description of each metric by label: `name`, `options`, `asks`, `is_higher_better`, `low`, `high`, `won_by`."""
    scores: Mapping[tuple[str, str], Scores]
    """Scores by (method, metric)."""
    images: int
    seed: int
    refused: Mapping[str, str] = field(default_factory=dict)
    """Methods (or METHOD, METRIC pairs) that do not apply, with the reason."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Clock time by metric, excluding cached results."""
    same_map: tuple[str, ...] | None = None
    """Methods whose map of a class is the same for every image; None if the images were not compared."""

    def __repr__(self) -> str:
        """Return a table of means, one line per method; a star marks the best method of each metric."""
        heading = ["", *(f"{metric} {arrow(about)}" for metric, about in self.metrics.items())]
        best = {metric: self.best(metric) for metric in self.metrics}
        table = [heading]
        for method in self.methods:
            stars = ("*" if method == best[metric] else " " for metric in self.metrics)
            means = (self.value(method, metric) for metric in self.metrics)
            table.append([method, *(f"{mean:.3f}{star}" for mean, star in zip(means, stars, strict=True))])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        first, *others = widths
        rows = ("  ".join([f"{row[0]:<{first}}", *map(str.rjust, row[1:], others)]).rstrip() for row in table)
        return "\n".join([f"Evaluation of {self.images} images, seed {self.seed}", *rows, *self.conclusions])

    def _repr_html_(self) -> str:
        """Return the table of means as HTML for notebooks; the best method of each metric is marked by a star."""
        best = {metric: self.best(metric) for metric in self.metrics}
        heading = ["method", *(f"{metric.replace('_', ' ')} {arrow(about)}" for metric, about in self.metrics.items())]
        rows = [
            [method, *(f"{self.value(method, metric):.3f}{' ★' * (method == best[metric])}" for metric in self.metrics)]
            for method in self.methods
        ]
        rows = [[cell.replace("nan", "–") for cell in row] for row in rows]
        refused = "; ".join(f"{name} ({why})" for name, why in self.refused.items())
        return card(
            f"Evaluation of {self.images} images",
            text_html(f"Seed {self.seed}. ↑ higher is better, ↓ lower is better; ★ best. Controls come last."),
            text_html(self.recommendation.reason),
            table_html(heading, rows),
            *(text_html(text) for text in self.conclusions[1:]),
            text_html(f"Not applicable: {refused}" if refused else ""),
        )

    @cached_property
    def rows(self) -> list[Row]:
        """One row per metric and method, ordered by metric."""
        return [row for metric in self.metrics for row in self._rows(metric)]

    def _rows(self, metric: str) -> list[Row]:
        measured = [(method, self.scores[method, metric]) for method in self.methods if (method, metric) in self.scores]
        if not measured:
            return []
        # all methods in one call, so that they share the resamples
        values = np.column_stack([_array(scores.values) for _, scores in measured])
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
            for number, (method, scores) in enumerate(measured)
        ]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Paired comparisons of all methods, for every metric."""
        comparisons = []
        for metric in self.metrics:
            values = {m: _array(self.scores[m, metric].values) for m in self.methods if (m, metric) in self.scores}
            comparisons += [Comparison(metric, *pair) for pair in compare(values, self.seed)]
        return comparisons

    @cached_property
    def recommendation(self) -> Recommendation:
        """The method to use by this evaluation, with the reason; `Recommendation.method` is None if it supports none.

        The method is significantly better than every control in a faithfulness metric (such as `selectivity`), and
        worse than none in any. Its map depends on the image, on the class and on the weights. Statistical ties are
        broken by the other metrics.
        """
        return recommend(self)

    @property
    def conclusions(self) -> list[str]:
        """Conclusions in sentences: the recommendation, agreeing methods, and methods to be wary of."""
        warnings = [f"{name_in(self, method)}: {remark}." for method, remark in remarks(self).items()]
        return [self.recommendation.reason, *(group.reason for group in self.agreeing), *warnings]

    @cached_property
    def agreeing(self) -> list[Group]:
        """Groups of methods whose means agree to three digits in every metric."""
        return agreeing(self)

    @cached_property
    def constant_maps(self) -> dict[str, str]:
        """Methods whose map ignores the image, with what was observed; they win `continuity` by construction.

        If the maps of different images were not compared, as by older versions, the map must have stayed exactly the
        same under every shift of `continuity`.
        """
        if self.same_map is not None:
            return dict.fromkeys(self.same_map, "its map for a given class is the same for every image")
        shifts = [
            metric
            for metric, about in self.metrics.items()
            if about["name"] == "continuity" and about["options"].get("pixels")
        ]
        rows = [row for row in self.rows if row.metric in shifts and row.method not in CONTROLS]
        # the values are not negative, so the interval is 0 … 0 only if all of them are 0
        steady = [row.method for row in rows if row.value == 0 and row.high == 0]
        return dict.fromkeys(steady, "its map stays the same when the image is shifted")

    @cached_property
    def _values(self) -> dict[tuple[str, str], float]:
        return {(row.method, row.metric): row.value for row in self.rows}

    @cached_property
    def _pairs(self) -> dict[tuple[str, str, str], Comparison]:
        pairs = {(pair.metric, pair.method, pair.other): pair for pair in self.comparisons}
        return {**pairs, **{(metric, other, method): pair for (metric, method, other), pair in pairs.items()}}

    def value(self, method: str, metric: str) -> float:
        """Return the mean; NaN if the method was not measured."""
        return self._values.get((method, metric), math.nan)

    def score(self, method: str, metric: str) -> float:
        """Return the mean with the sign that makes higher better."""
        return self.value(method, metric) * (1 if self.metrics[metric]["is_higher_better"] else -1)

    def is_tied(self, method: str, other: str, metric: str) -> bool:
        """Return True if the methods were compared and do not differ significantly."""
        pair = self._pairs.get((metric, method, other))
        return pair is not None and pair.p >= CERTAIN

    def is_better(self, method: str, other: str, metric: str) -> bool:
        """Return True if the method is significantly better than the other."""
        pair = self._pairs.get((metric, method, other))
        if pair is None or not pair.p < CERTAIN:
            return False
        # that of the images on which both are defined, as for p; the means can be over different ones
        difference = pair.difference if pair.method == method else -pair.difference
        return difference > 0 if self.metrics[metric]["is_higher_better"] else difference < 0

    def ignores_image(self, method: str, metric: str) -> bool:
        """Return True if the method's map ignores the image and the metric rewards that."""
        return method in self.constant_maps and "constant" in self.metrics[metric]["won_by"]

    def best(self, metric: str) -> str | None:
        """Return the method with the best mean, excluding controls.

        A metric that any constant map wins, such as `continuity`, also excludes the methods with `constant_maps`.
        """
        ranked = [
            method
            for method in self.methods
            if method not in CONTROLS
            and math.isfinite(self.value(method, metric))
            and not self.ignores_image(method, metric)
        ]
        return max(ranked, key=lambda method: self.score(method, metric), default=None)

    def ties(self, metric: str) -> set[str]:
        """Return the methods that do not differ significantly from the best one, including the best."""
        best = self.best(metric)
        if best is None:
            return set()
        ranked = {method for method in self.methods if not self.ignores_image(method, metric)} - set(CONTROLS)
        known = {method for method in ranked if math.isfinite(self.value(method, metric))}
        return {best} | {method for method in known if self.is_tied(method, best, metric)}

    def beaten_by(self, method: str, metric: str) -> list[str]:
        """Return the controls with a better mean than the method, except controls that win by construction."""
        about = self.metrics[metric]
        sign, own = (1 if about["is_higher_better"] else -1), self.value(method, metric)
        others = [name for name in CONTROLS if name in self.methods and name not in about["won_by"] and name != method]
        return [name for name in others if sign * self.value(name, metric) > sign * own]

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> "Evaluation":
        """Restore an evaluation from `to_dict`: its rows and comparisons, without per-image values.

        Raises `KeyError`, `TypeError` or `ValueError` for an invalid record.
        """
        about, methods = dict(record["metrics"]), tuple(map(str, record["methods"]))
        evaluation = Evaluation(
            methods,
            about,
            {},
            int(record["images"]),
            int(record["seed"]),
            dict(record["refused"]),
            # missing in records of older versions
            same_map=None if record.get("same_map") is None else tuple(map(str, record["same_map"])),
        )
        rows = [
            Row(**{**row, **{name: _nan(row[name]) for name in ("value", "low", "high")}}) for row in record["rows"]
        ]
        pairs = [
            Comparison(**{**pair, **{name: _nan(pair[name]) for name in ("difference", "p")}})
            for pair in record["comparisons"]
        ]
        vars(evaluation).update(rows=rows, comparisons=pairs)  # fills the cached properties, since `scores` is empty
        return evaluation

    def to_dict(self) -> dict[str, Any]:
        """Return everything except per-image values, as JSON values; non-finite numbers become None."""
        record = {
            "images": self.images,
            "seed": self.seed,
            "methods": list(self.methods),
            "metrics": {name: dict(about) for name, about in self.metrics.items()},
            "rows": [asdict(row) for row in self.rows],
            "best": {metric: self.best(metric) for metric in self.metrics},
            "recommendation": asdict(self.recommendation),
            "agreeing": [asdict(group) for group in self.agreeing],
            "same_map": None if self.same_map is None else list(self.same_map),
            "comparisons": [asdict(pair) for pair in self.comparisons],
            "curves": {
                f"{metric}, {method}": scores.curves
                for (method, metric), scores in self.scores.items()
                if scores.curves
            },
            "refused": dict(self.refused),
            "timing": {"seconds": dict(self.seconds)},
        }
        return dict(_finite(record))

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_csv(self) -> str:
        """Return the rows as CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "metric", "value", "low", "high", "images"])
        writer.writerows([row.method, row.metric, row.value, row.low, row.high, row.images] for row in self.rows)
        return text.getvalue()

    def to_table(self) -> "Table":
        """Return a terminal table: one row per method, the best in bold, those worse than a control dimmed."""
        from pellucid.evaluation._leaderboard import leaderboard_table

        return leaderboard_table(self)

    def figure(self, title: str = "Which explanation can be trusted?") -> "Figure":
        """Plot the leaderboard: best method in bold, controls below a line, gray if worse than a control."""
        # imported here, because evaluations are computed and saved without matplotlib
        from pellucid.evaluation._leaderboard import leaderboard_figure

        return leaderboard_figure(self, title)


def arrow(about: Mapping[str, Any]) -> str:
    """Return an arrow up for a metric that is better if it is higher, and an arrow down for any other."""
    return "↑" if about["is_higher_better"] else "↓"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
