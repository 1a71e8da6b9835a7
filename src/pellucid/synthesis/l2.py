"""A prior for smooth images close to an empty one; it needs no data."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.errors import ConfigError
from pellucid.core.seeding import generator
from pellucid.core.types import Images
from pellucid.synthesis import PRIORS, Parameters, Prior
from pellucid.synthesis._fourier import begin_spectrum, image_of_spectrum
from pellucid.synthesis._regularisers import blurred, total_variation

__all__ = ["L2"]

CANDIDATES = 1000
SPECTRUM_STEP = 0.2
"""Factor from a step in parameters to a step in the spectrum; steps as large as for pixels would be unstable there."""
LARGEST_BY_PIXELS = 64
"""Single-channel images up to this side are optimized in pixel space by default."""


@PRIORS.register("l2")
@dataclass(frozen=True, kw_only=True)
class L2(Prior):
    r"""$\log p(x) = -\lVert x - o \rVert^2 - \tau \, TV(x)$, up to a constant, in input space and without any data.

    Montavon, Samek and Müller, *Methods for interpreting and understanding deep neural networks*, 2018, equation 2,
    with total variation (Mahendran and Vedaldi, 2015).
    """

    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    weight: float = 1e-3
    steps: int = 200
    learning_rate: float = 0.5
    starts: int = 4
    refined_share: float = 1.0
    origin: float = 0.0
    """o: the brightness, in [0, 1], of the image from which the distance is measured; 0 is the empty image."""
    total_variation: float = 0.5
    """τ."""
    blur_pixels: float = 0.7
    """Standard deviation of the Gaussian blur that is part of the parametrization."""
    parametrisation: str = "auto"
    """`pixels`; `fourier`, a spectrum with decorrelated colors; or `auto`, pixels for small grayscale images."""
    colour_correlation: float = 0.9
    """Correlation of red, green and blue in the spectral parametrization."""

    def __post_init__(self) -> None:
        """Raise `ConfigError` for values out of range."""
        super().__post_init__()
        for name, high in (
            ("origin", 1.0),
            ("total_variation", 1e9),
            ("blur_pixels", 64),
            ("colour_correlation", 0.999),
        ):
            self._check_range(name, 0, high)
        if self.parametrisation not in ("pixels", "fourier", "auto"):
            raise ConfigError(f"got parametrisation={self.parametrisation!r}; expected pixels, fourier or auto.")
        if min(self.image_shape) < 1:
            raise ConfigError(f"got image_shape={self.image_shape}; expected positive (channels, height, width).")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.image_shape

    @property
    def is_fourier(self) -> bool:
        """True if spectra are optimized instead of pixels."""
        channels, height, width = self.image_shape
        # pixels converge fast for small gray images; large images by pixels show high-frequency patterns
        is_small = channels == 1 and max(height, width) <= LARGEST_BY_PIXELS
        return self.parametrisation == "fourier" or (self.parametrisation == "auto" and not is_small)

    def begin(self, count: int, seed: int) -> Parameters:
        """Draw noise: soft blobs on the empty image for pixels, faint noise around mid-gray for spectra."""
        draws = generator(seed, "prototypes", "l2")
        if self.is_fourier:
            return begin_spectrum(count, self.image_shape, draws) / SPECTRUM_STEP
        shape = (max(count, CANDIDATES), *self.image_shape)
        noise = torch.randn(shape, generator=draws, dtype=torch.float32, device="cpu")
        # blobs of about a twelfth of the image; unit contrast after blurring
        soft = blurred(noise, max(self.image_shape[1:]) / 12)
        soft = soft / soft.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
        # minus one standard deviation: with the default origin, clamping leaves most of the image empty
        return (self.origin + 0.25 * (soft - 1)).clamp(0, 1)

    def decode(self, parameters: Parameters) -> Images:
        """Return the blurred images of pixels or spectra."""
        if self.is_fourier:
            parameters = image_of_spectrum(SPECTRUM_STEP * parameters, self.image_shape[2], self.colour_correlation)
        return blurred(parameters, self.blur_pixels)

    def log_prior(self, parameters: Parameters, images: Images) -> Float[Tensor, " prototype"]:  # noqa: ARG002
        """Return −‖x − o‖² − τ TV(x)."""
        distance = (images - self.origin).square().sum((1, 2, 3))
        return -distance - self.total_variation * total_variation(images)

    def of_images(self, images: Images) -> tuple[Images, Float[Tensor, " batch"]]:
        """Return the images themselves, and their log p(x)."""
        return images, self.log_prior(images, images)

    def constrain(self, parameters: Parameters) -> None:
        """Clamp pixels to [0, 1]; spectra are unconstrained."""
        if not self.is_fourier:
            parameters.clamp_(0, 1)
