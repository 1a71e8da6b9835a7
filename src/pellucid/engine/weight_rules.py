"""Relevance rules that use a part of the weights, or that replace weights or inputs: αβ, z⁺, γ, w², flat and z^B.

All distribute relevance by the formula of `rules`, over other terms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.core.options import NotNegative, Number, Options
from pellucid.engine.box import Bound, Box
from pellucid.engine.linear_maps import Contraction, Convolution, Dense
from pellucid.engine.rules import Term, affine_of, distribute, stabilise, summed, weight_of
from pellucid.engine.tape import Account, Affine, Node, Relevances

__all__ = ["AlphaBeta", "Flat", "Gamma", "WSquare", "ZBox", "ZPlus"]


Part = tuple[list[Term], Tensor | None, Tensor]
"""Terms, bias and their sum, the denominator."""
Half = Callable[[bool], Tensor]
"""The weights of positive contributions (True) or of negative ones, computed when first asked for."""


def _positive(values: Tensor) -> Tensor:
    return values.clamp(min=0)


def _negative(values: Tensor) -> Tensor:
    return values.clamp(max=0)


@dataclass(frozen=True)
class AlphaBeta(Options):
    """R_i = Σ_j (α (x_i w_ij)⁺ / z_j⁺ − β (x_i w_ij)⁻ / z_j⁻) R_j (Bach et al., 2015, equation 60).

    z_j⁺ sums the positive parts, b_j⁺ among them, and z_j⁻ the negative ones with b_j⁻.
    """

    alpha: Number = 1.0
    beta: Number = 0.0
    bias: Literal["split", "none", "both"] = "split"
    """Use of the bias: its positive part in z⁺ and its negative part in z⁻; no bias; or the whole bias in both."""
    epsilon: NotNegative = 1e-6

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        node = affine_of(node, self)
        weight = weight_of(node, self)
        half = cache(lambda is_upper: _cut(weight, is_upper=is_upper))
        shares = []
        for factor, is_upper in ((self.alpha, True), (-self.beta, False)):
            if factor == 0:  # skip the work of the branch, as in z⁺ (α = 1, β = 0)
                continue
            terms, part, z = node.once((self, is_upper), partial(self._part, node, half, is_upper=is_upper))
            scaled = relevance if factor == 1 else relevance * factor
            shares.append(distribute(node, scaled, terms, part, self.epsilon, account, z))
        return [sum(shares[1:], shares[0]) if shares else torch.zeros_like(node.x)]

    def _part(self, node: Affine, half: Half, *, is_upper: bool) -> Part:
        """Return the terms, the bias and the denominator of the positive or the negative contributions."""
        bias = node.bias if self.bias != "none" else None
        # (x w)⁺ = x⁺ w⁺ + x⁻ w⁻ and (x w)⁻ = x⁺ w⁻ + x⁻ w⁺
        part = bias if bias is None or self.bias == "both" else _cut(bias, is_upper=is_upper)
        return _with_sum(node, half, is_upper, part)


def _cut(values: Tensor, *, is_upper: bool) -> Tensor:
    return _positive(values) if is_upper else _negative(values)


def _with_sum(node: Affine, half: Half, is_upper: bool, bias: Tensor | None) -> Part:
    """Return x⁺ with one half of the weights and x⁻, if there is any, with the other; the bias; and the sum of all."""
    x_upper, x_lower = _halves(node.x)
    terms: list[Term] = [(x_upper, half(is_upper))]
    if x_lower is not None:
        terms.append((x_lower, half(not is_upper)))
    return terms, bias, summed(node, terms, None if bias is None else node.map.broadcast(bias))


def _halves(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the positive part, and the negative part if there is one."""
    # after a ReLU nothing is negative, which halves the number of products
    return (x, None) if bool(x.min() >= 0) else (_positive(x), _negative(x))


@dataclass(frozen=True)
class ZPlus(Options):
    """R_i = Σ_j (x_i w_ij)⁺ R_j / z_j⁺ (Montavon et al., 2017, the z⁺ rule, for inputs of either sign)."""

    bias: bool = True
    """True to include b⁺ in the denominator."""
    epsilon: NotNegative = 1e-6

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        return AlphaBeta(1.0, 0.0, "split" if self.bias else "none", self.epsilon)(node, relevance, account)


@dataclass(frozen=True)
class Gamma(Options):
    """Scale positive (where z_j < 0: negative) contributions by 1 + γ (Montavon et al., 2019; signs as in zennit).

    Where z_j is exactly 0, the stabilizer absorbs the relevance.
    """

    gamma: NotNegative = 0.25
    epsilon: NotNegative = 1e-6

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        node = affine_of(node, self)
        weight = weight_of(node, self)
        half = cache(lambda is_upper: weight + self.gamma * _cut(weight, is_upper=is_upper))
        # R · 1(z > 0) in one pass, without a float copy of the mask
        for_upper = torch.ops.aten.threshold_backward(relevance, node.z, 0)
        for_lower = torch.where(node.z < 0, relevance, torch.zeros((), dtype=relevance.dtype, device=relevance.device))
        shares = []
        for arrived, is_upper in ((for_upper, True), (for_lower, False)):
            # the branch for z > 0 always runs, so that there is a share to return
            if not is_upper and not arrived.any():
                continue
            terms, part, z = node.once((self, is_upper), partial(self._part, node, half, is_upper=is_upper))
            shares.append(distribute(node, arrived, terms, part, self.epsilon, account, z))
        if account is not None:
            account.absorb("stabiliser", node, relevance * (node.z == 0))
        return [shares[0] if len(shares) == 1 else shares[0] + shares[1]]

    def _part(self, node: Affine, half: Half, *, is_upper: bool) -> Part:
        """Return the terms, the bias and the denominator of the units with z > 0, or of those with z < 0."""
        bias = node.bias
        part = None if bias is None else bias + self.gamma * _cut(bias, is_upper=is_upper)
        return _with_sum(node, half, is_upper, part)


@dataclass(frozen=True)
class WSquare(Options):
    """R_i = Σ_j w_ij² R_j / Σ_i w_ij² (Montavon et al., 2017, the w² rule); the input is not used."""

    bias: bool = False
    """True to include b_j² in the denominator (as in zennit; the paper has no bias)."""
    epsilon: NotNegative = 1e-6

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        node = affine_of(node, self)
        bias = node.bias.square() if self.bias and node.bias is not None else None
        ones = _ones_like_one_image(node)
        square = weight_of(node, self).square()
        wide_bias = None if bias is None else node.map.broadcast(bias)
        return [_share_weights(self, node, relevance, (ones, square), wide_bias, account)]


@dataclass(frozen=True)
class Flat(Options):
    """R_i = Σ_j R_j / |{i of j}| (Lapuschkin et al., 2019): share relevance equally among the inputs that j sees."""

    epsilon: NotNegative = 1e-6

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        node = affine_of(node, self)
        weight_of(node, self)  # raises if there is none
        if isinstance(node.map, Dense):
            return [self._dense(node, relevance, account)]
        if isinstance(node.map, Convolution) and node.map.groups == 1 and not node.map.transposed:
            return [self._convolution(node, relevance, account)]
        ones = torch.ones_like(weight_of(node, self))
        return [_share_weights(self, node, relevance, (_ones_like_one_image(node), ones), None, account)]

    def _dense(self, node: Affine, relevance: Tensor, account: Account | None) -> Tensor:
        features = node.x.shape[-1]
        s = relevance.sum(-1, keepdim=True) / (features + self.epsilon)
        if account is not None:
            account.absorb("stabiliser", node, relevance * (self.epsilon / (features + self.epsilon)))
        return s.expand_as(node.x)

    def _convolution(self, node: Affine, relevance: Tensor, account: Account | None) -> Tensor:
        """Sum the output channels first, since they share a denominator; one single-channel kernel of ones remains."""
        channels = node.x.shape[1]
        kernel = torch.ones_like(weight_of(node, self)[:1, :1])
        one_channel = torch.ones_like(node.x[:1, :1])
        # the number of inputs that each output sees, which is smaller where the kernel overlaps the padding
        z = node.once(self, lambda: node.map.apply(one_channel, kernel) * channels)
        stable = z + self.epsilon
        if account is not None:
            account.absorb("stabiliser", node, relevance * (self.epsilon / stable))
        s = relevance.sum(1, keepdim=True) / stable
        # every input channel receives the same relevance
        return node.map.transpose(s, kernel, node.x[:, :1]).expand_as(node.x)


def _ones_like_one_image(node: Affine) -> Tensor:
    """Return an input of ones; a single image if the batch is the first axis, since all images are equal."""
    is_first_axis = node.batch_axis == 0 and node.x.ndim > 1 and not isinstance(node.map, Contraction)
    return torch.ones_like(node.x[:1] if is_first_axis else node.x)


def _share_weights(
    rule: WSquare | Flat,
    node: Affine,
    relevance: Tensor,
    term: tuple[Tensor, Tensor],
    wide_bias: Tensor | None,
    account: Account | None,
) -> Tensor:
    """Distribute relevance by the weights only, with the same denominator for every image."""
    z = node.once(rule, lambda: summed(node, [term], wide_bias))
    stable = stabilise(z, rule.epsilon)
    s = relevance / stable
    if account is not None:
        account.absorb("stabiliser", node, s * (stable - z))
        if wide_bias is not None:
            account.absorb("bias", node, s * wide_bias)
    return node.map.transpose(s, term[1], node.x)


@dataclass(frozen=True)
class ZBox(Options):
    """R_i = Σ_j (x_i w_ij − l_i w_ij⁺ − h_i w_ij⁻) R_j / Σ_i(…) (Montavon et al., 2017, the z^B rule).

    l and h are the lowest and highest pixel, mapped through any normalization inside the model. The bias cancels.
    Raises `ConfigError` unless low < high.
    """

    low: Bound = 0.0
    """One number, one number per channel, or a tensor that broadcasts to one image."""
    high: Bound = 1.0
    epsilon: NotNegative = 1e-6

    def __post_init__(self) -> None:
        box = Box.of(self.low, self.high)
        for name in ("low", "high"):  # a frozen rule is compared and hashed, so tensors are converted
            object.__setattr__(self, name, getattr(box, name))
        super().__post_init__()

    @property
    def box(self) -> Box:
        """The box between both bounds."""
        return Box.of(self.low, self.high)

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        node = affine_of(node, self)
        weight = weight_of(node, self)
        if node.bounds is None:
            raise UnsupportedOperation(
                f"the rule {self} applies only to a layer that sees the image, and {node.place} does not; "
                "use it for the first layer only."
            )
        low, high = node.bounds

        def prepare() -> Part:
            # x w − l w⁺ − h w⁻ = (x − l) w⁺ + (x − h) w⁻: two products instead of three, and no cancellation
            terms: list[Term] = [(node.x - low, _positive(weight)), (node.x - high, _negative(weight))]
            return terms, None, summed(node, terms, None)

        terms, _, z = node.once(self, prepare)
        return [distribute(node, relevance, terms, None, self.epsilon, account, z)]
