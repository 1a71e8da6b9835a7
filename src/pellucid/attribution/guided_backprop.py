"""Guided Backprop: the gradient, with negative signals blocked at rectifiers (Springenberg et al., 2015)."""

from pellucid.attribution import Backward, variant
from pellucid.engine import Composite, composites


@variant("guided_backprop", Backward, answers="which pattern in the image excites the network, in fine detail")
def GuidedBackprop() -> Composite:
    """R_x = f′(x) max(R, 0) at rectifiers, the derivative elsewhere.

    Starts with 1 at the explained logit. Rectifiers are ReLU and its variants, including smooth ones; sigmoid, tanh and
    similar activations use the derivative.
    """
    return composites.guided()
