"""Confident learning: the joint distribution of given and true labels (Northcutt, Jiang and Chuang, 2021).

Everything is computed from the predicted probabilities of the examples and their given labels.
"""

import torch
from torch import Tensor

__all__ = ["calibrated_joint", "class_thresholds", "confident_joint", "label_noise", "log_odds"]

PSEUDO_EXAMPLES = 50.0
"""Examples of each true class, with labels spread evenly over the classes, that are added to the estimate of the noise.
Without them, the odds of a pair of classes that was never counted would be zero."""
SMALLEST = 1e-38
"""Smallest probability in a logarithm, about the smallest normal number of float32."""
VALUES_AT_ONCE = 4_000_000
"""Approximate number of probabilities per step, which bounds memory."""


def class_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the mean probability of each class over the examples with that label (equation 2); infinity without any.

    >>> class_thresholds(torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]), torch.tensor([0, 0, 1]))
    tensor([0.7000, 0.8000])
    """
    own = probabilities.gather(1, labels[:, None])[:, 0]
    sums = own.new_zeros(probabilities.shape[1]).index_add_(0, labels, own)
    counts = labels.bincount(minlength=probabilities.shape[1])
    return torch.where(counts > 0, sums / counts.clamp_min(1), torch.inf)


def confident_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Count examples by given label (row) and confident class (column), as (class, class) integers (equation 1).

    The confident class is the most probable one among those whose probability reaches their threshold. Examples
    without such a class are not counted.
    """
    classes = probabilities.shape[1]
    thresholds = class_thresholds(probabilities, labels)
    counts = torch.zeros(classes * classes, dtype=torch.int64, device=labels.device)
    for part in _parts(probabilities):
        rows = probabilities[part]
        highest, confident = rows.where(rows >= thresholds, -1.0).max(1)
        cells = labels[part] * classes + confident
        counts += cells[highest >= 0].bincount(minlength=classes * classes)
    return counts.reshape(classes, classes)


def calibrated_joint(counts: Tensor, labels: Tensor) -> Tensor:
    """Return the joint distribution (given, true) from `confident_joint`, with sum 1 (equation 3).

    Each row sums to the share of its label among all examples. The row of a label without counted examples is on the
    diagonal.
    """
    classes = len(counts)
    sizes = labels.bincount(minlength=classes).double()
    rows = counts.double()
    is_empty = rows.sum(1) == 0
    rows = rows + torch.diag(is_empty.double())
    return rows / rows.sum(1, keepdim=True) * (sizes / sizes.sum())[:, None]


def label_noise(joint: Tensor, examples: int) -> Tensor:
    """Return the probability of each given label (column) for each true class (row), smoothed by `PSEUDO_EXAMPLES`.

    A true class that `joint` does not contain gets the mean of the other rows' probabilities off the diagonal.
    """
    classes = len(joint)
    counts = joint.T * examples + PSEUDO_EXAMPLES / classes
    noise = counts / counts.sum(1, keepdim=True)
    is_known = joint.sum(0) > 0
    off_diagonal = ~torch.eye(classes, dtype=torch.bool, device=joint.device)
    rate = noise[is_known][off_diagonal[is_known]].mean()
    unknown = torch.full_like(noise, float(rate)).where(off_diagonal, 1 - rate * (classes - 1))
    return noise.where(is_known[:, None], unknown)


def log_odds(
    probabilities: Tensor, labels: Tensor, noise: Tensor, neighbors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Return the log-odds that each label is wrong, in nats, and the most probable other class.

    With the probability $q_j$ of class $j$ and the noise $T_{jy}$, the odds of a wrong label $y$ are
    $\sum_{j \ne y} T_{jy} q_j / (T_{yy} q_y)$. `neighbors` (example, neighbor) are the labels of each example's nearest
    neighbors; $q_j$ is then multiplied by their number in class $j$, plus one half.
    """
    scores, suggested = [], []
    weights = noise.T.log()
    for part in _parts(probabilities):
        own = labels[part][:, None]
        logs = probabilities[part].double().clamp_min(SMALLEST).log() + weights[labels[part]]
        if neighbors is not None:
            # a half, Jeffreys' prior, keeps a class without neighbors possible
            votes = torch.full_like(logs, 0.5)
            logs += votes.scatter_add_(1, neighbors[part], torch.ones_like(neighbors[part], dtype=votes.dtype)).log()
        right = logs.gather(1, own)[:, 0]
        others = logs.scatter(1, own, -torch.inf)
        scores.append(others.logsumexp(1) - right)
        suggested.append(others.argmax(1))
    return torch.cat(scores), torch.cat(suggested)


def _parts(probabilities: Tensor) -> list[slice]:
    count, classes = probabilities.shape
    step = max(1, VALUES_AT_ONCE // classes)
    return [slice(start, start + step) for start in range(0, count, step)]
