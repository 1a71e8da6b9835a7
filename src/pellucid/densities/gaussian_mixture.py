"""A Gaussian mixture on principal components: the fast density."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.core.isolation import without_autocast
from pellucid.core.seeding import generator
from pellucid.core.types import Images, Pixels
from pellucid.densities import DENSITIES, Density, Minimise
from pellucid.densities._components import Components, principal_components
from pellucid.densities._density import check_images, check_shape, dequantised, floats_of

__all__ = ["GaussianMixture"]

IMAGES = 8_000
"""Maximum number of images to fit; the rest is left out at random."""
COMPONENTS = 60
FEATURES = 60
IMAGES_PER_COMPONENT = 40
GROUPING_ROUNDS = 5
"""Rounds of k-means, from which expectation maximization starts."""
ROUNDS = 4
"""Rounds of expectation maximization; more hardly raise the likelihood of held-out images."""
BORROWED_IMAGES = 20
"""Number of images that each covariance borrows from the covariance within all components."""
SMALLEST_VARIANCE = 1e-3
"""Added to the variances of each component for stability, in squared pixel units."""
NEGLIGIBLE = 1e-7
"""Responsibility below which an image does not count for a component, in float32's resolution."""

Coordinates = Float[Tensor, "image coordinate"]
Responsibilities = Float[Tensor, "image component"]
"""Probability that each image belongs to each component."""
Parts = tuple[Float[Tensor, " component"], Float[Tensor, "component coordinate"], Float[Tensor, "component row column"]]
"""Log weights, means and whitening factors of the components."""


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
    principal component analysers*, 1999, with one shared subspace).

    Fitted by expectation maximization (Dempster, Laird and Rubin, *Maximum likelihood from incomplete data via the EM
    algorithm*, 1977), started from k-means++. A component has few images for the many entries of its covariance, so
    each is averaged with the covariance within all components.
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
    """(k, d, d): triangular factors of the precisions: (z - m) @ factor has independent coordinates of variance 1."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it was fitted to."""
        channels, height, width = self.shape.tolist()
        return channels, height, width

    @classmethod
    def recipe(cls) -> str:
        """Return the version and the settings of `fit` as text."""
        settings = (IMAGES, COMPONENTS, FEATURES, IMAGES_PER_COMPONENT, GROUPING_ROUNDS, ROUNDS, BORROWED_IMAGES)
        return f"2 {settings} {SMALLEST_VARIANCE} {NEGLIGIBLE}"

    @classmethod
    def fit(cls, images: Pixels, *, seed: int, minimise: Minimise, device: torch.device) -> "GaussianMixture":  # noqa: ARG003
        """Fit the mixture to `images`, without gradient training: one or two seconds for MNIST.

        Raises `DataError` for fewer than two images, and for images with more than 12,288 values.
        """
        check_images(images)
        draws = generator(seed, "gaussian mixture")
        # in random order, as `principal_components` expects
        chosen = torch.randperm(len(images), generator=draws, device="cpu")[:IMAGES]
        points = dequantised(floats_of(images[chosen]), draws).flatten(1)
        with without_autocast():
            # at least one of the dimensions is left to the noise
            components = principal_components(points, max(1, min(FEATURES, points.shape[1] - 1)))
            coordinates = components.coordinates(points)
            # each component needs enough images for its covariance
            count = max(1, min(COMPONENTS, len(points) // IMAGES_PER_COMPONENT))
            parts = _maximised(coordinates, _groups(coordinates, count, draws))
            for _ in range(ROUNDS):
                parts = _maximised(coordinates, _responsibilities(coordinates, parts))
            noise = _noise(points, components)
        shape = torch.tensor(images.shape[1:], device="cpu")
        return cls(shape, components.mean, components.directions, noise, *parts).on(device)

    def log_density(self, images: Images) -> Float[Tensor, " batch"]:
        """Return log p(x) of each image, in nats; raises `ShapeError` for images of another shape."""
        check_shape(self, images)
        centered = images.flatten(1) - self.mean.to(images.dtype)
        directions, noise = self.directions.to(images.dtype), self.noise.to(images.dtype)
        weights, means, whitening = (part.to(images.dtype) for part in (self.log_weights, self.means, self.whitening))
        with without_autocast():
            z = centered @ directions.T
            residual = (centered - z @ directions).square().sum(1)
            inside = _log_densities(z, (weights, means, whitening)).logsumexp(1)
        d, size = directions.shape
        return inside - residual / (2 * noise) - (size - d) / 2 * (2 * math.pi * noise).log()

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


def _noise(points: Tensor, components: Components) -> Float[Tensor, ""]:
    """Return the mean variance of the points in the directions that are not among the components."""
    total = points.var(0).sum(dtype=torch.float64) - components.variances.sum(dtype=torch.float64)
    # of a single pixel, no direction is left
    left_out = max(1, points.shape[1] - len(components.directions))
    return (total / left_out).clamp_min(SMALLEST_VARIANCE).float()


def _groups(coordinates: Coordinates, count: int, draws: torch.Generator) -> Responsibilities:
    """Divide the images into `count` groups by k-means, and return which image belongs to which."""
    centers = coordinates[_spread(coordinates, count, draws)]
    for _ in range(GROUPING_ROUNDS):
        groups = torch.cdist(coordinates, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, groups, coordinates)
        sizes = torch.bincount(groups, minlength=count)[:, None]
        # a group that lost all its images keeps its center
        centers = torch.where(sizes > 0, sums / sizes.clamp_min(1), centers)
    return F.one_hot(torch.cdist(coordinates, centers).argmin(1), count).to(coordinates.dtype)


def _spread(coordinates: Coordinates, count: int, draws: torch.Generator) -> list[int]:
    """Choose images far from one another: k-means++ (Arthur and Vassilvitskii, 2007)."""
    chosen = [int(torch.randint(len(coordinates), (1,), generator=draws, device="cpu"))]
    distance = torch.full((len(coordinates),), math.inf, dtype=coordinates.dtype, device="cpu")
    while len(chosen) < count:
        distance = torch.minimum(distance, (coordinates - coordinates[chosen[-1]]).square().sum(1))
        # if all images are equal, any of them will do
        weights = distance if distance.sum() > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weights, 1, generator=draws)))
    return chosen


def _responsibilities(coordinates: Coordinates, parts: Parts) -> Responsibilities:
    """Return the responsibilities of given components: the expectation step."""
    return _log_densities(coordinates, parts).softmax(1)


def _maximised(coordinates: Coordinates, responsibilities: Responsibilities) -> Parts:
    """Return the components with the largest likelihood for given responsibilities: the maximization step."""
    # an empty component gets the mean of all images, with a negligible weight
    totals = responsibilities.sum(0).clamp_min(NEGLIGIBLE)
    means = responsibilities.T @ coordinates / totals[:, None]
    scatters = []
    for share, mean in zip(responsibilities.T, means, strict=True):
        # few images count for a component, since in many dimensions most responsibilities are 0 or 1
        counted = (share > NEGLIGIBLE).nonzero().flatten()
        centered = coordinates[counted] - mean
        scatters.append((centered * share[counted, None]).T @ centered)
    # float64, since the smallest variance may be 1e-6 of the largest
    scatter = torch.stack(scatters).double()
    shared = BORROWED_IMAGES * scatter.sum(0) / len(coordinates)
    variances = (scatter + shared) / (totals.double()[:, None, None] + BORROWED_IMAGES)
    identity = torch.eye(variances.shape[1], dtype=torch.float64, device="cpu")
    factors = torch.linalg.cholesky(variances + SMALLEST_VARIANCE * identity)
    whitening = torch.linalg.solve_triangular(factors, identity.expand_as(factors), upper=False).mT
    return (totals / totals.sum()).log(), means, whitening.to(coordinates.dtype).contiguous()


def _log_densities(coordinates: Coordinates, parts: Parts) -> Float[Tensor, "image component"]:
    """Return log w + log N(z; m, Σ) of each image and component."""
    log_weights, means, whitening = parts
    count, size = means.shape
    # n: image, k: component, d: coordinate, e: whitened coordinate; one matrix product for all components
    whitened = (coordinates @ whitening.permute(1, 0, 2).reshape(size, count * size)).view(-1, count, size)
    offsets = torch.einsum("kd,kde->ke", means, whitening)
    # the log determinant of a triangular factor is the sum of its log diagonal
    half_log_determinant = whitening.diagonal(dim1=1, dim2=2).log().sum(1)
    constants = log_weights + half_log_determinant - size / 2 * math.log(2 * math.pi)
    return constants - (whitened - offsets).square().sum(2) / 2
