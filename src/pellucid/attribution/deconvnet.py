"""Deconvnet: a backward pass that keeps only positive signals at rectifiers (Zeiler and Fergus, 2014)."""

from pellucid.attribution import Backward, variant
from pellucid.engine import Composite, composites


@variant("deconvnet", Backward, answers="which pattern in the image would produce the explained logit")
def Deconvnet() -> Composite:
    """R_x = max(R, 0) at rectifiers, regardless of their input; the derivative elsewhere.

    Starts with 1 at the explained logit. Rectifiers are ReLU and its variants, including smooth ones; sigmoid, tanh and
    similar activations use the derivative.
    """
    return composites.deconvnet()
