"""Guided Backprop: the gradient, with negative signals held back at every rectifier (Springenberg et al., 2015)."""

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

    Starts with 1 at the explained logit. Rectifiers are ReLU and its relatives, smooth ones among them; at sigmoid,
    tanh and the like the derivative is used.
    """

    family: ClassVar[str] = "backward"
    answers: ClassVar[str] = "which fine structure in the image excites the network"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    def composite(self) -> Composite:
        return composites.guided()
