"""Images by their spectrum, with equal steps at all scales and between independent colours."""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.core.types import Images

__all__ = ["Spectrum", "begin_spectrum", "colour_mixing", "image_of_spectrum"]

Spectrum = Float[Tensor, "batch channel height half_width two"]
"""Real and imaginary parts of a real image's Fourier coefficients, each divided by its scale."""


def begin_spectrum(count: int, shape: tuple[int, int, int], draws: torch.Generator) -> Spectrum:
    """Faint noise around mid-grey."""
    channels, height, width = shape
    coefficients = (count, channels, height, width // 2 + 1, 2)
    return 0.01 * torch.randn(coefficients, generator=draws, dtype=torch.float32, device="cpu")


def image_of_spectrum(spectrum: Spectrum, width: int, correlation: float) -> Images:
    r"""The images of `spectrum`, in (0, 1).

    $x = s(M \, F^{-1}(c / f))$: each coefficient $c$ is divided by its frequency $f$, so that a step of equal size
    changes an image as much at each scale as natural images differ there (their amplitude falls with $1 / f$; Field,
    1987); $M$ mixes independent channels into colours that correlate by `correlation`; $s$ is the logistic function.
    The parametrisation is that of Olah, Mordvintsev and Schubert, *Feature visualization*, 2017.
    """
    height = spectrum.shape[2]
    down = torch.fft.fftfreq(height, device=spectrum.device, dtype=spectrum.dtype)
    across = torch.fft.rfftfreq(width, device=spectrum.device, dtype=spectrum.dtype)
    frequency = torch.hypot(down[:, None], across[None])
    scale = 1 / frequency.clamp_min(1 / max(height, width))
    coefficients = torch.view_as_complex((spectrum * scale[..., None]).contiguous())
    channels = torch.fft.irfft2(coefficients, s=(height, width), norm="ortho")
    if channels.shape[1] == 3:
        channels = torch.einsum("oc,bchw->bohw", colour_mixing(correlation).to(channels), channels)
    return channels.sigmoid()


def colour_mixing(correlation: float) -> Float[Tensor, "colour channel"]:
    """The symmetric root of the correlations of red, green and blue, all equal: independent channels in, colours out.

    >>> mixing = colour_mixing(0.9)
    >>> (mixing @ mixing.T)[0]
    tensor([1.0000, 0.9000, 0.9000])
    """
    correlations = torch.full((3, 3), correlation, dtype=torch.float64, device="cpu").fill_diagonal_(1)
    variances, directions = torch.linalg.eigh(correlations)
    return (directions * variances.clamp_min(0).sqrt() @ directions.T).float()
