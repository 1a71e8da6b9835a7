"""Deep Taylor decomposition: which pixels excite the explained logit, if it is positive (Montavon et al., 2017)."""

from torch import Tensor

from pellucid.attribution import Bounded, Relevance, Target, variant, weighted
from pellucid.core.errors import ConfigError
from pellucid.engine import Composite, ZPlus
from pellucid.engine.box import Bound
from pellucid.engine.composites import bounded, everywhere

VARIANTS = ("deep_taylor", "deep_taylor.bounded")
"""Names registered here; the registry reads them without importing this file."""


class Positive(Relevance):
    """A method that distributes max(logit, 0), as positive relevance."""

    answers = "which pixels excite the explained logit, if it is positive"

    def start(self, logits: Tensor, target: Target) -> Tensor:
        slope = target.slope(logits)
        if bool((slope < 0).any()):
            raise ConfigError(
                "deep_taylor only explains evidence for an output, but this target (a contrast, or a score that "
                "decreases in a logit) also subtracts one; explain the classes one by one, or choose 'lrp.gamma' or "
                "'lrp.epsilon', which support such targets."
            )
        return weighted(logits, slope).clamp(min=0)


@variant("deep_taylor", Positive)
def DeepTaylor() -> Composite:
    """Distribute max(logit, 0) by the z⁺ rule in every kernel layer, without biases; a negative logit gives a zero map.

    Scores that decrease in a logit, such as contrasts, raise `ConfigError`: a subtracted logit cannot be distributed as
    positive relevance.
    """
    return everywhere(ZPlus(bias=False))


@variant("deep_taylor.bounded", Bounded, Positive)
def DeepTaylorBounded(low: Bound = 0.0, high: Bound = 1.0) -> Composite:
    """`deep_taylor` with the z^B rule for the layers that see the image."""
    return bounded(low, high, everywhere(ZPlus(bias=False)))
