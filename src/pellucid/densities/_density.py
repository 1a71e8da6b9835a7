"""The density contract, and the held-out log-likelihood."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.errors import DataError, ShapeError
from pellucid.core.isolation import without_autocast
from pellucid.core.seeding import generator
from pellucid.core.types import Images, Pixels

__all__ = [
    "LARGEST",
    "Density",
    "HeldOut",
    "Minimise",
    "check_images",
    "check_shape",
    "dequantised",
    "floats_of",
    "held_out",
]

LARGEST = 12_288
"""Largest image a density is fitted to, in values (3×64×64); fitting larger ones takes too long."""
FEWEST = 2
"""Minimum number of images; fewer have no variance."""
LEVELS = 256


@runtime_checkable
class Minimise(Protocol):
    """A training function that a density's `fit` receives: trains a module in place."""

    def __call__(self, module: nn.Module, loss: Callable[[int], Tensor], *, steps: int, learning_rate: float) -> None:
        """Minimize `loss(step)`, a scalar that depends on the module's parameters, in `steps` steps."""


class Density(ABC):
    """A probability density p(x) of images, in nats, for pixels in [0, 1].

    A density is registered under its file's name. It never trains itself: `fit` receives the function that does, so
    that training can be shown, interrupted and resumed.

    >>> from pellucid.densities import DENSITIES
    >>> from pellucid.training.descent import descend
    >>> images = torch.randint(256, (50, 1, 4, 4)).byte()
    >>> kind = DENSITIES["gaussian_mixture"]
    >>> density = kind.fit(images, seed=0, minimise=descend, device=torch.device("cpu"))
    >>> restored = kind.from_state(density.state())
    >>> torch.equal(restored.log_density(images / 255), density.log_density(images / 255))
    True
    """

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it was fitted to."""

    @classmethod
    def recipe(cls) -> str | None:
        """Return the version and the settings of `fit` as text; equal texts promise equal fits.

        A density with a recipe is kept with the data, for later runs. None, the default, keeps it in the run only.
        """
        return None

    @classmethod
    @abstractmethod
    def fit(cls, images: Pixels, *, seed: int, minimise: Minimise, device: torch.device) -> "Density":
        """Fit a density to `images`; densities that need gradient training call `minimise`."""

    @abstractmethod
    def log_density(self, images: Images) -> Float[Tensor, " batch"]:
        """Return log p(x) of each image, in nats; differentiable, and independent of the rest of the batch."""

    @abstractmethod
    def likely(self, count: int, seed: int) -> Images:
        """Return up to `count` probable images in [0, 1], as starting points of a search."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return everything needed to restore the density, as tensors."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Density":
        """Restore a density from its `state`."""

    @abstractmethod
    def on(self, device: torch.device) -> "Density":
        """Return a copy on `device`, or the density itself if it is already there."""


@dataclass(frozen=True)
class HeldOut:
    """Log-likelihood on held-out images."""

    nats: float
    """Mean log-likelihood per image, in nats."""
    bits_per_dim: float
    """Mean of −log₂ p per byte."""
    images: int
    """Number of held-out images."""


def held_out(density: Density, images: Pixels, *, at_most: int = 2000, seed: int = 0) -> HeldOut:
    r"""Compute the log-likelihood of up to `at_most` of the `images`, evenly spaced.

    Bytes are dequantized, $x = (b + u) / 256$ with $u$ uniform in [0, 1), so that the mean of log p(x) is a lower bound
    on the log-probability of the bytes; bits per dim are $8 - \log_2 p(x) / D$ (Theis, van den Oord and Bethge, *A note
    on the evaluation of generative models*, 2016). If the density returns a bound (the VAE), so does this function.
    """
    count = min(len(images), at_most)
    indices = torch.arange(count, device="cpu") * len(images) // max(count, 1)
    draws, total = generator(seed, "held out"), 0.0
    with without_autocast(), torch.no_grad():
        # summed in float64: thousands of log-likelihoods of about a thousand nats
        for part in indices.split(500):
            total += float(density.log_density(dequantised(floats_of(images[part]), draws)).double().sum())
    nats = total / count if count else float("nan")
    dims = math.prod(density.image_shape)
    return HeldOut(nats, math.log2(LEVELS) - nats / (dims * math.log(2)), count)


def dequantised(images: Images, draws: torch.Generator) -> Images:
    """Add uniform noise of one byte level, within [0, 1]; the density of discrete values would be unbounded."""
    # drawn on the CPU, so that the noise is the same for every device
    noise = torch.rand(images.shape, generator=draws, dtype=images.dtype, device="cpu").to(images.device)
    # back to byte values 0…255 before adding noise in [0, 1)
    return (images * (LEVELS - 1) + noise) / LEVELS


def floats_of(pixels: Pixels) -> Images:
    """Convert uint8 0…255 to floats in [0, 1]; floats are returned unchanged."""
    return pixels.float() / (LEVELS - 1) if pixels.dtype == torch.uint8 else pixels


def check_images(images: Pixels) -> None:
    """Raise `DataError` for too few or too large images."""
    size = math.prod(images.shape[1:])
    if len(images) < FEWEST:
        raise DataError(f"cannot fit a density to {len(images)} images; give at least {FEWEST}.")
    if size > LARGEST:
        shape = "×".join(map(str, images.shape[1:]))
        raise DataError(
            f"images of {shape} have {size:,} values, but a density can be fitted to at most {LARGEST:,}; "
            "shrink them (--image-size 64), or use the prior 'l2', which needs no density."
        )


def check_shape(density: Density, images: Images) -> None:
    """Raise `ShapeError` for images of a different shape than the density's."""
    if tuple(images.shape[1:]) != density.image_shape:
        raise ShapeError(
            f"got images of shape {tuple(images.shape[1:])}, but the density was fitted to {density.image_shape} "
            "(channels, height, width); give images of that shape, or fit a density to yours."
        )
