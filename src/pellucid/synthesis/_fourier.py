"""Images parametrized by their spectrum, with balanced scales and decorrelated colors."""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.types import Images

__all__ = ["Spectrum", "begin_spectrum", "colour_mixing", "image_of_spectrum"]

Spectrum = Float[Tensor, "batch channel height half_width two"]
"""Real and imaginary parts of a real image's Fourier coefficients, each divided by its scale."""


def begin_spectrum(count: int, shape: tuple[int, int, int], draws: torch.Generator) -> Spectrum:
    """Draw spectra of faint noise around mid-gray."""
    channels, height, width = shape
    coefficients = (count, channels, height, width // 2 + 1, 2)
    return 0.01 * torch.randn(coefficients, generator=draws, dtype=torch.float32, device="cpu")


def image_of_spectrum(spectrum: Spectrum, width: int, correlation: float) -> Images:
    r"""Return the images of `spectrum`, in (0, 1).

    $x = s(M \, F^{-1}(c / f))$. Each coefficient $c$ is divided by its frequency $f$, so that steps of equal size
    change each scale in proportion to its amplitude in natural images, which falls with $1 / f$ (Field, 1987). $M$
    mixes independent channels into colors with correlation `correlation`; $s$ is the logistic function. The
    parametrization follows Olah, Mordvintsev and Schubert, *Feature visualization*, 2017.
    """
    height = spectrum.shape[2]
    down = torch.fft.fftfreq(height, device=spectrum.device, dtype=spectrum.dtype)
    across = torch.fft.rfftfreq(width, device=spectrum.device, dtype=spectrum.dtype)
    frequency = torch.hypot(down[:, None], across[None])
    scale = 1 / frequency.clamp_min(1 / max(height, width))  # the constant component has frequency 0
    # view_as_complex requires the real and the imaginary part to be adjacent in memory
    coefficients = torch.view_as_complex((spectrum * scale[..., None]).contiguous())
    channels = torch.fft.irfft2(coefficients, s=(height, width), norm="ortho")
    # only RGB has known correlations
    if channels.shape[1] == 3:
        channels = torch.einsum("oc,bchw->bohw", colour_mixing(correlation).to(channels), channels)
    return channels.sigmoid()


def colour_mixing(correlation: float) -> Float[Tensor, "colour channel"]:
    """Return the symmetric square root of the RGB correlation matrix, which maps independent channels to colors.

    >>> mixing = colour_mixing(0.9)
    >>> (mixing @ mixing.T)[0]
    tensor([1.0000, 0.9000, 0.9000])
    """
    # in float64, since small eigenvalues are differences of nearly equal numbers
    correlations = torch.full((3, 3), correlation, dtype=torch.float64, device="cpu").fill_diagonal_(1)
    variances, directions = torch.linalg.eigh(correlations)
    return (directions * variances.clamp_min(0).sqrt() @ directions.T).float()
