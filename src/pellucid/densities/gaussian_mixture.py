"""A mixture of Gaussians on the principal components: the quick density."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from pellucid.core.isolation import without_autocast
from pellucid.core.seeding import derive_seed, generator
from pellucid.core.types import Images, Pixels
from pellucid.densities import DENSITIES
from pellucid.densities._density import Density, Minimise, check_images, check_shape, dequantised, floats_of

__all__ = ["GaussianMixture"]

IMAGES = 8_000
"""Fitted to so many images at most, drawn by seed."""
COMPONENTS = 60
FEATURES = 40
IMAGES_PER_COMPONENT = 40
ROUNDS = 20
SMALLEST_VARIANCE = 1e-3
"""Added to each component's variances, in squared units of pixel."""


@DENSITIES.register("gaussian_mixture")
@dataclass(frozen=True, eq=False)
class GaussianMixture(Density):
    r"""Gaussians in the span of the principal components, and even noise in all other directions.

    With the components' coordinates $z = V (x - \mu)$ of the $d$ principal directions among $D$,

    $$
    \log p(x) = \log \sum_k w_k \, N(z; m_k, \Sigma_k)
      - \frac{\lVert x - \mu - V^T z \rVert^2}{2 \sigma^2} - \frac{D - d}{2} \log 2 \pi \sigma^2
    $$

    with $\sigma^2$ the mean variance of the directions left out (Tipping and Bishop, *Mixtures of probabilistic
    principal component analysers*, 1999, with one common subspace). Fitted by scikit-learn's `PCA` and
    `GaussianMixture`, in one thread, so that equal images give equal bits.
    """

    shape: Tensor
    """(3,): channels, height, width."""
    mean: Tensor
    """(D,): μ."""
    directions: Tensor
    """(d, D): V."""
    noise: Tensor
    """(): σ²."""
    log_weights: Tensor
    """(k,): log w."""
    means: Tensor
    """(k, d): m."""
    whitening: Tensor
    """(k, d, d): the Cholesky factors of the precisions, as scikit-learn has them: columns whiten."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it knows."""
        channels, height, width = self.shape.tolist()
        return channels, height, width

    @classmethod
    def fit(cls, images: Pixels, *, seed: int, minimise: Minimise, device: torch.device) -> "GaussianMixture":  # noqa: ARG003
        """The density of `images`: some seconds for MNIST. Nothing is trained by gradients.

        Raises `DataError` for fewer than two images, and for images above 12,288 numbers.
        """
        check_images(images)
        draws = generator(seed, "gaussian mixture")
        chosen = torch.randperm(len(images), generator=draws, device="cpu")[:IMAGES].sort().values
        points = dequantised(floats_of(images[chosen]), draws).flatten(1).numpy().astype(np.float64)
        with threadpool_limits(1):
            parts = _fit(points, derive_seed(seed, "mixture"))
        tensors = {
            name: torch.as_tensor(value, dtype=torch.float32, device="cpu").contiguous()
            for name, value in parts.items()
        }
        return cls(torch.tensor(images.shape[1:], device="cpu"), **tensors).on(device)

    def log_density(self, images: Images) -> Float[Tensor, " batch"]:
        """The log p(x) of each image, in nats; raises `ShapeError` for images of another shape."""
        check_shape(self, images)
        centred = images.flatten(1) - self.mean.to(images.dtype)
        directions, whitening = self.directions.to(images.dtype), self.whitening.to(images.dtype)
        with without_autocast():
            z = centred @ directions.T
            left = (centred - z @ directions).square().sum(1)
            # n: image, k: component, d: coordinate, e: whitened coordinate
            whitened = torch.einsum("nkd,kde->nke", z[:, None] - self.means.to(images.dtype), whitening)
        half_log_determinant = whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        d, size = directions.shape
        inside = self.log_weights + half_log_determinant - whitened.square().sum(2) / 2 - d / 2 * math.log(2 * math.pi)
        noise = self.noise.to(images.dtype)
        return inside.logsumexp(1) - left / (2 * noise) - (size - d) / 2 * (2 * math.pi * noise).log()

    def likely(self, count: int, seed: int) -> Images:  # noqa: ARG002
        """The means of its components, the heaviest first."""
        order = self.log_weights.argsort(descending=True)[:count]
        with without_autocast():
            return (self.means[order] @ self.directions + self.mean).clamp(0, 1).view(-1, *self.image_shape)

    def state(self) -> dict[str, Tensor]:
        """All fields, on the CPU."""
        return {field.name: getattr(self, field.name).cpu().contiguous() for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "GaussianMixture":
        """The inverse of `state`."""
        return cls(**state)

    def on(self, device: torch.device) -> "GaussianMixture":
        """A copy on `device`; itself where it is there."""
        if self.mean.device == device:
            return self
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def _fit(points: np.ndarray, seed: int) -> dict[str, Any]:
    """The fields of the mixture of `points` (image, D), as arrays."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Mixture

    count, size = points.shape
    features = max(1, min(FEATURES, count - 1, size - 1))
    solver = "covariance_eigh" if size <= min(count, 2000) else "full" if count <= 2000 else "randomized"
    pca = PCA(features, svd_solver=solver, random_state=seed).fit(points)
    coordinates = pca.transform(points)
    components = max(1, min(COMPONENTS, count // IMAGES_PER_COMPONENT))
    mixture = Mixture(
        components, max_iter=ROUNDS, init_params="k-means++", reg_covar=SMALLEST_VARIANCE, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more rounds gain little; the held-out images tell
        mixture.fit(coordinates)
    noise = max(float(pca.noise_variance_), SMALLEST_VARIANCE)
    return {
        "mean": pca.mean_,
        "directions": pca.components_,
        "noise": noise,
        "log_weights": np.log(mixture.weights_),
        "means": mixture.means_,
        "whitening": mixture.precisions_cholesky_,
    }
