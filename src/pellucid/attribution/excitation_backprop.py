"""Excitation Backprop: the probability that a pixel excited the explained unit (Zhang et al., 2016)."""

from dataclasses import dataclass

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Relevance
from pellucid.attribution._target import Target
from pellucid.core.options import NotNegative
from pellucid.engine import composites
from pellucid.engine.composites import Composite


@METHODS.register("excitation_backprop")
@dataclass(frozen=True)
class ExcitationBackprop(Relevance):
    """P(i) = Σ_j P(i|j) P(j), P(i|j) proportional to x_i w_ij⁺; starts with probability 1 at the explained logit.

    ε stabilizes each sum, and positive biases take their share, as in zennit.
    """

    answers = "which pixels most probably excited the explained unit, through positive weights only"

    epsilon: NotNegative = 1e-6
    """Added to the denominators."""

    def own_composite(self) -> Composite:
        return composites.excitation(self.epsilon)

    def start(self, logits: Tensor, target: Target) -> Tensor:
        return target.slope(logits)
