"""Rules for operations without weights: pass or split relevance, or propagate a (modified) derivative."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.core.errors import UnsupportedOperation
from pellucid.core.options import NotNegative, Options
from pellucid.engine.account import Account
from pellucid.engine.rules import stabilise
from pellucid.engine.tape import Activation, Move, Node, Product, Relevances, Softmax

__all__ = ["Carry", "Deconvnet", "Derivative", "Guided", "Pass", "SoftmaxTaylor", "Split"]


@dataclass(frozen=True)
class Pass(Options):
    """Pass relevance through unchanged; where f(0) ≠ 0, absorb the share f(0)/f(x) as a constant.

    R_x = R (f(x) − f(0)) / f(x). A normalization of the image passes all of its relevance on to the image.
    """

    epsilon: NotNegative = 1e-9

    def __call__(self, node: Node, relevance: Tensor, account: Account | None) -> Relevances:
        if not isinstance(node, Activation) or (isinstance(node.at_zero, (int, float)) and node.at_zero == 0):
            return [None if slot is None else relevance for slot in node.inputs]
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
            mean = (node.y * finite).sum(node.dim, keepdim=True)
            account.absorb("constant", node, relevance * (1 - finite + mean))
        return [finite * (relevance - node.y * relevance.sum(node.dim, keepdim=True))]
