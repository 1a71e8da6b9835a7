"""Layer-wise relevance propagation: the explained logit, distributed layer by layer down to the pixels.

Each variant is a composite of the rules in `pellucid.engine`, which documents the formulas and their sources.
Stabilizers are absolute; rules without one use 1e-6 to keep denominators away from zero.
"""

from dataclasses import dataclass

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Bounded, Relevance
from pellucid.attribution._method import COMPLETE
from pellucid.core.options import NotNegative
from pellucid.engine import composites
from pellucid.engine.composites import Composite
from pellucid.engine.rules import Epsilon
from pellucid.engine.weight_rules import AlphaBeta, Flat, Gamma, WSquare, ZPlus

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


@METHODS.register("lrp.z")
@dataclass(frozen=True)
class LrpZ(Relevance):
    """Relevance proportional to each contribution (Bach et al., 2015, equation 56)."""

    answers = "which pixels the explained logit is made of, proportional to each contribution"

    def own_composite(self) -> Composite:
        return composites.plain_z()


@METHODS.register("lrp.epsilon")
@dataclass(frozen=True)
class LrpEpsilon(Relevance):
    """`lrp.z` with weak contributions damped by ε (Bach et al., 2015, equation 58).

    ε damps relevance at dense layers and convolutions. Average pooling, sums, norms and products have no weights whose
    noise could be damped; there, ε is at most 1e-6 and only keeps denominators away from zero, as in zennit.
    """

    answers = "which pixels the explained logit is made of, with weak contributions damped"

    epsilon: NotNegative = 1e-7
    """Added to the denominators with their sign; larger values give sparser maps."""

    def own_composite(self) -> Composite:
        return composites.everywhere(Epsilon(self.epsilon), min(self.epsilon, composites.STRUCTURAL_EPSILON))


@METHODS.register("lrp.gamma")
@dataclass(frozen=True)
class LrpGamma(Relevance):
    """Positive contributions favored by γ (Montavon et al., 2019)."""

    answers = "which pixels are evidence for the class, with evidence against it suppressed"

    gamma: NotNegative = 0.25
    """Extra weight of positive contributions; 0 is `lrp.epsilon`, and large values approach `lrp.z_plus`."""

    def own_composite(self) -> Composite:
        return composites.everywhere(Gamma(self.gamma))


@dataclass(frozen=True)
class _AlphaBeta(Relevance):
    """α times the positive contributions minus β times the negative ones (Bach et al., 2015, equation 60)."""

    answers = "which pixels are evidence for the class and, if β > 0, against it, normalized separately"

    def rule(self) -> AlphaBeta:
        """Return the rule of every kernel layer."""
        raise NotImplementedError

    def own_composite(self) -> Composite:
        return composites.everywhere(self.rule())


@METHODS.register("lrp.alpha_1_beta_0")
@dataclass(frozen=True)
class LrpAlpha1Beta0(_AlphaBeta):
    """Positive contributions only; the denominator includes the positive part of the bias."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(1, 0)


@METHODS.register("lrp.alpha_2_beta_1")
@dataclass(frozen=True)
class LrpAlpha2Beta1(_AlphaBeta):
    """Twice the positive contributions minus the negative ones, each with its part of the bias."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(2, 1)


@METHODS.register("lrp.alpha_1_beta_0_ib")
@dataclass(frozen=True)
class LrpAlpha1Beta0Ib(_AlphaBeta):
    """`lrp.alpha_1_beta_0` without biases."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(1, 0, "none")


@METHODS.register("lrp.alpha_2_beta_1_ib")
@dataclass(frozen=True)
class LrpAlpha2Beta1Ib(_AlphaBeta):
    """`lrp.alpha_2_beta_1` without biases."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(2, 1, "none")


@METHODS.register("lrp.z_plus")
@dataclass(frozen=True)
class LrpZPlus(Relevance):
    """Positive contributions only, without biases (Montavon et al., 2017, the z⁺ rule)."""

    answers = "which pixels excite the units that are evidence for the class"

    bias: bool = False
    """Let the positive part of the bias absorb a share."""

    def own_composite(self) -> Composite:
        return composites.everywhere(ZPlus(self.bias))


@METHODS.register("lrp.w_square")
@dataclass(frozen=True)
class LrpWSquare(Relevance):
    """Relevance proportional to squared weights; kernel layers ignore the image (Montavon et al., 2017, w² rule)."""

    answers = "where the network can take evidence from, by the size of its weights"

    bias: bool = False
    """Let the squared bias absorb a share, as in zennit; the paper has no bias."""

    def own_composite(self) -> Composite:
        return composites.weights_only(WSquare(self.bias))


@METHODS.register("lrp.flat")
@dataclass(frozen=True)
class LrpFlat(Relevance):
    """Relevance distributed equally within each receptive field (Lapuschkin et al., 2019).

    Maps of different classes differ only in scale, by their logits.
    """

    answers = "where the network looks, regardless of the image content"
    promises = COMPLETE - {"class_specific"}

    def own_composite(self) -> Composite:
        return composites.weights_only(Flat())


@METHODS.register("lrp.z_box")
@dataclass(frozen=True)
class LrpZBox(Bounded):
    """The z^B rule for the layers that see the image (Montavon et al., 2017), `lrp.z` for the others."""

    answers = "which pixels are evidence for the class, relative to the range of pixel values"

    def own_composite(self) -> Composite:
        return composites.bounded(self.low, self.high, composites.plain_z())


@dataclass(frozen=True)
class _Preset(Relevance):
    """ε for dense layers and αβ for convolutions (after Kohlbrenner et al., 2020)."""

    answers = "which pixels are evidence for the class, with a suitable rule for each depth of the network"

    epsilon: NotNegative = 0.1
    """ε of the dense layers."""


@METHODS.register("lrp.sequential_preset_a")
@dataclass(frozen=True)
class LrpPresetA(_Preset):
    """ε for dense layers, α1β0 for convolutions."""

    def own_composite(self) -> Composite:
        return composites.preset(1, 0, self.epsilon, is_flat=False)


@METHODS.register("lrp.sequential_preset_b")
@dataclass(frozen=True)
class LrpPresetB(_Preset):
    """ε for dense layers, α2β1 for convolutions."""

    def own_composite(self) -> Composite:
        return composites.preset(2, 1, self.epsilon, is_flat=False)


@METHODS.register("lrp.sequential_preset_a_flat")
@dataclass(frozen=True)
class LrpPresetAFlat(_Preset):
    """Preset A with the flat rule for the layers that see the image."""

    def own_composite(self) -> Composite:
        return composites.preset(1, 0, self.epsilon, is_flat=True)


@METHODS.register("lrp.sequential_preset_b_flat")
@dataclass(frozen=True)
class LrpPresetBFlat(_Preset):
    """Preset B with the flat rule for the layers that see the image."""

    def own_composite(self) -> Composite:
        return composites.preset(2, 1, self.epsilon, is_flat=True)


@METHODS.register("lrp.epsilon_plus_flat")
@dataclass(frozen=True)
class LrpEpsilonPlusFlat(_Preset):
    """The flat rule for the layers that see the image, z⁺ for convolutions, ε for dense layers."""

    epsilon: NotNegative = 1e-6

    def own_composite(self) -> Composite:
        return composites.epsilon_plus_flat(self.epsilon)


@METHODS.register("lrp.epsilon_gamma_box")
@dataclass(frozen=True)
class LrpEpsilonGammaBox(Bounded, _Preset):
    """z^B for the layers that see the image, γ for convolutions, ε for dense layers."""

    epsilon: NotNegative = 1e-6
    gamma: NotNegative = 0.25
    """γ of the convolutions."""

    def own_composite(self) -> Composite:
        return composites.epsilon_gamma_box(self.epsilon, self.gamma, self.low, self.high)
