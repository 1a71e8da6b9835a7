"""Deep Taylor decomposition: which pixels excite the explained logit, if it is positive (Montavon et al., 2017)."""

from dataclasses import dataclass

from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Bounded, Relevance
from pellucid.attribution._target import Target, weighted
from pellucid.core.errors import ConfigError
from pellucid.engine import composites
from pellucid.engine.composites import Composite
from pellucid.engine.weight_rules import ZPlus

VARIANTS = ("deep_taylor", "deep_taylor.bounded")
"""Names registered here; the registry reads them without importing this file."""


@METHODS.register("deep_taylor")
@dataclass(frozen=True)
class DeepTaylor(Relevance):
    """Distribute max(logit, 0) by the z⁺ rule in every kernel layer, without biases; a negative logit gives a zero map.

    Scores that decrease in a logit, such as contrasts, raise `ConfigError`: a subtracted logit cannot be distributed as
    positive relevance.
    """

    answers = "which pixels excite the explained logit, if it is positive"

    def own_composite(self) -> Composite:
        return composites.everywhere(ZPlus(bias=False))

    def start(self, logits: Tensor, target: Target) -> Tensor:
        slope = target.slope(logits)
        if bool((slope < 0).any()):
            raise ConfigError(
                "deep_taylor only explains evidence for an output, but this target (a contrast, or a score that "
                "decreases in a logit) also subtracts one; explain the classes one by one, or choose 'lrp.gamma' or "
                "'lrp.epsilon', which support such targets."
            )
        return weighted(logits, slope).clamp(min=0)


@METHODS.register("deep_taylor.bounded")
@dataclass(frozen=True)
class DeepTaylorBounded(Bounded, DeepTaylor):
    """`deep_taylor` with the z^B rule for the layers that see the image."""

    def own_composite(self) -> Composite:
        return composites.bounded(self.low, self.high, super().own_composite())
