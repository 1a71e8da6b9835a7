"""Continuity: similar images should have similar explanations (Montavon, Samek and Müller, 2018)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from pellucid.core.options import NotNegative, Range
from pellucid.evaluation import METRICS, Case, Explainer, Measured, Metric
from pellucid.evaluation._case import KINDS, Kind
from pellucid.evaluation._metric import TINY


@METRICS.register("continuity")
@dataclass(frozen=True)
class Continuity(Metric):
    """max ‖R(x) − R(x′)‖₁ / ‖x − x′‖₂ over x′ shifted by `pixels` in each direction, and over x′ with small noise.

    The features of a table have no order, so a table is not shifted.

    With `is_relative`, R is divided by Σ|R(x)|, because methods differ in scale and the definition assumes a common
    one; otherwise this is the formula as printed. Lower is better, from 0. Shifts that change nothing are skipped.
    Weakness: a map that ignores its image is perfectly continuous (the constant control is therefore excluded), while a
    map that correctly moves with the image is not.

    Source: Montavon et al., "Methods for interpreting and understanding deep neural networks", 2018
    (explanation continuity).
    """

    asks: ClassVar[str] = "does the map stay the same if the image barely changes?"
    is_higher_better: ClassVar[bool] = False
    high: ClassVar[float] = float("inf")
    won_by: ClassVar[frozenset[str]] = frozenset({"constant"})

    pixels: Annotated[int, Range(0)] = 1
    """Shift of the image in pixels; pixels shifted in from outside are 0."""
    noises: Annotated[int, Range(0)] = 2
    """Number of noisy copies; a table needs at least one."""
    noise: NotNegative = 0.05
    """Standard deviation of the noise, in pixel values."""
    is_relative: bool = True
    """Divide the relevance by the image's Σ|R|."""

    @property
    def accepts(self) -> frozenset[Kind]:
        return frozenset(KINDS.values()) - (frozenset() if self.noises else {"table"})

    def measure(self, case: Case, method: Explainer) -> Measured:
        """Return the (image,) largest quotients."""
        own = method.relevance
        size = own.flatten(1).abs().sum(1) if self.is_relative else own.new_ones(len(own))
        worst = torch.zeros(len(own), dtype=torch.float64, device=own.device)
        for near, relevance in method.near(self._variants(case)):
            distance = (near - case.images).flatten(1).double().norm(dim=1)
            change = (relevance - own).flatten(1).abs().double().sum(1)
            # a shift that changes nothing, as of a blank image, has no quotient
            quotient = change / (distance * size.double()).clamp(min=TINY)
            worst = torch.maximum(worst, torch.where((distance > 0) & (change > 0), quotient, 0.0))
        return Measured(worst)

    def _variants(self, case: Case) -> Iterator[Tensor]:
        step = self.pixels
        for axis in range(2, case.images.ndim) if step else ():
            yield moved(case.images, axis, step)
            yield moved(case.images, axis, -step)
        if self.noises:
            for noise in case.draw("continuity", count=self.noises):
                yield case.images + self.noise * noise


def moved(images: Tensor, axis: int, step: int) -> Tensor:
    """Shift the images along an axis, filling with zeros.

    >>> moved(torch.ones(1, 1, 2, 2), 2, 1).tolist()
    [[[[0.0, 0.0], [1.0, 1.0]]]]
    """
    result, size = torch.zeros_like(images), images.shape[axis]
    count = max(size - abs(step), 0)
    result.narrow(axis, min(max(step, 0), size), count).copy_(images.narrow(axis, min(max(-step, 0), size), count))
    return result
