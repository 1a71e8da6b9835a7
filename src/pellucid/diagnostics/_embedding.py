"""Distances in the embedding from the training images: Mahalanobis, and k-th nearest neighbor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from pellucid.core.errors import DataError, ShapeError
from pellucid.core.options import Range, check_argument
from pellucid.core.types import Embedding, Labels
from pellucid.diagnostics._arguments import check_tensors, holds_integers

__all__ = ["ClassGaussians", "EmbeddingReference", "shrinkage_of"]

MOST_FEATURES = 8192
"""Maximum number of features for a covariance matrix, which has the square of it in entries."""
QUERIES_AT_ONCE = 1000
CLOSE = 0.03
"""Distance of unit vectors below which inner products in float32, exact to about 1e-6, may confuse neighbors."""


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    r"""One Gaussian per class in the embedding, with a shared shrunk covariance (Lee et al., 2018).

    $$
    \Sigma = (1 - \alpha) \, S + \alpha \, \frac{\mathrm{tr} S}{p} \, I
    $$

    with the covariance $S$ of the embeddings around the means of their classes, and the shrinkage $\alpha$ of Ledoit
    and Wolf (*A well-conditioned estimator for large-dimensional covariance matrices*, 2004).
    """

    classes: Int64[Tensor, " class"]
    """The classes with training images."""
    center: Float[Tensor, " feature"]
    """Mean embedding of all training images."""
    whitening: Float[Tensor, "feature feature"]
    """Upper triangular W with W Wᵀ = Σ⁻¹: (x − center) W has the covariance I within the classes."""
    means: Float[Tensor, "class feature"]
    """Whitened class means."""
    shrinkage: float
    """α, in 0…1."""

    @classmethod
    def fit(cls, embedding: Embedding, labels: Labels) -> "ClassGaussians":
        """Estimate means and covariance; raises `DataError` if the embedding does not vary within the classes."""
        if embedding.shape[1] > MOST_FEATURES:
            raise DataError(
                f"the embedding has {embedding.shape[1]:,} features, but a covariance is estimated for at most "
                f"{MOST_FEATURES:,}; choose another layer with --embedding-layer."
            )
        center = embedding.mean(0)
        points = embedding - center  # smaller numbers, so that less is lost to rounding
        classes, groups = labels.unique(return_inverse=True)
        sums = torch.zeros(len(classes), points.shape[1], dtype=points.dtype, device=points.device)
        means = sums.index_add_(0, groups, points) / torch.bincount(groups)[:, None]
        residuals = points - means[groups]
        covariance = residuals.T @ residuals / len(residuals)
        # averaged over the features; residuals that are rounding errors count as none
        variance = float(covariance.diagonal().mean())
        if not variance > 1e-20 * float(embedding.square().mean()):
            raise DataError(
                f"the embedding of the {len(labels)} training images does not vary within their classes, so it has no "
                "covariance; pass more images."
            )
        alpha = shrinkage_of(residuals, covariance)
        identity = torch.eye(len(covariance), dtype=points.dtype, device=points.device)
        factor = torch.linalg.cholesky((1 - alpha) * covariance + alpha * variance * identity)
        whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
        return cls(classes, center, whitening, means @ whitening, alpha)

    def distances(self, embedding: Embedding) -> Float[Tensor, "batch class"]:
        """Return the squared Mahalanobis distance of each embedding to the mean of each class."""
        points = (embedding - self.center) @ self.whitening
        squares = points.square().sum(1, keepdim=True) + self.means.square().sum(1)
        # in float64, the difference of large squares keeps enough digits; rounding may make it negative
        return (squares - 2 * points @ self.means.T).clamp_min(0)


@dataclass(frozen=True, eq=False)
class EmbeddingReference:
    """The embeddings of training images, from which the distances of other images are measured.

    Everything is computed on the CPU in float64, wherever the embeddings are.

    >>> embedding, labels = torch.randn(50, 4), torch.arange(50) % 2
    >>> reference = EmbeddingReference.fit(embedding, labels, neighbors=3)
    >>> distances = reference.scores(torch.randn(7, 4) + 5)
    >>> sorted(distances), distances["mahalanobis"].shape
    (['mahalanobis', 'nearest_neighbors'], torch.Size([7]))
    """

    units: Embedding
    """Embeddings of the training images, each divided by its norm."""
    gaussians: ClassGaussians | None
    """Class means and covariance; None if they cannot be estimated."""
    neighbors: int
    """Number k of the neighbor whose distance is the score."""
    refused: Mapping[str, str]
    """Scores that do not apply, with the reason."""

    @classmethod
    def fit(cls, embedding: Embedding, labels: Labels, *, neighbors: int = 10) -> "EmbeddingReference":
        """Prepare the distances from training images.

        Args:
            embedding: (image, feature): activations of a hidden layer, usually the input of the last linear layer.
            labels: (image,): class indices.
            neighbors: k of the k-th nearest neighbor; with fewer images, the farthest one counts.

        Raises `ShapeError` if the numbers of embeddings and labels differ, `DataError` for no images or values that are
        not finite, and `ConfigError` for an invalid number of neighbors.
        """
        check_argument("EmbeddingReference.fit", "neighbors", neighbors, Annotated[int, Range(1)])
        embedding = _checked(embedding)
        check_tensors(labels=labels)
        if labels.shape != embedding.shape[:1] or not holds_integers(labels):
            raise ShapeError(
                f"got {len(embedding)} embeddings but labels of shape {tuple(labels.shape)} and dtype {labels.dtype}; "
                "give one label per image, a class index."
            )
        labels = labels.detach().cpu()
        if not embedding.numel():
            raise DataError(
                f"got an embedding of shape {tuple(embedding.shape)}; give at least one training image with a feature."
            )
        refused, gaussians = {}, None
        try:
            gaussians = ClassGaussians.fit(embedding, labels)
        except DataError as error:
            refused["mahalanobis"] = str(error)
        return cls(F.normalize(embedding), gaussians, min(neighbors, len(embedding)), refused)

    def scores(self, embedding: Embedding) -> dict[str, Float[Tensor, " batch"]]:
        r"""Return the distances of images from the training images, by name; higher is less like them.

        `mahalanobis` is the squared distance from the closest class mean,
        $\min_c (x - \mu_c)^T \Sigma^{-1} (x - \mu_c)$ (Lee et al., *A simple unified framework for detecting
        out-of-distribution samples and adversarial attacks*, 2018). `nearest_neighbors` is the Euclidean
        distance of the normalized embedding from its k-th nearest neighbor among the training images, from 0 to 2 (Sun
        et al., *Out-of-distribution detection with deep nearest neighbors*, 2022).

        Raises `ShapeError` for another number of features, and `DataError` for values that are not finite.
        """
        embedding = _checked(embedding)
        if embedding.shape[1] != self.units.shape[1]:
            raise ShapeError(
                f"got embeddings of {embedding.shape[1]} features, but those of the training images have "
                f"{self.units.shape[1]}; read both from the same layer."
            )
        named = {} if self.gaussians is None else {"mahalanobis": self.gaussians.distances(embedding).amin(1)}
        return {**named, "nearest_neighbors": self._nearest(F.normalize(embedding))}

    def _nearest(self, units: Embedding) -> Float[Tensor, " batch"]:
        # The neighbors are found in float32, twice as fast; the distance is then computed without cancellation.
        distances = self._kth(units, torch.float32)
        # float32 cannot tell close neighbors apart, as in an embedding whose classes have collapsed to points
        is_close = distances < CLOSE
        distances[is_close] = self._kth(units[is_close], torch.float64)
        return distances

    def _kth(self, units: Embedding, dtype: torch.dtype) -> Float[Tensor, " batch"]:
        """Return the distances to the k-th neighbors, which are searched in a dtype."""
        known = self.units.to(dtype).T
        parts = [(part.to(dtype) @ known).topk(self.neighbors).indices[:, -1] for part in units.split(QUERIES_AT_ONCE)]
        return (units - self.units[torch.cat(parts)]).norm(dim=1)


def shrinkage_of(residuals: Float[Tensor, "image feature"], covariance: Float[Tensor, "feature feature"]) -> float:
    r"""Return the shrinkage α of Ledoit and Wolf for centered points and their covariance (divided by the number).

    $$
    \alpha = \min\left(1, \frac{\frac{1}{n^2} \sum_i \lVert x_i x_i^T - S \rVert^2}{\lVert S - \mu I \rVert^2}\right),
    \qquad \mu = \frac{\mathrm{tr} S}{p}
    $$
    """
    count, size = residuals.shape
    square = float(covariance.square().sum())
    # Σ ‖x xᵀ − S‖² = Σ ‖x‖⁴ − n ‖S‖², and ‖S − μ I‖² = ‖S‖² − p μ²
    noise = (float(residuals.square().sum(1).square().sum()) / count - square) / count
    spread = square - float(covariance.diagonal().sum()) ** 2 / size
    return min(1.0, max(noise, 0.0) / spread) if spread > 1e-12 * square else 1.0


def _checked(embedding: Any) -> Embedding:
    check_tensors(embedding=embedding)
    if embedding.ndim != 2 or not embedding.is_floating_point():
        raise ShapeError(
            f"got an embedding of shape {tuple(embedding.shape)} and dtype {embedding.dtype}; expected floats of shape "
            "(image, feature)."
        )
    embedding = embedding.detach().to("cpu", torch.float64)
    if unusable := int((~embedding.isfinite()).any(1).sum()):
        raise DataError(
            f"the embeddings of {unusable} of {len(embedding)} images contain NaN or infinite values; leave these "
            "images out."
        )
    return embedding
