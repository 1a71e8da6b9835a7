"""Training data influence: TracIn and TRAK, which score how much each training image affected a prediction.

Both compare gradients of training images with that of the explained image, at one or several checkpoints. They are
first-order estimates; docs/influence.md shows how well they predict retraining.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.options import Range, check_argument
from pellucid.core.types import Labels, Pixels, Targets
from pellucid.diagnostics._arguments import check_tensors
from pellucid.diagnostics._gradients import Explained, Gradients, Objective, Weights
from pellucid.diagnostics._influence import Influence, Ranked, Scores
from pellucid.diagnostics._projection import Projection
from pellucid.engine.model import Network, frozen, unwrap

__all__ = ["Influence", "Projection", "Ranked", "self_influence", "tracin", "trak", "trak_scores"]

DEFAULT_PROJECTION = Projection()
DEFAULT_RIDGE = 0.1
"""Ridge of TRAK, as a share of the mean eigenvalue of the Gram matrix."""
SMALLEST_REST = 1e-9
"""Distance of a leverage from 1 below which it counts as 1: the Gram matrix, in float64, is not more exact."""
GRAM_ROWS = 4096
"""Number of training images whose features are converted to float64 at a time."""
MOST_UNPROJECTED = 20_000
"""Maximum number of parameters for TRAK without projection, whose Gram matrix has this many rows and columns."""


def tracin(
    model: Network,
    checkpoints: Sequence[Weights],
    train_images: Pixels,
    train_labels: Labels,
    images: Explained,
    targets: Targets,
    *,
    learning_rates: Sequence[float],
    projection: Projection | None = DEFAULT_PROJECTION,
    parameters: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> Influence:
    """Score training images by TracInCP: Σ over checkpoints of η · ∇ℓ(training image) · ∇ℓ(explained image).

    ℓ is the cross-entropy in nats. A score is the first-order decrease of the loss of the explained image by SGD steps
    with learning rate η on the training image, one at each checkpoint (Pruthi et al., 2020, equation 2).

    Args:
        model: a module from images to logits. It is not modified.
        checkpoints: state dicts of the model, in any order.
        train_images: (image, channel, height, width) floats as the model takes them, or bytes, divided by 255.
        train_labels: (image,) class indices.
        images: the images to explain, like `train_images`.
        targets: (image,) the class whose loss is explained: the predicted or the true one.
        learning_rates: η of each checkpoint.
        projection: random projection of the gradients; None for exact products.
        parameters: names of the parameters to differentiate (default: all).
        batch_size: images per batch (default: chosen by the sizes of gradients and images).

    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> result = tracin(linear, [linear.state_dict()], images, labels, images, labels, learning_rates=[0.1])
    >>> bool((result.scores.diagonal() > 0).all()), result.projection_error
    (True, 0.0)
    """
    train, test = (train_images, train_labels), (images, targets)
    inside = _checked(model, checkpoints, train, test)
    rates = _checked_rates("tracin", learning_rates, len(checkpoints))
    total, used = torch.zeros(len(targets), len(train_labels), device="cpu", dtype=torch.float64), 0
    with _frozen(inside):
        for number, (weights, rate) in enumerate(zip(checkpoints, rates, strict=True)):
            source = _Features(Gradients.of(inside, weights, parameters), projection, "loss", number, batch_size)
            explained, _ = source.of(*test)
            for part, features, _ in source.batches(*train):
                total[:, part] += rate * (_wide(explained) @ _wide(features).T).double().cpu()
            used = source.parameters
    return Influence(
        total.float(), targets.cpu(), train_labels.cpu(), "tracin", len(checkpoints), used, projection,
        learning_rates=rates, images=images, train_images=train_images,
    )  # fmt: skip


def trak(
    model: Network,
    checkpoints: Sequence[Weights],
    train_images: Pixels,
    train_labels: Labels,
    images: Explained,
    targets: Targets,
    *,
    projection: Projection | None = DEFAULT_PROJECTION,
    ridge: float = DEFAULT_RIDGE,
    leverage: bool = False,
    parameters: Sequence[str] | None = None,
    batch_size: int | None = None,
) -> Influence:
    """Score training images by TRAK: the effect of each on the target's margin log(p / (1 − p)) (Park et al., 2023).

    φ is the projected gradient of the margin and Q = 1 − p of a training image's label. The scores are
    φ(explained image)ᵀ (ΦᵀΦ + λ)⁻¹ Φᵀ, averaged over the checkpoints, times Q, averaged too (equation 17). The unit is
    that of the margin: an estimate of how much it would drop without the training image, up to a common factor.

    Args:
        model: a module from images to logits. It is not modified.
        checkpoints: state dicts of the model. Networks trained with other seeds are best; later epochs of one training
            are less independent.
        train_images: (image, channel, height, width) floats as the model takes them, or bytes, divided by 255.
        train_labels: (image,) class indices.
        images: the images to explain, like `train_images`.
        targets: (image,) the class whose margin is explained.
        projection: random projection of the gradients, different for each checkpoint; None for exact gradients of at
            most 20,000 parameters.
        ridge: λ as a share of the mean eigenvalue of ΦᵀΦ.
        leverage: divide by 1 − h, the exact correction for leaving one image out of a linear regression.
        parameters: names of the parameters to differentiate (default: all).
        batch_size: images per batch (default: chosen by the sizes of gradients and images).

    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images, labels = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> result = trak(linear, [linear.state_dict()], images, labels, images, labels)
    >>> bool((result.scores.diagonal() > 0).all())
    True
    """
    train, test = (train_images, train_labels), (images, targets)
    inside = _checked(model, checkpoints, train, test)
    check_argument("trak", "ridge", ridge, Annotated[float, Range(0)])
    total = torch.zeros(len(targets), len(train_labels), device="cpu", dtype=torch.float64)
    residual, used, ridges = torch.zeros(len(train_labels), device="cpu", dtype=torch.float64), 0, []
    with _frozen(inside):
        for number, weights in enumerate(checkpoints):
            source = _Features(Gradients.of(inside, weights, parameters), projection, "margin", number, batch_size)
            used = _check_size(source, projection)
            features, probabilities = source.of(*train)
            explained, _ = source.of(*test)
            ridges.append(ridge * _mean_eigenvalue(features))
            total += trak_scores(features, explained, None, ridges[-1], leverage=leverage).double().cpu()
            residual += 1 - probabilities
    count = len(checkpoints)
    scores = (total / count * (residual / count)).float()
    return Influence(
        scores, targets.cpu(), train_labels.cpu(), "trak", count, used, projection,
        ridges=tuple(ridges), images=images, train_images=train_images,
    )  # fmt: skip


def trak_scores(
    features_train: Float[Tensor, "train feature"],
    features_test: Float[Tensor, "test feature"],
    residuals: Float[Tensor, " train"] | None = None,
    ridge: float = 0.0,
    leverage: bool = False,
) -> Scores:
    """Return φ_test (ΦᵀΦ + ridge)⁻¹ φ_train · residual, divided by 1 − h with `leverage` (test, train).

    h is the leverage φ_trainᵀ (ΦᵀΦ + ridge)⁻¹ φ_train. For a linear (ridge) regression with features Φ and residuals
    y − ŷ, the corrected scores are the exact decreases of the predictions when one training row is left out (Cook and
    Weisberg, 1982). Raises `ShapeError` for other shapes, and `ConfigError` if the matrix is singular or the leverage
    of a training row is 1, without which the regression has no solution.

    >>> trak_scores(torch.ones(2, 1), torch.ones(1, 1), torch.tensor([1.0, -1.0]), leverage=True)
    tensor([[ 1., -1.]])
    """
    check_tensors(features_train=features_train, features_test=features_test)
    is_matrix = features_train.ndim == features_test.ndim == 2 and features_train.shape[1] == features_test.shape[1]
    if not is_matrix or (residuals is not None and residuals.shape != features_train.shape[:1]):
        received = [tuple(one.shape) for one in (features_train, features_test, residuals) if one is not None]
        raise ShapeError(
            f"got shapes {', '.join(map(str, received))}; expected features (train, feature) and (test, feature), and "
            "residuals (train,)."
        )
    gram = torch.zeros(features_train.shape[1:] * 2, device=features_train.device, dtype=torch.float64)
    # in float64, because the square doubles the digits that an inverse loses; in parts, which bounds memory
    for part in features_train.split(GRAM_ROWS):
        gram.addmm_(part.double().T, part.double())
    gram.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal().square()
    if bool(failed) or bool(pivots.min() <= pivots.max() * len(gram) * torch.finfo(torch.float64).eps):
        raise ConfigError(
            f"the Gram matrix of {len(features_train)} × {len(gram)} features is singular; pass a positive ridge, or "
            "fewer dimensions than training images."
        )
    features_train = _wide(features_train)
    solved = torch.cholesky_solve(features_test.double().T, factor).T.to(features_train.dtype)
    scores = solved @ features_train.T
    if leverage:
        own = torch.linalg.solve_triangular(factor, features_train.double().T, upper=False).square().sum(0)
        if bool((own >= 1 - SMALLEST_REST).any()):
            raise ConfigError(
                f"the leverage of training row {int(own.argmax())} is 1: without it, the features of the others do not "
                "determine the regression. Pass a positive ridge, or leverage=False."
            )
        scores = scores / (1 - own).to(scores.dtype)
    return scores if residuals is None else scores * residuals


def self_influence(
    model: Network,
    checkpoints: Sequence[Weights],
    images: Pixels,
    labels: Labels,
    *,
    learning_rates: Sequence[float] | None = None,
    parameters: Sequence[str] | None = None,
) -> Float[Tensor, " image"]:
    """Return the influence of each training image on itself by TracIn: Σ over checkpoints of η |∇ℓ|², exact.

    Large values mark images that the network had to memorize, such as mislabeled ones (Pruthi et al., 2020). η is 1 for
    each checkpoint unless `learning_rates` are given; the other arguments are those of `tracin`.

    >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> self_influence(linear, [linear.state_dict()], torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])).shape
    torch.Size([3])
    """
    inside = _checked(model, checkpoints, (images, labels))
    given = [1.0] * len(checkpoints) if learning_rates is None else learning_rates
    rates = _checked_rates("self_influence", given, len(checkpoints))
    total = torch.zeros(len(labels), device="cpu", dtype=torch.float64)
    with _frozen(inside):
        for weights, rate in zip(checkpoints, rates, strict=True):
            for part, gradients, _ in Gradients.of(inside, weights, parameters).batches(images, labels, "loss"):
                total[part] += rate * gradients.double().square().sum(1).cpu()
    return total.float()


class _Features:
    """Projected gradients at one checkpoint."""

    def __init__(
        self,
        gradients: Gradients,
        projection: Projection | None,
        objective: Objective,
        number: int,
        batch_size: int | None,
    ) -> None:
        self.gradients, self.objective, self.batch_size = gradients, objective, batch_size
        self.parameters = gradients.parameters
        like = gradients.weights[gradients.names[0]]
        self.sketch = None
        if projection is not None:
            self.sketch = projection.sketch(self.parameters, "checkpoint", number, like=like)

    def batches(self, images: Tensor, labels: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield the places, features (image, feature) and probabilities of the labels of some images."""
        for part, gradients, logits in self.gradients.batches(images, labels, self.objective, self.batch_size):
            probabilities = logits.double().softmax(1).gather(1, labels[part, None].to(logits.device))[:, 0]
            yield part, gradients if self.sketch is None else self.sketch(gradients), probabilities.cpu()

    def of(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and probabilities of all images."""
        features, probabilities = [], []
        for _, feature, probability in self.batches(images, labels):
            features.append(feature)
            probabilities.append(probability)
        return torch.cat(features), torch.cat(probabilities)


def _wide(features: Tensor) -> Tensor:
    """Return features in float32 at least: sums of products in half precision would overflow."""
    return features if features.dtype == torch.float64 else features.float()


def _checked_rates(function: str, rates: Any, checkpoints: int) -> tuple[float, ...]:
    values = [rate.item() if isinstance(rate, Tensor) else rate for rate in rates]
    for rate in values:
        check_argument(function, "learning_rates", rate, Annotated[float, Range(0)])
    if len(values) != checkpoints:
        raise ConfigError(f"expected one learning rate for each of {checkpoints} checkpoints, got {values}.")
    return tuple(map(float, values))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    with isolated(), frozen(model):
        yield


def _mean_eigenvalue(features: Tensor) -> float:
    return float(features.double().square().sum() / features.shape[1])


def _check_size(source: _Features, projection: Projection | None) -> int:
    if projection is None and source.parameters > MOST_UNPROJECTED:
        raise ConfigError(
            f"TRAK without projection needs a matrix of {source.parameters:,}² values, at most {MOST_UNPROJECTED:,}² "
            "are supported; pass a projection, or the last layers as parameters."
        )
    return source.parameters


def _checked(model: Network, checkpoints: Sequence[Weights], *sets: tuple[Any, Any]) -> nn.Module:
    """Return the bare module; raises an error if there is no checkpoint, or images and labels do not match."""
    if isinstance(checkpoints, dict) or not len(checkpoints):
        raise ConfigError("checkpoints is empty or a single state dict; pass a list such as [model.state_dict()].")
    for images, labels in sets:
        check_tensors(images=images, labels=labels)
        if images.ndim < 2 or not len(images) or labels.shape != images.shape[:1]:
            raise ShapeError(
                f"got images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}; pass at least "
                "one image and one class index for each."
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ShapeError(f"images have dtype {images.dtype}; pass floats as the model takes them, or bytes.")
        if labels.dtype != torch.int64:
            raise ShapeError(f"labels and targets have dtype {labels.dtype}; pass class indices, for example .long().")
    inside = unwrap(model)
    if not isinstance(inside, nn.Module):
        raise ModelError(f"expected a module, got {type(inside).__name__}.")
    return inside
