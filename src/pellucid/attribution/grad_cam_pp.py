"""Grad-CAM++: Grad-CAM with weights that do not vanish for small or repeated objects (Chattopadhyay et al., 2018)."""

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

    These are equations 19 and 21 of the paper, whose score is the exponential of the logit; the resulting factor, one
    number per image, is omitted. Where g is 0, so is α. The weights assume A ≥ 0; if the denominator is not positive,
    the weight is 0 and a note is added.
    """

    answers: ClassVar[str] = "which regions raise the explained logit, including small and repeated objects"

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        denominator = self._denominator(values, gradient)
        is_valid = denominator > 0
        # The inner replacement avoids a division by zero, and the outer one sets the weight to 0.
        shares = torch.where(is_valid, gradient.clamp(min=0) / denominator.where(is_valid, 1.0), 0.0)
        return (per_channel(shares.flatten(2).sum(2), values) * values).sum(1)

    def warn(self, values: Tensor, gradient: Tensor) -> tuple[str, ...]:
        is_undefined = (gradient > 0) & (self._denominator(values, gradient) <= 0)
        if not bool(is_undefined.any()):
            return ()
        return ("the layer has negative values, for which Grad-CAM++ has no weights; name a layer after a ReLU",)

    @staticmethod
    def _denominator(values: Tensor, gradient: Tensor) -> Tensor:
        """Denominator of α divided by g², so that α ReLU(g) = ReLU(g) / denominator needs no 0 / 0 at g = 0."""
        return 2 + per_channel(values.flatten(2).sum(2), values) * gradient
