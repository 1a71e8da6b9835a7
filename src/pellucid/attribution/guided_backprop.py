"""Guided Backprop: the gradient, with negative signals blocked at rectifiers (Springenberg et al., 2015)."""

from dataclasses import dataclass
from typing import ClassVar

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Backward
from pellucid.engine import composites
from pellucid.engine.composites import Composite


@METHODS.register("guided_backprop")
@dataclass(frozen=True)
class GuidedBackprop(Backward):
    """R_x = f′(x) max(R, 0) at rectifiers, the derivative elsewhere.

    Starts with 1 at the explained logit. Rectifiers are ReLU and its variants, including smooth ones; sigmoid, tanh and
    similar activations use the derivative.
    """

    family: ClassVar[str] = "backward"
    answers: ClassVar[str] = "which pattern in the image excites the network, in fine detail"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    def composite(self) -> Composite:
        return composites.guided()
