"""Layer-wise relevance propagation: the explained logit, shared out layer by layer until it reaches the pixels.

Each variant is a composite of the rules in `pellucid.engine.rules`, where the formulas and their sources are.
Stabilisers are absolute; where a rule has none, 1e-6 keeps denominators from zero.
"""

from dataclasses import dataclass

from pellucid.attribution import METHODS
from pellucid.attribution._backward import Bounded, Relevance
from pellucid.attribution._method import COMPLETE
from pellucid.core.options import NotNegative
from pellucid.engine import composites
from pellucid.engine.composites import Composite
from pellucid.engine.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZPlus

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
"""The names registered here; the registry reads them without importing this file."""


@METHODS.register("lrp.z")
@dataclass(frozen=True)
class LrpZ(Relevance):
    """Relevance in proportion to each contribution (Bach et al., 2015, equation 56)."""

    answers = "which pixels the logit is made of, contribution by contribution"

    def own_composite(self) -> Composite:
        return composites.plain_z()


@METHODS.register("lrp.epsilon")
@dataclass(frozen=True)
class LrpEpsilon(Relevance):
    """As lrp.z, with weak contributions damped by ε (Bach et al., 2015, equation 58).

    ε damps what arrives at dense layers and convolutions. Average pooling, sums, norms and products have no weights
    whose noise it could damp; there, it is at most 1e-6 and only keeps denominators from zero, as in zennit.
    """

    answers = "which pixels the logit is made of, with the noise of near-cancelling sums damped"

    epsilon: NotNegative = 1e-7
    """Added to the denominators, with their sign; larger values give sparser maps."""

    def own_composite(self) -> Composite:
        return composites.everywhere(Epsilon(self.epsilon), min(self.epsilon, composites.STRUCTURAL_EPSILON))


@METHODS.register("lrp.gamma")
@dataclass(frozen=True)
class LrpGamma(Relevance):
    """Positive contributions favoured by γ (Montavon et al., 2019)."""

    answers = "which pixels speak for the class, with what speaks against it held down"

    gamma: NotNegative = 0.25
    """How much more positive contributions weigh; 0 is lrp.epsilon, and large values near lrp.z_plus."""

    def own_composite(self) -> Composite:
        return composites.everywhere(Gamma(self.gamma))


@dataclass(frozen=True)
class _AlphaBeta(Relevance):
    """α times the positive contributions less β times the negative ones (Bach et al., 2015, equation 60)."""

    answers = "which pixels speak for the class, and (with β) which against it, each normalised by itself"

    def rule(self) -> AlphaBeta:
        """The rule of every kernel layer."""
        raise NotImplementedError

    def own_composite(self) -> Composite:
        return composites.everywhere(self.rule())


@METHODS.register("lrp.alpha_1_beta_0")
@dataclass(frozen=True)
class LrpAlpha1Beta0(_AlphaBeta):
    """Positive contributions only; the bias's positive part stands in the denominator."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(1, 0)


@METHODS.register("lrp.alpha_2_beta_1")
@dataclass(frozen=True)
class LrpAlpha2Beta1(_AlphaBeta):
    """Twice the positive contributions less the negative ones; each with its part of the bias."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(2, 1)


@METHODS.register("lrp.alpha_1_beta_0_ib")
@dataclass(frozen=True)
class LrpAlpha1Beta0Ib(_AlphaBeta):
    """lrp.alpha_1_beta_0 ignoring biases."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(1, 0, "none")


@METHODS.register("lrp.alpha_2_beta_1_ib")
@dataclass(frozen=True)
class LrpAlpha2Beta1Ib(_AlphaBeta):
    """lrp.alpha_2_beta_1 ignoring biases."""

    def rule(self) -> AlphaBeta:
        return AlphaBeta(2, 1, "none")


@METHODS.register("lrp.z_plus")
@dataclass(frozen=True)
class LrpZPlus(Relevance):
    """Positive contributions only, without biases (Montavon et al., 2017, the z⁺ rule)."""

    answers = "which pixels excite what speaks for the class"

    bias: bool = False
    """Whether the positive part of the bias takes a share."""

    def own_composite(self) -> Composite:
        return composites.everywhere(ZPlus(self.bias))


@METHODS.register("lrp.w_square")
@dataclass(frozen=True)
class LrpWSquare(Relevance):
    """Shared by squared weights; the image is not used in the kernel layers (Montavon et al., 2017, the w² rule)."""

    answers = "where the network could take its evidence from, by the size of its weights"

    bias: bool = False
    """Whether the squared bias takes a share, as in zennit; the paper has no bias."""

    def own_composite(self) -> Composite:
        return composites.weights_only(WSquare(self.bias))


@METHODS.register("lrp.flat")
@dataclass(frozen=True)
class LrpFlat(Relevance):
    """Shared equally within each receptive field (Lapuschkin et al., 2019).

    Classes differ by their logits alone, which scale the map.
    """

    answers = "where the network looks, whatever it sees there"
    promises = COMPLETE - {"class_specific"}

    def own_composite(self) -> Composite:
        return composites.weights_only(Flat())


@METHODS.register("lrp.z_box")
@dataclass(frozen=True)
class LrpZBox(Bounded):
    """The z^B rule for the layers that see the image (Montavon et al., 2017), lrp.z for the others."""

    answers = "which pixels speak for the class by being bright or dark within their range"

    def own_composite(self) -> Composite:
        return composites.bounded(self.low, self.high, composites.plain_z())


@dataclass(frozen=True)
class _Preset(Relevance):
    """ε for dense layers and αβ for convolutions (after Kohlbrenner et al., 2020)."""

    answers = "which pixels speak for the class, with a rule fit for each depth of the network"

    epsilon: NotNegative = 0.1
    """The ε of the dense layers."""


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
    """Preset A, and flat for the layers that see the image."""

    def own_composite(self) -> Composite:
        return composites.preset(1, 0, self.epsilon, is_flat=True)


@METHODS.register("lrp.sequential_preset_b_flat")
@dataclass(frozen=True)
class LrpPresetBFlat(_Preset):
    """Preset B, and flat for the layers that see the image."""

    def own_composite(self) -> Composite:
        return composites.preset(2, 1, self.epsilon, is_flat=True)


@METHODS.register("lrp.epsilon_plus_flat")
@dataclass(frozen=True)
class LrpEpsilonPlusFlat(_Preset):
    """Flat for the layers that see the image, z⁺ for convolutions, ε for dense layers."""

    epsilon: NotNegative = 1e-6

    def own_composite(self) -> Composite:
        return composites.epsilon_plus_flat(self.epsilon)


@METHODS.register("lrp.epsilon_gamma_box")
@dataclass(frozen=True)
class LrpEpsilonGammaBox(Bounded, _Preset):
    """z^B for the layers that see the image, γ for convolutions, ε for dense layers."""

    epsilon: NotNegative = 1e-6
    gamma: NotNegative = 0.25
    """The γ of the convolutions."""

    def own_composite(self) -> Composite:
        return composites.epsilon_gamma_box(self.epsilon, self.gamma, self.low, self.high)
