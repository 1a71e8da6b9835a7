"""Layer-wise relevance propagation: the explained logit, distributed layer by layer down to the pixels.

Each variant is a function from its options to a composite of the rules in `pellucid.engine`, which documents the
formulas and their sources. Stabilizers are absolute; rules without one use 1e-6 to keep denominators away from zero.

A preset of your own is a few lines in your own code; then `create_analyzer("lrp.mine", model, gamma=0.5)` works:

```python
from pellucid.attribution import variant
from pellucid.engine import Composite, Epsilon, Flat, Gamma
from pellucid.engine.composites import layered


@variant("lrp.mine", answers="which pixels are evidence for the class", options={"gamma": "…"})
def LrpMine(gamma: float = 0.1) -> Composite:
    \"\"\"ε for dense layers, γ for convolutions, flat for the layers that see the image.\"\"\"
    return layered(dense=Epsilon(1e-6), convolution=Gamma(gamma), first=Flat())
```
"""

from pellucid.attribution import COMPLETE, Bounded, Relevance, variant
from pellucid.core.options import NotNegative
from pellucid.engine import AlphaBeta, Composite, Epsilon, Flat, Gamma, WSquare, ZPlus
from pellucid.engine.box import Bound
from pellucid.engine.composites import STRUCTURAL_EPSILON, bounded, everywhere, layered, plain_z, weights_only

VARIANTS = (
    "lrp.alpha_1_beta_0",
    "lrp.alpha_1_beta_0_ib",
    "lrp.alpha_2_beta_1",
    "lrp.alpha_2_beta_1_ib",
    "lrp.epsilon",
    "lrp.epsilon_gamma_box",
    "lrp.epsilon_plus_flat",
    "lrp.flat",
    "lrp.gamma",
    "lrp.sequential_preset_a",
    "lrp.sequential_preset_a_flat",
    "lrp.sequential_preset_b",
    "lrp.sequential_preset_b_flat",
    "lrp.w_square",
    "lrp.z",
    "lrp.z_box",
    "lrp.z_plus",
)
"""Names registered here; the registry reads them without importing this file."""


@variant("lrp.z", answers="which pixels the explained logit is made of, proportional to each contribution")
def LrpZ() -> Composite:
    """Relevance proportional to each contribution (Bach et al., 2015, equation 56)."""
    return plain_z()


@variant(
    "lrp.epsilon",
    answers="which pixels the explained logit is made of, with weak contributions damped",
    options={"epsilon": "Added to the denominators with their sign; larger values give sparser maps."},
)
def LrpEpsilon(epsilon: NotNegative = 1e-7) -> Composite:
    """`lrp.z` with weak contributions damped by ε (Bach et al., 2015, equation 58).

    ε damps relevance at dense layers and convolutions. Average pooling, sums, norms and products have no weights whose
    noise could be damped; there, ε is at most 1e-6 and only keeps denominators away from zero, as in zennit.
    """
    return everywhere(Epsilon(epsilon), min(epsilon, STRUCTURAL_EPSILON))


@variant(
    "lrp.gamma",
    answers="which pixels are evidence for the class, with evidence against it suppressed",
    options={
        "gamma": "Extra weight of positive contributions; 0 is `lrp.epsilon`, and large values approach `lrp.z_plus`."
    },
)
def LrpGamma(gamma: NotNegative = 0.25) -> Composite:
    """Positive contributions favored by γ (Montavon et al., 2019)."""
    return everywhere(Gamma(gamma))


class ByAlphaBeta(Relevance):
    """α times the positive contributions minus β times the negative ones (Bach et al., 2015, equation 60)."""

    answers = "which pixels are evidence for the class and, if β > 0, against it, normalized separately"


@variant("lrp.alpha_1_beta_0", ByAlphaBeta)
def LrpAlpha1Beta0() -> Composite:
    """Positive contributions only; the denominator includes the positive part of the bias."""
    return everywhere(AlphaBeta(1, 0))


@variant("lrp.alpha_2_beta_1", ByAlphaBeta)
def LrpAlpha2Beta1() -> Composite:
    """Twice the positive contributions minus the negative ones, each with its part of the bias."""
    return everywhere(AlphaBeta(2, 1))


@variant("lrp.alpha_1_beta_0_ib", ByAlphaBeta)
def LrpAlpha1Beta0Ib() -> Composite:
    """`lrp.alpha_1_beta_0` without biases."""
    return everywhere(AlphaBeta(1, 0, "none"))


@variant("lrp.alpha_2_beta_1_ib", ByAlphaBeta)
def LrpAlpha2Beta1Ib() -> Composite:
    """`lrp.alpha_2_beta_1` without biases."""
    return everywhere(AlphaBeta(2, 1, "none"))


@variant(
    "lrp.z_plus",
    answers="which pixels excite the units that are evidence for the class",
    options={"bias": "Let the positive part of the bias absorb a share."},
)
def LrpZPlus(bias: bool = False) -> Composite:
    """Positive contributions only, without biases (Montavon et al., 2017, the z⁺ rule)."""
    return everywhere(ZPlus(bias))


@variant(
    "lrp.w_square",
    answers="where the network can take evidence from, by the size of its weights",
    options={"bias": "Let the squared bias absorb a share, as in zennit; the paper has no bias."},
)
def LrpWSquare(bias: bool = False) -> Composite:
    """Relevance proportional to squared weights; kernel layers ignore the image (Montavon et al., 2017, w² rule)."""
    return weights_only(WSquare(bias))


@variant(
    "lrp.flat",
    answers="where the network looks, regardless of the image content",
    promises=COMPLETE - {"class_specific"},
)
def LrpFlat() -> Composite:
    """Relevance distributed equally within each receptive field (Lapuschkin et al., 2019).

    Maps of different classes differ only in scale, by their logits.
    """
    return weights_only(Flat())


@variant("lrp.z_box", Bounded, answers="which pixels are evidence for the class, relative to the range of pixel values")
def LrpZBox(low: Bound = 0.0, high: Bound = 1.0) -> Composite:
    """The z^B rule for the layers that see the image (Montavon et al., 2017), `lrp.z` for the others."""
    return bounded(low, high, plain_z())


class ByDepth(Relevance):
    """A different rule for each depth of the network (after Kohlbrenner et al., 2020)."""

    answers = "which pixels are evidence for the class, with a suitable rule for each depth of the network"

    epsilon: NotNegative
    """ε of the dense layers."""


@variant("lrp.sequential_preset_a", ByDepth)
def LrpPresetA(epsilon: NotNegative = 0.1) -> Composite:
    """ε for dense layers, α1β0 for convolutions."""
    return layered(dense=Epsilon(epsilon), convolution=AlphaBeta(1, 0))


@variant("lrp.sequential_preset_b", ByDepth)
def LrpPresetB(epsilon: NotNegative = 0.1) -> Composite:
    """ε for dense layers, α2β1 for convolutions."""
    return layered(dense=Epsilon(epsilon), convolution=AlphaBeta(2, 1))


@variant("lrp.sequential_preset_a_flat", ByDepth)
def LrpPresetAFlat(epsilon: NotNegative = 0.1) -> Composite:
    """Preset A with the flat rule for the layers that see the image."""
    return layered(dense=Epsilon(epsilon), convolution=AlphaBeta(1, 0), first=Flat())


@variant("lrp.sequential_preset_b_flat", ByDepth)
def LrpPresetBFlat(epsilon: NotNegative = 0.1) -> Composite:
    """Preset B with the flat rule for the layers that see the image."""
    return layered(dense=Epsilon(epsilon), convolution=AlphaBeta(2, 1), first=Flat())


@variant("lrp.epsilon_plus_flat", ByDepth)
def LrpEpsilonPlusFlat(epsilon: NotNegative = 1e-6) -> Composite:
    """The flat rule for the layers that see the image, z⁺ for convolutions, ε for dense layers."""
    return layered(dense=Epsilon(epsilon), convolution=ZPlus(), first=Flat())


@variant("lrp.epsilon_gamma_box", Bounded, ByDepth, options={"gamma": "γ of the convolutions."})
def LrpEpsilonGammaBox(
    epsilon: NotNegative = 1e-6, low: Bound = 0.0, high: Bound = 1.0, gamma: NotNegative = 0.25
) -> Composite:
    """z^B for the layers that see the image, γ for convolutions, ε for dense layers."""
    return bounded(low, high, layered(dense=Epsilon(epsilon), convolution=Gamma(gamma)))
