"""A prior over the codes of a decoder: the search runs in its latent space."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.types import Images
from pellucid.densities import Density
from pellucid.densities.vae import VAE
from pellucid.synthesis import PRIORS, Parameters, Prior

__all__ = ["Code"]

CANDIDATES = 2000


@PRIORS.register("code")
@dataclass(frozen=True, kw_only=True)
class Code(Prior):
    r"""$x = g(z)$ with $\log p(z) = -\lVert z \rVert^2 / 2$, up to a constant: the latent space of a VAE.

    Montavon, Samek and Müller, 2018, section 3.3; Nguyen et al., *Synthesizing the preferred inputs for neurons in
    neural networks via deep generator networks*, 2016.
    """

    needs_density: ClassVar[bool] = True

    density: Density
    """The VAE with decoder g."""
    weight: float = 1e-3
    steps: int = 120
    learning_rate: float = 0.1
    starts: int = 4
    refined_share: float = 1.0

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values out of range, and for a density without a latent space."""
        super().__post_init__()
        if not isinstance(self.density, VAE):
            raise ConfigError(
                f"the prior 'code' got a {type(self.density).__name__}, which has no latent space; give density='vae'."
            )

    @property
    def vae(self) -> VAE:
        """The density, typed as a VAE."""
        assert isinstance(self.density, VAE)
        return self.density

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.density.image_shape

    def begin(self, count: int, seed: int) -> Parameters:
        """Draw codes from the prior."""
        return self.vae.likely_codes(max(count, CANDIDATES), seed)

    def decode(self, parameters: Parameters) -> Images:
        """Return the images g(z)."""
        return self.vae.decode(parameters)

    def log_prior(self, parameters: Parameters, images: Images) -> Float[Tensor, " prototype"]:  # noqa: ARG002
        """Return −‖z‖² / 2."""
        return -parameters.square().sum(1) / 2

    def of_images(self, images: Images) -> tuple[Images, Float[Tensor, " batch"]]:
        """Return the reconstructions of the images, and the log-prior of their mean codes."""
        # the decoder cannot express every image, so compare with what it can
        codes = self.vae.encode(images)
        return self.vae.decode(codes), self.log_prior(codes, images)

    def on(self, device: torch.device) -> "Code":
        """Return a copy whose density computes on `device`."""
        return replace(self, density=self.density.on(device))
