"""Conclusions of an evaluation about methods: those to be wary of, and those that agree.

They follow from the means and intervals of the evaluation. Where these support no conclusion, none is drawn.
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
    "Group",
    "agreeing",
    "class_insensitive",
    "labels",
    "name_in",
    "name_of",
    "remarks",
    "representative",
    "weight_insensitive",
]

ALIKE = 2 / 3
"""Similarity of the maps of two classes (1: equal) above which a method counts as nearly class-insensitive."""
UNCHANGED = 0.9995
"""Similarity to the maps of reinitialized networks that rounds to 1.000."""
HALF_DIGIT = 0.0005
"""Half a unit of the third decimal."""
SAME_RULE = frozenset({"input_x_gradient", "lrp.epsilon"})
"""Methods that are equal on piecewise-linear networks, in the limit of a small ε (Ancona et al., 2018)."""


@dataclass(frozen=True)
class Group:
    """Methods whose means agree to three digits in every metric, in the order of the evaluation."""

    methods: tuple[str, ...]
    reason: str


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
    return [Group(tuple(group), _why_alike(evaluation, group)) for group in groups if len(group) > 1]


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


def name_in(evaluation: "Evaluation", label: str) -> str:
    """Return the registered name of a method, with its options if the evaluation has several methods of this name."""
    name = name_of(label)
    return name if [name_of(one) for one in evaluation.methods].count(name) < 2 else label


def _own_rows(evaluation: "Evaluation", name: str) -> list["Row"]:
    """Return the rows of the metrics with this registered name, without controls."""
    labels = {label for label, about in evaluation.metrics.items() if about["name"] == name}
    return [row for row in evaluation.rows if row.metric in labels and row.method not in CONTROLS]


def _agree(evaluation: "Evaluation", first: str, second: str) -> bool:
    """Return True if both methods have equal means to three digits, or none, in every metric, and means in two."""
    shared = 0
    for metric in evaluation.metrics:
        one, two = evaluation.value(first, metric), evaluation.value(second, metric)
        if math.isfinite(one) != math.isfinite(two):
            return False
        shared += math.isfinite(one)
        # three decimals, or three digits of larger values
        if math.isfinite(one) and abs(one - two) > HALF_DIGIT * max(1.0, abs(one), abs(two)):
            return False
    return shared > 1


def _why_alike(evaluation: "Evaluation", group: Sequence[str]) -> str:
    names = [name_in(evaluation, label) for label in group]
    agree = f"{listed(names)} agree to three digits in every metric on this network."
    if not set(map(name_of, group)) >= SAME_RULE:
        return agree
    return f"{agree} lrp.epsilon equals input_x_gradient on piecewise-linear networks as ε → 0."
