"""Linear maps paired with their transposes: the interface between affine operations and relevance rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Contraction",
    "Convolution",
    "Dense",
    "Diagonal",
    "FrozenMaximum",
    "FrozenNorm",
    "LeftMatrix",
    "LinearFunction",
    "LinearMap",
    "RightMatrix",
    "vjp",
]


def vjp(function: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor) -> Tensor:
    """Return cotangent · ∂function/∂x, by autograd."""
    with torch.enable_grad():  # the reverse pass runs under `no_grad`
        leaf = x.detach().requires_grad_()
        output = function(leaf)
        return torch.autograd.grad(output, leaf, cotangent.to(output.dtype).expand_as(output))[0]


@runtime_checkable
class LinearMap(Protocol):
    """The linear map x ↦ weight · x and its transpose."""

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Return weight · x, without the bias."""

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        """Return weightᵀ · s, in the shape of `x`."""

    def broadcast(self, bias: Tensor) -> Tensor:
        """Reshape the bias so that it broadcasts to the output."""
        return bias


@dataclass(frozen=True)
class Convolution(LinearMap):
    """A convolution in any number of dimensions; grouped, dilated, strided or transposed."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return torch.ops.aten.convolution(
            x, weight, None, self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups
        )

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        if self._has_few_columns(weight, s):
            # one matrix product and col2im, which here beat torch's backward convolution
            # `fold` expects the columns ordered by channel, row and column of the kernel
            columns = torch.matmul(weight.permute(1, 2, 3, 0).flatten(0, 2), s.flatten(2))
            return F.fold(columns, x.shape[2:], weight.shape[2:], self.dilation, self.padding, self.stride)
        return torch.ops.aten.convolution_backward(
            s,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.transposed,
            self.output_padding,
            self.groups,
            [True, False, False],  # output mask: only the gradient with respect to the input
        )[0]

    def _has_few_columns(self, weight: Tensor, s: Tensor) -> bool:
        """True if one matrix product and a fold are faster: few input channels, as in a layer that sees the image."""
        if weight.ndim != 4 or self.transposed or self.groups != 1 or s.device.type != "cpu":
            return False
        # with at most as many columns as output channels, the intermediate result is no larger than s
        return weight.shape[2:].numel() > 1 and weight[0].numel() <= len(weight)

    def broadcast(self, bias: Tensor) -> Tensor:
        return bias.view(-1, *(1 for _ in self.stride))


@dataclass(frozen=True)
class Dense(LinearMap):
    """x · weightᵀ over the last axis."""

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return x @ weight.t()

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return (s @ weight).reshape(x.shape)


@dataclass(frozen=True)
class Diagonal(LinearMap):
    """Multiply each element by a weight that broadcasts to the shape of x without enlarging it."""

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return x * weight

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return s * weight


@dataclass(frozen=True)
class LinearFunction(LinearMap):
    """Any linear function without a weight, such as average pooling; autograd provides the transpose."""

    function: Callable[[Tensor], Tensor]

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return self.function(x)

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        return vjp(self.function, x, s)


@dataclass(frozen=True)
class RightMatrix(LinearMap):
    """x · weight over the last two axes, for weights with leading batch axes."""

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return x @ weight

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return (s @ weight.mT).sum_to_size(x.shape)  # the weight may have broadcast x


@dataclass(frozen=True)
class LeftMatrix(LinearMap):
    """weight · x over the last two axes."""

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return weight @ x

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return (weight.mT @ s).sum_to_size(x.shape)


@dataclass(frozen=True)
class Contraction(LinearMap):
    """Any product of x and a weight that is linear in both, such as an einsum; autograd provides the transpose."""

    multiply: Callable[[Tensor, Tensor], Tensor]

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return self.multiply(x, weight)

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        return vjp(lambda moved: self.multiply(moved, weight), x, s)


@dataclass(frozen=True, eq=False)
class FrozenMaximum(LinearMap):
    """Σ p x over some axes, with the probabilities p = softmax(x) of a log-sum-exp held fixed."""

    weights: Tensor
    axes: tuple[int, ...]
    keepdim: bool
    source: Tensor
    """The recorded x, in which masked entries are −∞."""

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return (self.weights * x).sum(self.axes, self.keepdim)

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        return self.weights * self.widened(s)

    def widened(self, reduced: Tensor) -> Tensor:
        """Restore the reduced axes of a result, with size 1."""
        if not self.keepdim:
            for axis in sorted(axis % self.weights.ndim for axis in self.axes):
                reduced = reduced.unsqueeze(axis)
        return reduced


@dataclass(frozen=True, eq=False)
class FrozenNorm(LinearMap):
    """(x − mean x) / deviation · weight, with the deviation held fixed; the mean still depends on x."""

    grouped: tuple[int, ...]
    """The shape of x in which `axes` are averaged."""
    axes: tuple[int, ...]
    deviation: Tensor
    is_centered: bool
    eps: float | int

    def center(self, grouped: Tensor) -> Tensor:
        """Subtract the mean, if the norm does."""
        return grouped - grouped.mean(self.axes, keepdim=True) if self.is_centered else grouped

    def apply(self, x: Tensor, weight: Tensor | None) -> Tensor:
        assert weight is not None
        return (self.center(x.reshape(self.grouped)) / self.deviation).reshape(x.shape) * weight

    def transpose(self, s: Tensor, weight: Tensor | None, x: Tensor) -> Tensor:
        assert weight is not None
        # centering is a symmetric projection and therefore its own transpose
        return self.center((s * weight).reshape(self.grouped) / self.deviation).reshape(x.shape)
