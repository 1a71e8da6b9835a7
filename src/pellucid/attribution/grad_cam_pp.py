"""Grad-CAM++: Grad-CAM with weights that do not fade for small or repeated objects (Chattopadhyay et al., 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._class_activation import ClassActivation, per_channel


@METHODS.register("grad_cam_pp")
@dataclass(frozen=True)
class GradCamPP(ClassActivation):
    """R = ReLU(Σₖ wₖ Aₖ) with wₖ = Σᵢ αₖᵢ ReLU(gₖᵢ), g = ∂ score / ∂ A and α = g² / (2 g² + Σⱼ Aₖⱼ · g³).

    These are equations 19 and 21 of the paper, whose score is the exponential of the logit; its factor, one number per
    image, is left out. Where g is 0, so is α. The weights are meant for A ≥ 0; where the denominator is not positive,
    the share is 0 and a note tells of it.
    """

    answers: ClassVar[str] = "which regions raise the explained logit, with small and repeated objects kept in view"

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        below = self._below(values, gradient)
        shares = torch.where(below > 0, gradient.clamp(min=0) / below.where(below > 0, 1.0), 0.0)
        return (per_channel(shares.flatten(2).sum(2), values) * values).sum(1)

    def warn(self, values: Tensor, gradient: Tensor) -> tuple[str, ...]:
        is_lost = (gradient > 0) & (self._below(values, gradient) <= 0)
        if not bool(is_lost.any()):
            return ()
        return ("the layer has negative values, for which Grad-CAM++ has no weights; name one behind a ReLU",)

    @staticmethod
    def _below(values: Tensor, gradient: Tensor) -> Tensor:
        """The denominator of α over g²."""
        return 2 + per_channel(values.flatten(2).sum(2), values) * gradient
