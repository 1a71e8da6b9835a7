"""Sensitivity: the squared gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._method import SLOPE
from pellucid.attribution.gradient import OneGradient


@METHODS.register("sensitivity")
@dataclass(frozen=True)
class Sensitivity(OneGradient):
    """(∂ logit / ∂ x)², which sums to the squared norm of the gradient (Montavon et al., 2018, section 4.1)."""

    answers: ClassVar[str] = "which pixels the explained logit is sensitive to, in either direction"
    unit: ClassVar[str] = f"({SLOPE})²"

    def shown(self, slope: Tensor, images: Tensor, out: Tensor | None = None) -> Tensor:
        return slope.square()
