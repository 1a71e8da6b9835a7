"""A Gaussian mixture on principal components: the fast density."""

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
from pellucid.densities import DENSITIES, Density, Minimise
from pellucid.densities._density import check_images, check_shape, dequantised, floats_of

__all__ = ["GaussianMixture"]

IMAGES = 8_000
"""Maximum number of images to fit; the rest is left out at random."""
COMPONENTS = 60
FEATURES = 40
IMAGES_PER_COMPONENT = 40
ROUNDS = 20
SMALLEST_VARIANCE = 1e-3
"""Added to the variances of each component for stability, in squared pixel units."""


@DENSITIES.register("gaussian_mixture")
@dataclass(frozen=True, eq=False)
class GaussianMixture(Density):
    r"""A Gaussian mixture in the span of the principal components, with isotropic noise in all other directions.

    With the coordinates $z = V (x - \mu)$ along the $d$ principal directions of $D$ dimensions,

    $$
    \log p(x) = \log \sum_k w_k \, N(z; m_k, \Sigma_k)
      - \frac{\lVert x - \mu - V^T z \rVert^2}{2 \sigma^2} - \frac{D - d}{2} \log 2 \pi \sigma^2
    $$

    where $\sigma^2$ is the mean variance of the discarded directions (Tipping and Bishop, *Mixtures of probabilistic
    principal component analysers*, 1999, with one shared subspace). Fitted with scikit-learn's `PCA` and
    `GaussianMixture` in a single thread, so that equal images give bit-identical results.
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
    """(k, d, d): Cholesky factors of the precisions in scikit-learn's convention: z @ factor whitens."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it was fitted to."""
        channels, height, width = self.shape.tolist()
        return channels, height, width

    @classmethod
    def recipe(cls) -> str:
        """Return the version and the settings of `fit` as text."""
        return f"1 {IMAGES} {COMPONENTS} {FEATURES} {IMAGES_PER_COMPONENT} {ROUNDS} {SMALLEST_VARIANCE}"

    @classmethod
    def fit(cls, images: Pixels, *, seed: int, minimise: Minimise, device: torch.device) -> "GaussianMixture":  # noqa: ARG003
        """Fit the mixture to `images`, without gradient training: a few seconds for MNIST.

        Raises `DataError` for fewer than two images, and for images with more than 12,288 values.
        """
        check_images(images)
        draws = generator(seed, "gaussian mixture")
        chosen = torch.randperm(len(images), generator=draws, device="cpu")[:IMAGES].sort().values
        # float64, since small variances are differences of large sums
        points = dequantised(floats_of(images[chosen]), draws).flatten(1).numpy().astype(np.float64)
        with threadpool_limits(1):
            parts = _fit(points, derive_seed(seed, "mixture"))
        tensors = {
            name: torch.as_tensor(value, dtype=torch.float32, device="cpu").contiguous()
            for name, value in parts.items()
        }
        return cls(torch.tensor(images.shape[1:], device="cpu"), **tensors).on(device)

    def log_density(self, images: Images) -> Float[Tensor, " batch"]:
        """Return log p(x) of each image, in nats; raises `ShapeError` for images of another shape."""
        check_shape(self, images)
        centered = images.flatten(1) - self.mean.to(images.dtype)
        directions, whitening = self.directions.to(images.dtype), self.whitening.to(images.dtype)
        with without_autocast():
            z = centered @ directions.T
            residual = (centered - z @ directions).square().sum(1)
            # n: image, k: component, d: coordinate, e: whitened coordinate
            whitened = torch.einsum("nkd,kde->nke", z[:, None] - self.means.to(images.dtype), whitening)
        # the log determinant of a triangular factor is the sum of its log diagonal
        half_log_determinant = whitening.diagonal(dim1=1, dim2=2).log().sum(1)
        d, size = directions.shape
        inside = self.log_weights + half_log_determinant - whitened.square().sum(2) / 2 - d / 2 * math.log(2 * math.pi)
        noise = self.noise.to(images.dtype)
        return inside.logsumexp(1) - residual / (2 * noise) - (size - d) / 2 * (2 * math.pi * noise).log()

    def likely(self, count: int, seed: int) -> Images:  # noqa: ARG002
        """Return the component means, heaviest first."""
        order = self.log_weights.argsort(descending=True)[:count]
        with without_autocast():
            return (self.means[order] @ self.directions + self.mean).clamp(0, 1).view(-1, *self.image_shape)

    def state(self) -> dict[str, Tensor]:
        """Return all fields, on the CPU."""
        # safetensors refuses tensors that are not contiguous
        return {field.name: getattr(self, field.name).cpu().contiguous() for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "GaussianMixture":
        """Restore a mixture from its `state`."""
        return cls(**state)

    def on(self, device: torch.device) -> "GaussianMixture":
        """Return a copy on `device`, or the mixture itself if it is already there."""
        if self.mean.device == device:
            return self
        return type(self)(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def _fit(points: np.ndarray, seed: int) -> dict[str, Any]:
    """Fit the mixture to `points` (image, D), and return its fields as arrays."""
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Mixture

    count, size = points.shape
    # centered images span at most count - 1 directions, and at least one of the D dimensions is left to the noise
    features = max(1, min(FEATURES, count - 1, size - 1))
    # the exact solvers while they are fast; "covariance_eigh" needs more images than pixels
    solver = "covariance_eigh" if size <= min(count, 2000) else "full" if count <= 2000 else "randomized"
    pca = PCA(features, svd_solver=solver, random_state=seed).fit(points)
    coordinates = pca.transform(points)
    # each component needs enough images for its covariance
    components = max(1, min(COMPONENTS, count // IMAGES_PER_COMPONENT))
    mixture = Mixture(
        components, max_iter=ROUNDS, init_params="k-means++", reg_covar=SMALLEST_VARIANCE, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more iterations hardly raise the held-out likelihood
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
