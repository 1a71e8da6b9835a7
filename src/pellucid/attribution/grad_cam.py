"""Grad-CAM: a layer's feature maps, each weighted by its mean gradient (Selvaraju et al., 2017)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._class_activation import ClassActivation, per_channel


@METHODS.register("grad_cam")
@dataclass(frozen=True)
class GradCam(ClassActivation):
    """R = ReLU(Σₖ wₖ Aₖ) with wₖ the mean of ∂ score / ∂ Aₖ over all positions (equations 1 and 2 of the paper).

    With `relu=False`, this is captum's LayerGradCam.
    """

    answers: ClassVar[str] = "which regions of a layer's feature maps raise the explained logit, coarsely"

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        return (per_channel(gradient.flatten(2).mean(2), values) * values).sum(1)
