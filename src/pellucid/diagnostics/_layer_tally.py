"""Sums over the images of one layer's outputs and gradients, collected batch by batch."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid.engine.layer_calls import ActivationFunction

__all__ = ["QUANTILES", "LayerTally", "sampled_positions"]

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
FLAT = 0.01
"""Slope relative to the steepest one below which a function counts as saturated."""
MOST_SAMPLES = 1024
"""Maximum number of samples for the effective rank and the quantiles."""
MOST_QUANTILE_VALUES = 100_000


def sampled_positions(images: int, positions: int) -> Tensor:
    """Return indices into (image, position), ascending: all, or a fixed random choice of `MOST_SAMPLES`.

    A regular grid of positions could meet every image at the same places.
    """
    count = images * positions
    if count <= MOST_SAMPLES:
        return torch.arange(count, device="cpu")
    draw = torch.Generator(device="cpu").manual_seed(0)
    return torch.randperm(count, generator=draw, device="cpu")[:MOST_SAMPLES].sort().values


@dataclass(eq=False)
class LayerTally:
    """Running sums of one layer; `add` and `add_gradient` are called once per batch, in order."""

    axis: int
    """Axis of the units in the output, which has one row per image."""
    images: int
    """Number of images in all batches."""
    seen: int = 0
    values: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""
    minimum: float = math.inf
    maximum: float = -math.inf
    zeros: int = 0
    nonfinite: int = 0
    is_alive: Tensor | None = None
    """(unit,): True if some output is not zero."""
    flat: Tensor | None = None
    """(unit,): number of inputs at which the function is flat; None if it never is by design."""
    samples: list[Tensor] = field(default_factory=list)
    """Parts (sample, unit) of the sample of outputs, on the CPU."""
    gradient_squares: float = 0.0
    """Sum over the images of the squared norm of the gradient."""
    gradient_images: int = 0
    gradient_nonfinite: int = 0
    has_gradient: Tensor | None = None
    """(unit,): True if some gradient is not zero."""

    def add(self, output: Tensor, function: ActivationFunction | None = None, x: Tensor | None = None) -> None:
        """Add the outputs of a batch; `x` is the input of the function, for its slope."""
        rows = self._rows(output)
        if function is not None and function.has_ceiling and x is not None and x.shape == output.shape:
            is_flat = self._rows(function.slope(x)) < FLAT * function.steepest(x)
            if function.is_rectifier:  # being zero is what a rectifier is for
                is_flat &= rows != 0
            counts = is_flat.sum(0).cpu()
            self.flat = counts if self.flat is None else self.flat + counts
        self._add_moments(rows)
        alive = (rows != 0).any(0).cpu()
        self.is_alive = alive if self.is_alive is None else self.is_alive | alive
        positions = len(rows) // max(len(output), 1)
        start = self.seen * positions
        wanted = sampled_positions(self.images, positions)
        wanted = wanted[(wanted >= start) & (wanted < start + len(rows))] - start
        self.samples.append(rows[wanted.to(rows.device)].float().cpu())
        self.seen += len(output)

    def add_gradient(self, gradient: Tensor) -> None:
        """Add the gradients of each image's own loss with respect to its outputs."""
        rows = self._rows(gradient)
        # scaled, because the squares of small gradients would underflow
        largest = float(rows.abs().max()) if rows.numel() else 0.0
        self.gradient_squares += float((rows / largest).float().square().sum()) * largest**2 if largest else 0.0
        self.gradient_images += len(gradient)
        self.gradient_nonfinite += rows.numel() - int(rows.isfinite().sum())
        some = (rows != 0).any(0).cpu()
        self.has_gradient = some if self.has_gradient is None else self.has_gradient | some

    def _rows(self, output: Tensor) -> Tensor:
        """Return an output as (image and position, unit)."""
        return output.detach().movedim(self.axis, -1).flatten(0, -2)

    def _add_moments(self, rows: Tensor) -> None:
        finite = int(rows.isfinite().sum())
        self.nonfinite += rows.numel() - finite
        self.zeros += int((rows == 0).sum())
        variance, mean = torch.var_mean(rows.float(), correction=0)
        # the update of Chan, Golub and LeVeque (1979), which loses no digits where the mean is large
        count, total = rows.numel(), self.values + rows.numel()
        shift = float(mean) - self.mean
        self.squares += float(variance) * count + shift * shift * self.values * count / max(total, 1)
        self.mean += shift * count / max(total, 1)
        self.values = total
        self.minimum = min(self.minimum, float(rows.min()))
        self.maximum = max(self.maximum, float(rows.max()))

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The `QUANTILES` of the sampled outputs; NaN if one is not finite."""
        sample = torch.cat(self.samples)
        # whole samples, so that every unit has its share
        values = sample[:: -(-sample.numel() // MOST_QUANTILE_VALUES) or 1].flatten()
        if not len(values) or not bool(values.isfinite().all()):
            return (math.nan,) * len(QUANTILES)
        points = torch.tensor(QUANTILES, dtype=values.dtype, device=values.device)
        return tuple(values.quantile(points).tolist())
