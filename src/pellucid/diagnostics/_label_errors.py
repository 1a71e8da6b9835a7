"""Label errors: examples whose label is probably wrong, ranked, with the evidence for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from pellucid.core.options import Range, check_argument
from pellucid.diagnostics._confident_learning import calibrated_joint, confident_joint, label_noise, log_odds
from pellucid.diagnostics._label_checks import check_predictions
from pellucid.diagnostics._nearest import neighbor_labels
from pellucid.diagnostics._self_influence import last_layer_self_influence

__all__ = ["NEIGHBORS", "LabelErrorPair", "LabelErrors", "combined", "label_errors"]

NEIGHBORS = 10
"""Default number of nearest neighbors."""


@dataclass(frozen=True)
class LabelErrorPair:
    """Estimated number of examples of one class with the label of another."""

    given: int
    """The label that the examples have."""
    true: int
    """The class that they belong to."""
    count: float


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """Result of `label_errors`: one ranking of all examples, with the evidence by method."""

    score: Tensor
    """(example,): log-odds in nats that the label is wrong; higher is more suspicious. NaN without a prediction."""
    suggested: Tensor
    """(example,): the most probable class other than the label; −1 without a prediction."""
    evidence: Mapping[str, Tensor]
    """One value per example and method, higher for more suspicious, NaN without a prediction:

    - `confident_learning`: the log-odds by the probabilities alone, in nats
    - `neighbors`: share of the nearest neighbors in the embedding with another label, from 0 to 1
    - `self_influence`: squared norm of the gradient of the loss for the last layer

    The last two need an embedding."""
    joint: Tensor
    """(class, class): estimated joint distribution of given labels (rows) and true classes (columns), with sum 1."""
    labels: Tensor
    """(example,): the given labels."""

    @property
    def ranking(self) -> Tensor:
        """Indices of the examples with a prediction, most suspicious first; ties keep their order."""
        order = self.score.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        return order[~self.score[order].isnan()]

    @property
    def suspects(self) -> int:
        """Number of label errors that confident learning estimates; `ranking[:suspects]` are the most probable ones."""
        return round(self._predicted * (1.0 - float(self.joint.trace())))

    @property
    def pairs(self) -> tuple[LabelErrorPair, ...]:
        """Estimated errors by given label and true class, most frequent first, without those below half an example."""
        counts = self.joint * self._predicted
        cells = [(given, true) for given, true in (counts >= 0.5).nonzero().tolist() if given != true]
        pairs = [LabelErrorPair(given, true, float(counts[given, true])) for given, true in cells]
        return tuple(sorted(pairs, key=lambda pair: (-pair.count, pair.given, pair.true)))

    @property
    def _predicted(self) -> int:
        return int((~self.score.isnan()).sum())

    def __repr__(self) -> str:
        return f"LabelErrors({self._predicted:,} examples, about {self.suspects:,} label errors)"


def label_errors(
    probabilities: Tensor,
    labels: Tensor,
    *,
    embedding: Tensor | None = None,
    neighbors: int = NEIGHBORS,
    allow_missing: bool = False,
    seed: int = 0,
) -> LabelErrors:
    r"""Rank examples by how probably their label is wrong.

    Confident learning (Northcutt et al., 2021) counts confident predictions of each class among the examples of each
    label. From these counts follow the joint distribution of given and true labels, the number of errors, and the
    probability $T_{jy}$ of label $y$ for an example of class $j$. An example with the label $y$ and the predicted
    probabilities $p$ gets the score $\log \sum_{j \ne y} T_{jy} q_j - \log(T_{yy} q_y)$ with $q = p$. With an
    `embedding`, $q_j = p_j (v_j + 1/2)$, where $v_j$ is the number of nearest neighbors with the label $j$.
    Self-influence is listed as evidence, but does not change the ranking, since it follows from the same probabilities.

    Args:
        probabilities: (example, class) from networks that were not trained on the example, such as the held-out parts
            of a cross-validation, or averaged over the epochs of a training. A network trained until it has memorized
            its training labels is certain of the wrong ones, too.
        labels: (example,) given labels, as class indices.
        embedding: (example, feature) input of the network's last layer. More than 64 features are projected to 64
            random directions for the search of neighbors.
        neighbors: number of nearest neighbors, of up to 2,000 randomly chosen examples.
        allow_missing: True to accept rows of `probabilities` that are NaN throughout, for examples that have not been
            predicted. They are ignored, their score is NaN, and they are left out of the ranking.
        seed: random seed of the directions and examples.

    Raises `ShapeError`, `DataError` or `ConfigError` if the arguments are invalid or don't fit together.

    >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
    >>> sure = torch.tensor([0.9, 0.8, 0.1, 0.1, 0.2, 0.1])
    >>> errors = label_errors(torch.stack([sure, 1 - sure], 1), labels)
    >>> errors.ranking[0].item(), errors.suggested[2].item(), errors.suspects
    (2, 1, 1)
    """
    is_predicted = check_predictions(probabilities, labels, embedding, allow_missing)
    check_argument("label_errors", "neighbors", neighbors, Annotated[int, Range(1)])
    check_argument("label_errors", "seed", seed, Annotated[int, Range(0)])
    kept = is_predicted.nonzero()[:, 0]
    points = None if embedding is None else embedding[kept].detach()
    known, given = probabilities[kept].detach().double(), labels[kept].long()
    near = None if points is None else neighbor_labels(points, given, neighbors, seed)
    influence = None if points is None else last_layer_self_influence(known, given, points)
    return _scattered(combined(known, given, near, influence), is_predicted, labels.long())


def combined(
    probabilities: Tensor, labels: Tensor, neighbors: Tensor | None = None, influence: Tensor | None = None
) -> LabelErrors:
    """Combine the probabilities, the labels of the nearest neighbors and the self-influence; nothing is checked."""
    joint = calibrated_joint(confident_joint(probabilities, labels), labels)
    noise = label_noise(joint, len(labels))
    score, suggested = log_odds(probabilities, labels, noise)
    evidence = {"confident_learning": score}
    if neighbors is not None:
        score, suggested = log_odds(probabilities, labels, noise, neighbors)
        evidence["neighbors"] = (neighbors != labels[:, None]).double().mean(1)
    if influence is not None:
        evidence["self_influence"] = influence
    return LabelErrors(score, suggested, evidence, joint, labels)


def _scattered(errors: LabelErrors, is_predicted: Tensor, labels: Tensor) -> LabelErrors:
    """Return the result for all examples from that of the predicted ones."""
    if bool(is_predicted.all()):
        return errors

    def spread(values: Tensor, missing: float) -> Tensor:
        return values.new_full((len(labels),), missing).masked_scatter(is_predicted, values)

    evidence = {name: spread(values, torch.nan) for name, values in errors.evidence.items()}
    return LabelErrors(spread(errors.score, torch.nan), spread(errors.suggested, -1), evidence, errors.joint, labels)
