"""A prior given by a density that was fitted to a data set."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.types import Images
from pellucid.densities import Density
from pellucid.synthesis import PRIORS, Parameters, Prior

__all__ = ["Expert"]

CANDIDATES = 250
BRIGHTNESSES = (1.0, 0.75, 0.5, 0.25)
"""Each probable image is a candidate at these brightnesses: the most probable image of a class can be a faint one."""


@PRIORS.register("expert")
@dataclass(frozen=True, kw_only=True)
class Expert(Prior):
    """log p(x) of a density fitted to a data set, searched in input space from the density's own probable images.

    Montavon, Samek and Müller, 2018, section 3.2.
    """

    needs_density: ClassVar[bool] = True

    density: Density
    """The expert: a Gaussian mixture, or the ELBO of a VAE."""
    weight: float = 1e-4
    steps: int = 100
    learning_rate: float = 0.02
    starts: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.density.image_shape

    def begin(self, count: int, seed: int) -> Parameters:
        """Return probable images and darker ones, repeated until there are `count`."""
        images = self.density.likely(CANDIDATES, seed)
        likely = torch.cat([brightness * images for brightness in BRIGHTNESSES])
        # -(-a // b) rounds up
        return likely.repeat(-(-count // len(likely)), 1, 1, 1) if len(likely) < count else likely

    def decode(self, parameters: Parameters) -> Images:
        """Return the parameters, which are the pixels."""
        return parameters

    def log_prior(self, parameters: Parameters, images: Images) -> Float[Tensor, " prototype"]:  # noqa: ARG002
        """Return the density's log p(x)."""
        return self.density.log_density(images)

    def of_images(self, images: Images) -> tuple[Images, Float[Tensor, " batch"]]:
        """Return the images themselves, and their log p(x)."""
        return images, self.density.log_density(images)

    def constrain(self, parameters: Parameters) -> None:
        """Clamp pixels to [0, 1]."""
        parameters.clamp_(0, 1)

    def on(self, device: torch.device) -> "Expert":
        """Return a copy whose density computes on `device`."""
        return replace(self, density=self.density.on(device))
