"""Input times gradient: the first-order effect of each pixel (Shrikumar et al., 2016)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution.gradient import OneGradient


@METHODS.register("input_x_gradient")
@dataclass(frozen=True)
class InputXGradient(OneGradient):
    """x ⊙ ∂ logit / ∂ x, in logits.

    On a network of bias-free layers and ReLUs it sums to the logit; on other networks no sum is promised.
    """

    answers: ClassVar[str] = "how much each pixel adds to the logit, with the network linearized at the image"
    unit: ClassVar[str] = "logits"

    def shown(self, slope: Tensor, images: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(images, slope, out=out)
