"""LayerCAM: each position of a layer's feature maps, weighted by its positive gradient (Jiang et al., 2021)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._class_activation import ClassActivation


@METHODS.register("layer_cam")
@dataclass(frozen=True)
class LayerCam(ClassActivation):
    """R = ReLU(Σₖ ReLU(gₖ) ⊙ Aₖ) with g = ∂ score / ∂ A (equations 5 to 7 of the paper).

    It also works for earlier layers, whose maps have a higher resolution.
    """

    answers: ClassVar[str] = "which positions of a layer's feature maps raise the explained logit, even in early layers"

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.clamp(min=0) * values).sum(1)
