"""HiResCAM: a layer's feature maps times their gradient, position by position (Draelos and Carin, 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._class_activation import ClassActivation


@METHODS.register("hires_cam")
@dataclass(frozen=True)
class HiResCam(ClassActivation):
    """R = Σₖ gₖ ⊙ Aₖ with g = ∂ score / ∂ A.

    If everything above the layer is linear, such as pooling and a linear layer or a linear layer on the flattened maps,
    the positions of `details["map"]` sum to the logit minus its value for A = 0. The paper applies no ReLU, so negative
    values are evidence against the class.
    """

    answers: ClassVar[str] = "which positions of a layer's feature maps are evidence for or against the class"

    relu: bool = False
    """Keep only positive evidence for the class."""

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        return (gradient * values).sum(1)
