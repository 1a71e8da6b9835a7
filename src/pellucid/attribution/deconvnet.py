"""Deconvnet: positive signals passed back through every rectifier (Zeiler and Fergus, 2014)."""

from dataclasses import dataclass
from typing import ClassVar

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Backward
from pellucid.engine import composites
from pellucid.engine.composites import Composite


@METHODS.register("deconvnet")
@dataclass(frozen=True)
class Deconvnet(Backward):
    """R_x = max(R, 0) at rectifiers, whatever their input was; the derivative elsewhere.

    Starts with 1 at the explained logit. Rectifiers are ReLU and its relatives, smooth ones among them; at sigmoid,
    tanh and the like the derivative is used.
    """

    family: ClassVar[str] = "backward"
    answers: ClassVar[str] = "what pattern in the image the explained logit would be built up from"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    def composite(self) -> Composite:
        return composites.deconvnet()
