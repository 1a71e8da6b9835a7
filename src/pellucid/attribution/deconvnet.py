"""Deconvnet: a backward pass that keeps only positive signals at rectifiers (Zeiler and Fergus, 2014)."""

from dataclasses import dataclass
from typing import ClassVar

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Backward
from pellucid.engine import composites
from pellucid.engine.composites import Composite


@METHODS.register("deconvnet")
@dataclass(frozen=True)
class Deconvnet(Backward):
    """R_x = max(R, 0) at rectifiers, regardless of their input; the derivative elsewhere.

    Starts with 1 at the explained logit. Rectifiers are ReLU and its variants, including smooth ones; sigmoid, tanh and
    similar activations use the derivative.
    """

    family: ClassVar[str] = "backward"
    answers: ClassVar[str] = "which pattern in the image would produce the explained logit"
    promises: ClassVar[frozenset[str]] = frozenset({"deterministic"})

    def composite(self) -> Composite:
        return composites.deconvnet()
