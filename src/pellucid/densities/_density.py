"""The contract of a density, and how well it foresees images it was not fitted to."""

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
"""The most numbers in an image that a density is fitted to (3×64×64): above, fitting takes too long."""
FEWEST = 2
"""Fewer images than this have no spread."""
LEVELS = 256


@runtime_checkable
class Minimise(Protocol):
    """Trains a module in place: what a density that must be trained is given."""

    def __call__(self, module: nn.Module, loss: Callable[[int], Tensor], *, steps: int, learning_rate: float) -> None:
        """Lower `loss(step)`, a scalar that depends on the module's parameters, in `steps` steps."""


class Density(ABC):
    """How probable an image is among those it was fitted to: p(x), in nats, for pixels in [0, 1]."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it knows."""

    @classmethod
    @abstractmethod
    def fit(cls, images: Pixels, *, seed: int, minimise: Minimise, device: torch.device) -> "Density":
        """The density of `images`; what must be trained for it, `minimise` trains."""

    @abstractmethod
    def log_density(self, images: Images) -> Float[Tensor, " batch"]:
        """The log p(x) of each image, in nats; differentiable, and for each image as if it were alone."""

    @abstractmethod
    def likely(self, count: int, seed: int) -> Images:
        """At most `count` probable images, in [0, 1]: where a search may begin."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that is needed to make it anew, as tensors."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Density":
        """The inverse of `state`."""

    @abstractmethod
    def on(self, device: torch.device) -> "Density":
        """A copy on `device`; itself where it is there."""


@dataclass(frozen=True)
class HeldOut:
    """How well a density foresees images it was not fitted to."""

    nats: float
    """The mean log-likelihood of an image, in nats."""
    bits_per_dim: float
    """−log₂ of the probability of a pixel's byte, on average."""
    images: int
    """How many images were held out."""


def held_out(density: Density, images: Pixels, *, at_most: int = 2000, seed: int = 0) -> HeldOut:
    r"""The log-likelihood of `images`, of at most so many, spread evenly.

    Bytes are made continuous, $x = (b + u) / 256$ with $u$ uniform in [0, 1), so that the mean of log p(x) bounds the
    log-probability of the bytes: bits per dim are $8 - \log_2 p(x) / D$ (Theis, van den Oord and Bethge, *A note on the
    evaluation of generative models*, 2016). Where the density gives a bound (the VAE), so is this.
    """
    count = min(len(images), at_most)
    indices = torch.arange(count, device="cpu") * len(images) // max(count, 1)
    draws, total = generator(seed, "held out"), 0.0
    with without_autocast(), torch.no_grad():
        for part in indices.split(500):
            total += float(density.log_density(dequantised(floats_of(images[part]), draws)).double().sum())
    nats = total / count if count else float("nan")
    dims = math.prod(density.image_shape)
    return HeldOut(nats, math.log2(LEVELS) - nats / (dims * math.log(2)), count)


def dequantised(images: Images, draws: torch.Generator) -> Images:
    """Images made of bytes with noise of one level, in [0, 1]: their density is then finite."""
    noise = torch.rand(images.shape, generator=draws, dtype=images.dtype, device="cpu").to(images.device)
    return (images * (LEVELS - 1) + noise) / LEVELS


def floats_of(pixels: Pixels) -> Images:
    """Bytes 0…255 as floats in [0, 1]; floats unchanged."""
    return pixels.float() / (LEVELS - 1) if pixels.dtype == torch.uint8 else pixels


def check_images(images: Pixels) -> None:
    """Raise `DataError` where a density cannot be fitted: too few images, or too large ones."""
    size = math.prod(images.shape[1:])
    if len(images) < FEWEST:
        raise DataError(f"a density was asked for of {len(images)} images; give at least {FEWEST}.")
    if size > LARGEST:
        shape = "×".join(map(str, images.shape[1:]))
        raise DataError(
            f"images of {shape} hold {size:,} numbers, and a density is fitted to {LARGEST:,} at most; "
            "shrink them (--image-size 64), or use the prior 'l2', which needs none."
        )


def check_shape(density: Density, images: Images) -> None:
    """Raise `ShapeError` for images of another shape than the density's."""
    if tuple(images.shape[1:]) != density.image_shape:
        raise ShapeError(
            f"the images are {tuple(images.shape[1:])}, and the density was fitted to {density.image_shape}; "
            "give images of that shape (channels, height, width), or fit a density to yours."
        )
