"""Relevance rules: each is a frozen set of hyperparameters, called with a node and the relevance of its output.

A rule for affine operations defines which parts of input and weight share the relevance; `distribute` does so:

    R_i = Σ_t x_i⁽ᵗ⁾ Σ_j w_ij⁽ᵗ⁾ s_j,    s_j = R_j / stab(z_j),    z_j = Σ_t Σ_i x_i⁽ᵗ⁾ w_ij⁽ᵗ⁾ + b_j

Of R, the bias absorbs s·b and the stabilizer s·(stab(z) − z). To add a rule, write a callable
(node, relevance, account) -> one relevance per input, and use it in a composite or in an analyzer's `rules`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.core.options import NotNegative, Options
from pellucid.engine.tape import Account, Activation, Addition, Affine, Move, Node, Product, Relevances, Softmax

__all__ = [
    "Carry",
    "Deconvnet",
    "Derivative",
    "Epsilon",
    "Guided",
    "Pass",
    "SoftmaxTaylor",
    "Split",
    "Term",
    "Z",
    "affine_of",
    "distribute",
    "stabilise",
    "summed",
    "weight_of",
]


Term = tuple[Tensor, Tensor | None]
"""A part of the input and the part of the weight it is multiplied by."""


def stabilise(z: Tensor, epsilon: float | int) -> Tensor:
    """Move z away from zero by ε: z + ε where z ≥ 0, z − ε where z < 0, in z's own dtype.

    >>> stabilise(torch.tensor([2.0, 0.0, -0.0, -1.0]), 0.5)
    tensor([ 2.5000,  0.5000,  0.5000, -1.5000])
    """
    signed = z + 0.0  # turns −0.0 into +0.0; otherwise copysign would give −ε there
    return torch.copysign(torch.full((), epsilon, dtype=z.dtype, device=z.device), signed).add_(z)


def affine_of(node: Node, rule: object) -> Affine:
    """Return `node` if it is affine; otherwise raise, since the rule does not apply to it."""
    if isinstance(node, Affine):
        return node
    raise UnsupportedOperation(
        f"the rule {rule} applies to affine operations and cannot be used for {node.place}; "
        "restrict it to the layers it is meant for, or choose another rule for this one."
    )


def weight_of(node: Affine, rule: object) -> Tensor:
    """Return the node's weight; raise if it has none."""
    if node.weight is None:
        raise UnsupportedOperation(
            f"the rule {rule} needs a weight, but {node.place} has none; use Epsilon for this kind of operation."
        )
    return node.weight


def distribute(
    node: Affine,
    relevance: Tensor,
    terms: list[Term],
    bias: Tensor | None,
    epsilon: float | int,
    account: Account | None,
    z: Tensor | None = None,
) -> Tensor:
    """Distribute relevance among `terms` by the formula in the module docstring; pass `z` if already computed."""
    wide_bias = None if bias is None else node.map.broadcast(bias)
    if z is None:
        z = summed(node, terms, wide_bias)
        stable, is_kept = stabilise(z, epsilon), False
    else:
        given = z
        # kept with z, so that no other tensor can have the same id
        _, stable = node.once((id(given), epsilon), lambda: (given, stabilise(given, epsilon)))
        is_kept = node.kept is not None
    if account is None:
        # reuses the memory of `stable` if it is no longer needed
        s = torch.div(relevance, stable, out=None if is_kept else stable)
    else:
        s = relevance / stable
        account.absorb("stabiliser", node, s * (stable - z))
        if wide_bias is not None:
            account.absorb("bias", node, s * wide_bias)
    return _spread(node, s, terms)


def summed(node: Affine, terms: list[Term], wide_bias: Tensor | None) -> Tensor:
    """Return the denominator z of `terms`."""
    z = node.map.apply(*terms[0])
    for term in terms[1:]:
        z = z + node.map.apply(*term)
    return z if wide_bias is None else z + wide_bias


def _spread(node: Affine, s: Tensor, terms: list[Term]) -> Tensor:
    """Return Σ_t x⁽ᵗ⁾ ⊙ (w⁽ᵗ⁾)ᵀ s."""
    shares = []
    for x, weight in terms:
        share = node.map.transpose(s, weight, x)
        # a map without a weight may return an expanded view of s, which must not be written to
        shares.append(share * x if weight is None else share.mul_(x))
    for share in shares[1:]:
        shares[0] += share
    return shares[0]


@dataclass(frozen=True)
class Epsilon(Options):
    """R_i = Σ_j x_i w_ij R_j / (z_j + ε sign z_j) (Bach et al., 2015, equation 58)."""

    epsilon: NotNegative = 1e-6
    bias: bool = True
    """True to include the bias in the denominator."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if isinstance(node, Addition):
            return _share_addition(node, relevance, self.epsilon, account)
        node = affine_of(node, self)
        bias = node.bias if self.bias else None
        terms: list[Term] = [(node.x, node.weight)]
        # the recorded output is the denominator, unless a bias has to be left out of it
        whole = self.bias or node.bias is None
        z = node.z if whole else node.once(self, lambda: summed(node, terms, None))
        return [distribute(node, relevance, terms, bias, self.epsilon, account, z)]


def _share_addition(node: Addition, relevance: Tensor, epsilon: float | int, account: Account | None) -> Relevances:
    """Return each term's share of a sum; shares of constants are absorbed, recorded by place."""
    z, terms = node.z, list(node.terms)
    if not bool(z.sum().isfinite()):  # a mask added −∞: no relevance arrives at masked entries, so treat them as 0
        z, *terms = (value.masked_fill(~value.isfinite(), 0) for value in (z, *terms))
    stable = stabilise(z, epsilon)
    s = relevance / stable
    if account is not None:
        account.absorb("stabiliser", node, s * (stable - z))
    shares: list[Tensor | None] = []
    for slot, term, sign in zip(node.inputs, terms, node.signs, strict=True):
        share = s * term if sign == 1 else s * (term * sign)
        if slot is None and account is not None:
            account.absorb("constant", node, share)
        shares.append(None if slot is None else share.sum_to_size(term.shape))
    return shares


@dataclass(frozen=True)
class Z(Options):
    """R_i = Σ_j x_i w_ij R_j / z_j, with a stabilizer only where z_j is exactly 0 (Bach et al., 2015, equation 56)."""

    epsilon: NotNegative = 1e-7
    """Replacement for a denominator of exactly zero."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        node = affine_of(node, self)
        is_zero = node.z == 0
        s = relevance / node.z.masked_fill(is_zero, self.epsilon)
        if account is not None:
            account.absorb("stabiliser", node, s * is_zero * self.epsilon)
            if node.bias is not None:
                account.absorb("bias", node, s * node.map.broadcast(node.bias))
        return [_spread(node, s, [(node.x, node.weight)])]


def _inputs_of(node: Node) -> Sequence[Tensor | None]:
    """Return the inputs of an elementwise operation, which may broadcast them; None for other operations."""
    if isinstance(node, Addition):
        return node.terms
    return [node.x if isinstance(node, Affine) else None] * len(node.inputs)


def _summed(relevance: Tensor, x: Tensor | None) -> Tensor:
    """Sum relevance over the axes along which `x` was repeated, as when a gray image is normalized per channel."""
    repeats = x is not None and x.ndim == relevance.ndim and x.numel() < relevance.numel()
    return relevance.sum_to_size(x.shape) if x is not None and repeats else relevance


@dataclass(frozen=True)
class Pass(Options):
    """Pass relevance through unchanged; where f(0) ≠ 0, absorb the share f(0)/f(x) as a constant.

    R_x = R (f(x) − f(0)) / f(x). A normalization of the image passes all of its relevance on to the image.
    """

    epsilon: NotNegative = 1e-9

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if not isinstance(node, Activation) or (isinstance(node.at_zero, (int, float)) and node.at_zero == 0):
            inputs = zip(node.inputs, _inputs_of(node), strict=True)
            return [None if slot is None else _summed(relevance, x) for slot, x in inputs]
        if isinstance(node.at_zero, float) and not math.isfinite(node.at_zero):
            raise UnsupportedOperation(
                f"{node.place} is undefined at 0, so relevance cannot pass through it (kind {node.kind!r}); "
                f"set a rule with rules={{{node.kind!r}: …}}, or choose a gradient method such as "
                "'integrated_gradients'."
            )
        stable = stabilise(node.y, self.epsilon)
        s = relevance / stable
        if account is not None:
            account.absorb("constant", node, s * node.at_zero)
            account.absorb("stabiliser", node, s * (stable - node.y))
        return [s * (node.y - node.at_zero)]


@dataclass(frozen=True)
class Carry:
    """Route relevance back to where each value came from; relevance that reaches inserted constants is absorbed."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if account is not None and isinstance(node, Move) and node.inserted is not None:
            account.absorb("constant", node, relevance * node.inserted())
        return node.pullback(relevance)


@dataclass(frozen=True)
class Derivative:
    """The chain rule: R_x = R · ∂f/∂x."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        return node.pullback(relevance)


@dataclass(frozen=True)
class Guided:
    """Pass only positive cotangents through rectifiers: R_x = f′(x) max(R, 0) (Springenberg et al., 2015)."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if not (isinstance(node, Activation) and node.is_rectifier):
            return node.pullback(relevance)
        if node.operation in ("relu", "relu_"):  # f′ ≥ 0, so clamping afterwards is equal and saves a tensor
            return [torch.ops.aten.threshold_backward(relevance, node.y, 0).clamp_(min=0)]
        return node.pullback(relevance.clamp(min=0))


@dataclass(frozen=True)
class Deconvnet:
    """Pass positive cotangents through rectifiers whatever the input: R_x = max(R, 0) (Zeiler and Fergus, 2014)."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if isinstance(node, Activation) and node.is_rectifier:
            return [relevance.clamp(min=0)]
        return node.pullback(relevance)


@dataclass(frozen=True)
class Split(Options):
    """Split a product's relevance: all to the signal if the other factor is a gate, half to each factor otherwise.

    For z = a · b (elementwise or of matrices): s = R / (2 stab(z)), R_a = a ⊙ (s bᵀ), R_b = b ⊙ (aᵀ s)
    (Achtibat et al., 2024).
    """

    epsilon: NotNegative = 1e-6

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        assert isinstance(node, Product)
        if node.is_normalization and node.gate is not None and relevance.shape == (node.b, node.a)[node.gate].shape:
            return (
                [None, relevance] if node.gate == 0 else [relevance, None]
            )  # the signal takes everything, so there is no share to compute
        stable = stabilise(node.z, self.epsilon)
        s = relevance / stable
        if account is not None:
            account.absorb("stabiliser", node, s * (stable - node.z))
        if node.gate is None:
            by_a, by_b = node.pullback(s * 0.5)
            assert by_a is not None
            assert by_b is not None
            return [by_a * node.a, by_b * node.b]
        shares = node.pullback(s)
        signal = 1 - node.gate
        share = shares[signal]
        assert share is not None
        own = share * (node.b if signal else node.a)
        return [None, own] if signal else [own, None]


@dataclass(frozen=True)
class SoftmaxTaylor:
    """R_i = x_i (R_i − p_i Σ_j R_j) (Achtibat et al., 2024); absorbs the constant term of the Taylor expansion."""

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        assert isinstance(node, Softmax)
        finite = torch.where(torch.isfinite(node.x), node.x, torch.zeros_like(node.x))  # masked entries are −∞
        if account is not None:
            # with this constant, absorbed and passed relevance add up to all that arrived
            mean = (node.y * finite).sum(node.dim, keepdim=True)
            account.absorb("constant", node, relevance * (1 - finite + mean))
        return [finite * (relevance - node.y * relevance.sum(node.dim, keepdim=True))]
