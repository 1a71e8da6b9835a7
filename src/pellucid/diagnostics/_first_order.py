"""First-order estimate of the smallest adversarial change, from the Jacobian of the logits."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from pellucid.core.options import check_argument
from pellucid.core.types import Images, Labels
from pellucid.diagnostics._balls import Ball, Norm
from pellucid.diagnostics._classified import Classified, classified
from pellucid.jacobians import jacobian

__all__ = ["LEADING", "FirstOrder", "first_order_radius"]

LEADING = 10
"""Number of classes with the largest logits among which the nearest one is searched for."""
LARGEST_BYTES = 100_000_000
"""Maximum size of a Jacobian held at a time."""


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """The nearest decision boundary of each image, as if the logits were linear."""

    radius: Float64[Tensor, " image"]
    """Distance to the boundary, in units of the pixels: 0 for images that are misclassified already, infinite where no
    gradient leads to another class."""
    nearest: Int64[Tensor, " image"]
    """Class on the other side of the boundary; the predicted class of misclassified images."""


def first_order_radius(
    model: nn.Module, images: Images, labels: Labels, *, norm: Norm = "l2", leading: int = LEADING
) -> FirstOrder:
    r"""Estimate the smallest change of each image that changes its prediction, from the Jacobian.

    \(\min_{b \ne a} |f_a - f_b| / \lVert \nabla f_a - \nabla f_b \rVert_q\), with q = 2 for changes measured in L2 and
    q = 1 for L∞, is the distance to the nearest decision boundary of the linearized network (Moosavi-Dezfooli et al.,
    "DeepFool", 2016). It ignores the pixel range, and it is neither an upper nor a lower bound unless the logits are
    linear.

    Args:
        model: maps images to logits.
        images: (batch, channel, height, width).
        labels: the classes a, one per image.
        norm: "l2" or "linf".
        leading: number of classes with the largest logits that are differentiated.

    Raises:
        ShapeError: if images, labels and model do not fit together.
        DataError, ModelError, UnsupportedOperation: as `pellucid.jacobian`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0, 0, 0, 0], [0, 0, 4.0, 0]]))
    >>> image = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
    >>> round(float(first_order_radius(model, image, torch.tensor([0])).radius), 6)  # 3 / 5
    0.6
    >>> round(float(first_order_radius(model, image, torch.tensor([0]), norm="linf").radius), 6)  # 3 / 7
    0.428571
    """
    check_argument("first_order_radius", "norm", norm, Norm)
    with classified(model, images, labels) as given:
        if not len(images):
            return FirstOrder(*_empty())
        count = min(max(leading, 2), given.logits(given.images[:1]).shape[1])
        size = max(1, LARGEST_BYTES // (count * images[0].numel() * given.images.element_size()))
        starts = range(0, len(images), size)
        parts = [_estimate(given, slice(start, start + size), count, Ball(norm)) for start in starts]
    return FirstOrder(torch.cat([part.radius for part in parts]), torch.cat([part.nearest for part in parts]))


def _estimate(given: Classified, place: slice, count: int, ball: Ball) -> FirstOrder:
    images, labels = given.images[place], given.labels[place].cpu()
    logits = given.logits(images)
    # sorted, so that row k of the Jacobian is the class with the k-th largest logit
    model = given.model if count == logits.shape[1] else _Leading(given.model, count)
    slopes = jacobian(model, images).flatten(2)
    if count == logits.shape[1]:
        values, classes = logits.cpu().double(), torch.arange(count, device="cpu").expand(len(logits), -1)
    else:
        top = logits.topk(count, 1)
        values, classes = top.values.cpu().double(), top.indices.cpu()
    is_own = classes == labels[:, None]
    rows, own = torch.arange(len(labels), device="cpu"), is_own.int().argmax(1)
    # a label beyond the leading classes belongs to a misclassified image, whose radius is 0
    is_right = is_own.any(1) & (values[rows, own] >= values.amax(1))
    steepness = ball.dual_size(slopes[rows, own, None] - slopes)
    # 0 / 0 is a class with the same logit and gradient, which no change makes the prediction
    radii = ((values[rows, own, None] - values) / steepness).nan_to_num(torch.inf, torch.inf)
    radius, nearest = radii.masked_fill(is_own, torch.inf).min(1)
    nearest = torch.where(is_right, classes[rows, nearest], logits.argmax(1).cpu())
    return FirstOrder(torch.where(is_right, radius, 0.0), nearest)


def _empty() -> tuple[Tensor, Tensor]:
    return torch.zeros(0, dtype=torch.float64, device="cpu"), torch.zeros(0, dtype=torch.int64, device="cpu")


class _Leading(nn.Module):
    """The largest logits of a model, in descending order."""

    def __init__(self, model: nn.Module, count: int) -> None:
        super().__init__()
        self.model, self.count = model, count
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits.topk(self.count, 1).values
