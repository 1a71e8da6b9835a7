"""The most faithful methods of an evaluation, and the recommended one.

Both follow from the means and the Holm-adjusted paired tests of the evaluation. Where these support no method, none is
recommended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from pellucid.core.text import listed
from pellucid.evaluation import CONTROLS
from pellucid.evaluation._conclusions import name_in, remarks

if TYPE_CHECKING:
    from pellucid.evaluation._evaluation import Evaluation

__all__ = [
    "FAITHFULNESS",
    "Recommendation",
    "beats_controls",
    "faithfulness",
    "most_faithful",
    "number_text",
    "qualified",
    "recommend",
    "relation",
]

FAITHFULNESS = ("selectivity", "deletion", "insertion", "road", "roar", "sensitivity_n", "infidelity")
"""Metrics that compare a map with the effect of changed pixels on the output."""


@dataclass(frozen=True)
class Recommendation:
    """The explanation method that an evaluation supports best, and why."""

    method: str | None
    """Label as in `Evaluation.methods`; None if the evaluation supports none."""
    reason: str
    tied: tuple[str, ...] = ()
    """Methods whose faithfulness does not differ significantly from the recommended one's."""
    metrics: tuple[str, ...] = ()
    """Faithfulness metrics that were measured."""


def recommend(evaluation: "Evaluation") -> Recommendation:
    """Return the recommended method with its reason.

    Candidates are significantly better than every control in a faithfulness metric and worse than none in any, and
    their maps depend on the image, on the class and on the weights. Those that lead in most faithfulness metrics
    remain: the best, and the ones that do not differ significantly from it. Of several, the one with the most
    significant advantages over the others in all other metrics is recommended, or else the one with the best mean.
    """
    metrics = faithfulness(evaluation)
    if not metrics:
        return Recommendation(None, f"No faithfulness metric was measured, such as {FAITHFULNESS[0]}.")
    faithful, notes = qualified(evaluation, metrics), remarks(evaluation)
    leaders = _leaders(evaluation, [method for method in faithful if method not in notes], metrics)
    refused = [method for method in _leaders(evaluation, faithful, metrics) if method in notes]
    rejected = "".join(f" {name_in(evaluation, one)} is not recommended: {notes[one]}." for one in refused)
    if not leaders:
        return Recommendation(
            None, f"No method is recommended. {rejected.strip() or _shortfall(evaluation, metrics)}", (), metrics
        )
    others = {one: [other for other in leaders if other != one] for one in leaders}
    chosen = max(
        leaders,
        key=lambda one: (_advantages(evaluation, one, others[one], metrics), evaluation.score(one, metrics[0])),
    )
    reason = _reason(evaluation, chosen, others[chosen], metrics)
    tied = tuple(one for one in others[chosen] if _are_tied(evaluation, chosen, one, metrics))
    return Recommendation(chosen, reason + rejected, tied, metrics)


def most_faithful(evaluation: "Evaluation") -> tuple[str, ...]:
    """Return the methods that lead in most faithfulness metrics: the best, and those tied with it.

    Every one is significantly better than every control in one of these metrics, and worse than none in any.
    """
    metrics = faithfulness(evaluation)
    return _leaders(evaluation, qualified(evaluation, metrics), metrics)


def relation(evaluation: "Evaluation", methods: Sequence[str]) -> str:
    """Describe how several of the most faithful methods differ in the metrics of faithfulness, in a few words."""
    metrics = faithfulness(evaluation)
    if all(_are_tied(evaluation, one, two, metrics) for one, two in combinations(methods, 2)):
        return "statistically tied"
    if all(len(led) == len(metrics) for led in _leads(evaluation, methods, metrics).values()):
        return "none is significantly worse than the best"
    return "none leads in every metric"


def _are_tied(evaluation: "Evaluation", one: str, two: str, metrics: Sequence[str]) -> bool:
    return all(evaluation.is_tied(one, two, metric) for metric in metrics)


def faithfulness(evaluation: "Evaluation") -> tuple[str, ...]:
    """Return the labels of the metrics of faithfulness that were measured."""
    return tuple(label for label, about in evaluation.metrics.items() if about["name"] in FAITHFULNESS)


def qualified(evaluation: "Evaluation", metrics: Sequence[str]) -> list[str]:
    """Return the methods significantly better than every control in one of the metrics and worse than none in any."""
    return [
        method
        for method in evaluation.methods
        if method not in CONTROLS
        and all(math.isfinite(evaluation.value(method, metric)) for metric in metrics)
        and not any(evaluation.beaten_by(method, metric) for metric in metrics)
        and any(beats_controls(evaluation, method, metric) for metric in metrics)
    ]


def beats_controls(evaluation: "Evaluation", method: str, metric: str) -> bool:
    """Return True if the method is significantly better than every control that does not win by construction."""
    won_by = evaluation.metrics[metric]["won_by"]
    controls = [
        name
        for name in CONTROLS
        if name in evaluation.methods and name not in won_by and math.isfinite(evaluation.value(name, metric))
    ]
    return bool(controls) and all(evaluation.is_better(method, name, metric) for name in controls)


def _leads(evaluation: "Evaluation", methods: Sequence[str], metrics: Sequence[str]) -> dict[str, list[str]]:
    """Return the metrics in which each method is the best of `methods`, or tied with the best."""
    led: dict[str, list[str]] = {method: [] for method in methods}
    for metric in metrics if methods else ():
        best = max(methods, key=lambda one: evaluation.score(one, metric))
        for method in methods:
            if method == best or evaluation.is_tied(method, best, metric):
                led[method].append(metric)
    return led


def _leaders(evaluation: "Evaluation", methods: Sequence[str], metrics: Sequence[str]) -> tuple[str, ...]:
    led = _leads(evaluation, methods, metrics)
    most = max(map(len, led.values()), default=0)
    return tuple(method for method in methods if len(led[method]) == most)


def _shortfall(evaluation: "Evaluation", metrics: Sequence[str]) -> str:
    """Describe why no method qualifies, and the one that comes closest."""
    beats = {
        method: [metric for metric in metrics if beats_controls(evaluation, method, metric)]
        for method in evaluation.methods
        if method not in CONTROLS
    }
    closest = max(beats, key=lambda method: len(beats[method]), default=None)
    if closest is None or not beats[closest]:
        return f"None is significantly better than every control in {_list(metrics, 'or')}."
    beaten = [metric for metric in metrics if evaluation.beaten_by(closest, metric)]
    missing = [metric for metric in metrics if not math.isfinite(evaluation.value(closest, metric))]
    lack = f"worse than a control in {_list(beaten)}" if beaten else f"not measured by {_list(missing)}"
    return (
        f"The closest one, {name_in(evaluation, closest)}, is significantly better than every control in "
        f"{_list(beats[closest])}, but {lack}."
    )


def _advantages(evaluation: "Evaluation", method: str, others: Sequence[str], used: Sequence[str]) -> int:
    """Count the significant differences to others in the metrics that are not `used`: advantages minus drawbacks."""
    pairs = [(other, metric) for other in others for metric in evaluation.metrics if metric not in used]
    return sum(
        evaluation.is_better(method, other, metric) - evaluation.is_better(other, method, metric)
        for other, metric in pairs
    )


def _reason(evaluation: "Evaluation", chosen: str, others: Sequence[str], metrics: Sequence[str]) -> str:
    values = listed([f"{_list([metric])} {number_text(evaluation.value(chosen, metric))}" for metric in metrics])
    beats = [metric for metric in metrics if beats_controls(evaluation, chosen, metric)]
    where = f" in {_list(beats)}" if len(metrics) > 1 else ""
    role = "one of the most faithful methods" if others else "the most faithful method"
    tied = [one for one in others if _are_tied(evaluation, chosen, one, metrics)]
    ties = f", statistically tied with {listed([name_in(evaluation, one) for one in tied])}" if tied else ""
    rest = [name_in(evaluation, one) for one in others if one not in tied]
    ties += f", besides {listed(rest)}" if rest else ""
    reason = (
        f"Recommended: {name_in(evaluation, chosen)}, {role} ({values}){ties}, and significantly better than every "
        f"control{where}."
    )
    unused = [metric for metric in evaluation.metrics if metric not in metrics]
    better = [
        metric for metric in unused if others and all(evaluation.is_better(chosen, one, metric) for one in others)
    ]
    worse = [metric for metric in unused if any(evaluation.is_better(one, chosen, metric) for one in others)]
    if better:
        tied_or_not = "the tied methods" if len(tied) == len(others) else "these methods"
        rivals = tied_or_not if len(others) > 2 else listed([name_in(evaluation, one) for one in others])
        reason += f" It is significantly better than {rivals} in {_list(better)}"
        reason += f", and worse in {_list(worse)}." if worse else "."
    return reason


def _list(metrics: Sequence[str], last: str = "and") -> str:
    return listed([metric.replace("_", " ") for metric in metrics], last)


def number_text(value: float) -> str:
    """Return three digits of a number, with a minus sign.

    >>> number_text(-0.25)
    '−0.25'
    """
    return f"{value:.3g}".replace("-", "−")
