"""Images that a decoder makes: the search is among its codes."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.types import Images
from pellucid.densities import Density
from pellucid.densities.vae import VAE
from pellucid.synthesis import PRIORS
from pellucid.synthesis._prior import Parameters, Prior

__all__ = ["Code"]

CANDIDATES = 2000


@PRIORS.register("code")
@dataclass(frozen=True, kw_only=True)
class Code(Prior):
    r"""$x = g(z)$ with $\log p(z) = -\lVert z \rVert^2 / 2$, up to a constant: in the code space of a VAE.

    Montavon, Samek and Müller, 2018, section 3.3; Nguyen et al., *Synthesizing the preferred inputs for neurons in
    neural networks via deep generator networks*, 2016.
    """

    needs_density: ClassVar[bool] = True

    density: Density
    """The VAE whose decoder is g."""
    weight: float = 1e-3
    steps: int = 250
    learning_rate: float = 0.1
    starts: int = 4

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number out of its range, and for a density that has no codes."""
        super().__post_init__()
        if not isinstance(self.density, VAE):
            raise ConfigError(
                f"the prior 'code' was given a {type(self.density).__name__}, which has no codes; give density='vae'."
            )

    @property
    def vae(self) -> VAE:
        """The density as what it is."""
        assert isinstance(self.density, VAE)
        return self.density

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        return self.density.image_shape

    def begin(self, count: int, seed: int) -> Parameters:
        """Codes drawn from the prior."""
        return self.vae.likely_codes(max(count, CANDIDATES), seed)

    def decode(self, parameters: Parameters) -> Images:
        """The images g(z)."""
        return self.vae.decode(parameters)

    def log_prior(self, parameters: Parameters, images: Images) -> Float[Tensor, " prototype"]:  # noqa: ARG002
        """−‖z‖² / 2."""
        return -parameters.square().sum(1) / 2

    def of_images(self, images: Images) -> tuple[Images, Float[Tensor, " batch"]]:
        """The reconstructions of the images, and the log-prior of their mean codes."""
        codes = self.vae.encode(images)
        return self.vae.decode(codes), self.log_prior(codes, images)

    def on(self, device: torch.device) -> "Code":
        """A copy whose density computes on `device`."""
        return replace(self, density=self.density.on(device))
