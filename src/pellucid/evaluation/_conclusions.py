"""Conclusions of an evaluation: the most faithful methods, the recommended one, and methods to be wary of.

All follow from the means, the intervals and the Holm-adjusted paired tests of the evaluation. Where these support no
conclusion, none is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.core.text import listed
from pellucid.evaluation import CONTROLS

if TYPE_CHECKING:
    from pellucid.evaluation._evaluation import Evaluation, Row

__all__ = [
    "FAITHFULNESS",
    "Group",
    "Recommendation",
    "agreeing",
    "class_insensitive",
    "labels",
    "most_faithful",
    "name_of",
    "recommend",
    "remarks",
    "representative",
    "weight_insensitive",
]

FAITHFULNESS = ("selectivity", "deletion", "insertion", "road", "roar", "sensitivity_n", "infidelity")
"""Metrics that compare a map with the effect of changed pixels on the output."""
ALIKE = 2 / 3
"""Similarity of the maps of two classes (1: equal) above which a method counts as nearly class-insensitive."""
UNCHANGED = 0.9995
"""Similarity to the maps of reinitialized networks that rounds to 1.000."""
HALF_DIGIT = 0.0005
"""Half a unit of the third decimal."""
SAME_RULE = frozenset({"input_x_gradient", "lrp.epsilon"})
"""Methods that are equal on piecewise-linear networks, in the limit of a small ε (Ancona et al., 2018)."""


@dataclass(frozen=True)
class Recommendation:
    """The explanation method that an evaluation supports best, and why."""

    method: str | None
    """Label as in `Evaluation.methods`; None if the evaluation supports none."""
    reason: str
    tied: tuple[str, ...] = ()
    """Methods whose faithfulness does not differ significantly from the recommended one's."""
    metrics: tuple[str, ...] = ()
    """Metrics of faithfulness that were measured."""


@dataclass(frozen=True)
class Group:
    """Methods whose means agree to three digits in every metric, in the order of the evaluation."""

    methods: tuple[str, ...]
    reason: str


def recommend(evaluation: "Evaluation") -> Recommendation:
    """Return the recommended method with its reason.

    Candidates are significantly better than every control in a metric of faithfulness and worse than none in any, and
    their maps depend on the image, on the class and on the weights. Those that lead in most metrics of faithfulness
    remain: the best, and the ones that do not differ significantly from it. Of several, the one with the most
    significant advantages over the others in all other metrics is recommended, or else the one with the best mean.
    """
    metrics = _faithfulness(evaluation)
    if not metrics:
        return Recommendation(None, f"No metric of faithfulness was measured, such as {FAITHFULNESS[0]}.")
    faithful, notes = _qualified(evaluation, metrics), remarks(evaluation)
    leaders = _leaders(evaluation, [method for method in faithful if method not in notes], metrics)
    refused = [method for method in _leaders(evaluation, faithful, metrics) if method in notes]
    rejected = "".join(f" {name_of(one)} is not recommended: {notes[one]}." for one in refused)
    if not leaders:
        where = listed([_words(metric) for metric in metrics], "or")
        beaten = f"No method is significantly better than every control in {where} and worse than none."
        return Recommendation(None, rejected.strip() or beaten, metrics=metrics)
    others = {one: [other for other in leaders if other != one] for one in leaders}
    chosen = max(
        leaders,
        key=lambda one: (_advantages(evaluation, one, others[one], metrics), evaluation.score(one, metrics[0])),
    )
    reason = _reason(evaluation, chosen, others[chosen], metrics)
    return Recommendation(chosen, reason + rejected, tuple(others[chosen]), metrics)


def most_faithful(evaluation: "Evaluation") -> tuple[str, ...]:
    """Return the methods that lead in most metrics of faithfulness: the best, and those tied with it.

    Every one is significantly better than every control in one of these metrics, and worse than none in any.
    """
    metrics = _faithfulness(evaluation)
    return _leaders(evaluation, _qualified(evaluation, metrics), metrics)


def remarks(evaluation: "Evaluation") -> dict[str, str]:
    """Return a remark for each method whose maps do not depend on the image, the weights or (hardly) the class."""
    alike = class_insensitive(evaluation)
    return {
        **{
            method: f"the maps of two classes have a similarity of {value:.2f} (1: equal)"
            for method, value in alike.items()
        },
        **dict.fromkeys(weight_insensitive(evaluation), "its map stays the same when the weights are randomized"),
        **evaluation.constant_maps,
    }


def labels(evaluation: "Evaluation") -> dict[str, str]:
    """Return a label of a few words for each method with a remark."""
    constant = "same map for every image" if evaluation.same_map else "map ignores shifts of the image"
    return {
        **dict.fromkeys(class_insensitive(evaluation), "nearly class-insensitive"),
        **dict.fromkeys(weight_insensitive(evaluation), "ignores the weights"),
        **dict.fromkeys(evaluation.constant_maps, constant),
    }


def class_insensitive(evaluation: "Evaluation") -> dict[str, float]:
    """Return the nearly class-insensitive methods with their mean similarity: the whole interval exceeds `ALIKE`.

    Rank correlations are not used, since the ranks of an empty background are equal for all classes.
    """
    rows = _own_rows(evaluation, "random_logit")
    kinds = {label: about["options"].get("kind", "ssim") for label, about in evaluation.metrics.items()}
    return {row.method: row.value for row in rows if row.low > ALIKE and kinds[row.metric] != "spearman"}


def weight_insensitive(evaluation: "Evaluation") -> tuple[str, ...]:
    """Return the methods whose maps are those of randomized networks, to three digits and for the whole interval."""
    return tuple(row.method for row in _own_rows(evaluation, "parameter_randomisation") if row.low >= UNCHANGED)


def agreeing(evaluation: "Evaluation") -> list[Group]:
    """Return the groups of methods whose means agree to three digits in every metric.

    Controls are never grouped. A single metric groups nothing, since methods can easily agree in one.
    """
    if len(evaluation.metrics) < 2:
        return []
    groups: list[list[str]] = []
    for method in evaluation.methods:
        if method in CONTROLS:
            continue
        # compared with the first member, so that a chain of small differences cannot add up
        home = next((group for group in groups if _agree(evaluation, group[0], method)), None)
        if home is None:
            groups.append([method])
        else:
            home.append(method)
    return [Group(tuple(group), _why_alike(group)) for group in groups if len(group) > 1]


def representative(evaluation: "Evaluation", group: Group) -> str:
    """Return the method to show for a group of agreeing ones: the one that is best in most metrics, or the first.

    So a column whose best method is in the group still shows it.
    """
    best = [evaluation.best(metric) for metric in evaluation.metrics]
    return max(group.methods, key=best.count)


def name_of(label: str) -> str:
    """Return the registered name of a method without its options.

    >>> name_of("integrated_gradients(steps=12)")
    'integrated_gradients'
    """
    return label.partition("(")[0]


def _own_rows(evaluation: "Evaluation", name: str) -> list["Row"]:
    """Return the rows of the metrics with this registered name, without controls."""
    labels = {label for label, about in evaluation.metrics.items() if about["name"] == name}
    return [row for row in evaluation.rows if row.metric in labels and row.method not in CONTROLS]


def _faithfulness(evaluation: "Evaluation") -> tuple[str, ...]:
    return tuple(label for label, about in evaluation.metrics.items() if about["name"] in FAITHFULNESS)


def _qualified(evaluation: "Evaluation", metrics: Sequence[str]) -> list[str]:
    """Return the methods significantly better than every control in one of the metrics and worse than none in any."""
    return [
        method
        for method in evaluation.methods
        if method not in CONTROLS
        and all(math.isfinite(evaluation.value(method, metric)) for metric in metrics)
        and not any(evaluation.beaten_by(method, metric) for metric in metrics)
        and any(_beats_controls(evaluation, method, metric) for metric in metrics)
    ]


def _beats_controls(evaluation: "Evaluation", method: str, metric: str) -> bool:
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


def _advantages(evaluation: "Evaluation", method: str, others: Sequence[str], used: Sequence[str]) -> int:
    """Count the significant differences to others in the metrics that are not `used`: advantages minus drawbacks."""
    pairs = [(other, metric) for other in others for metric in evaluation.metrics if metric not in used]
    return sum(
        evaluation.is_better(method, other, metric) - evaluation.is_better(other, method, metric)
        for other, metric in pairs
    )


def _reason(evaluation: "Evaluation", chosen: str, tied: Sequence[str], metrics: Sequence[str]) -> str:
    values = listed([f"{_words(metric)} {_number(evaluation.value(chosen, metric))}" for metric in metrics])
    beats = [metric for metric in metrics if _beats_controls(evaluation, chosen, metric)]
    where = f" in {listed([_words(metric) for metric in beats])}" if len(metrics) > 1 else ""
    role = "one of the most faithful methods" if tied else "the most faithful method"
    ties = f", statistically tied with {listed([name_of(one) for one in tied])}" if tied else ""
    reason = (
        f"Recommended: {name_of(chosen)}, {role} ({values}){ties}, and significantly better than every control{where}."
    )
    rest = [metric for metric in evaluation.metrics if metric not in metrics]
    better = [metric for metric in rest if tied and all(evaluation.is_better(chosen, one, metric) for one in tied)]
    worse = [metric for metric in rest if any(evaluation.is_better(one, chosen, metric) for one in tied)]
    if better:
        rivals = "the tied methods" if len(tied) > 2 else listed([name_of(one) for one in tied])
        reason += f" It is significantly better than {rivals} in {listed([_words(one) for one in better])}"
        reason += f", and worse in {listed([_words(one) for one in worse])}." if worse else "."
    return reason


def _words(metric: str) -> str:
    return metric.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _agree(evaluation: "Evaluation", first: str, second: str) -> bool:
    """Return True if both methods have equal means to three digits, or none, in every metric."""
    for metric in evaluation.metrics:
        one, two = evaluation.value(first, metric), evaluation.value(second, metric)
        if math.isfinite(one) != math.isfinite(two):
            return False
        # three decimals, or three digits of larger values
        if math.isfinite(one) and abs(one - two) > HALF_DIGIT * max(1.0, abs(one), abs(two)):
            return False
    return True


def _why_alike(group: Sequence[str]) -> str:
    names = [name_of(label) for label in group]
    agree = f"{listed(names)} agree to three digits in every metric on this network."
    if not set(names) >= SAME_RULE:
        return agree
    return f"{agree} lrp.epsilon equals input_x_gradient on piecewise-linear networks as ε → 0."
