"""Excitation Backprop: the probability that a pixel excited the explained unit (Zhang et al., 2016)."""

from torch import Tensor

from pellucid.attribution import Relevance, Target, variant
from pellucid.core.options import NotNegative
from pellucid.engine import Composite, ZPlus
from pellucid.engine.composites import STRUCTURAL_EPSILON, everywhere


class FromOne(Relevance):
    """A method that starts with 1 at the explained logit, instead of its value."""

    unit = "probability"

    def start(self, logits: Tensor, target: Target) -> Tensor:
        return target.slope(logits)


@variant(
    "excitation_backprop",
    FromOne,
    answers="which pixels most probably excited the explained unit, through positive weights only",
    options={"epsilon": "Added to the denominators."},
)
def ExcitationBackprop(epsilon: NotNegative = 1e-6) -> Composite:
    """P(i) = Σ_j P(i|j) P(j), P(i|j) proportional to x_i w_ij⁺; starts with probability 1 at the explained logit.

    ε stabilizes each sum, and positive biases take their share, as in zennit.
    """
    # In operations without a kernel, ε only keeps denominators away from zero.
    return everywhere(ZPlus(epsilon=epsilon), min(epsilon, STRUCTURAL_EPSILON))
