"""Functions recorded as the simpler operations that they consist of."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.call import Call
from pellucid.engine.table import operation

__all__ = ["extreme", "least", "product_of_values"]

Number = float | int | Tensor
_composed = partial(operation, family="arithmetic")


def _scaled(value: Any, factor: Number) -> Any:
    return value if isinstance(factor, (int, float)) and factor == 1 else value * factor


# `addcmul` is part of the affine form that replaces batch norms in differentiated passes (see `engine.batch_norm`),
# but not among the traits of an elementwise linear operation: both factors may depend on the image
@_composed("addcmul", is_smooth=True)
def add_product(call: Call, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """Record input + value · tensor1 · tensor2."""
    with call.recorder:
        return input + _scaled(tensor1 * tensor2, value)


@_composed("addcdiv")
def add_quotient(call: Call, input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """Record input + value · tensor1 / tensor2."""
    with call.recorder:
        return input + _scaled(tensor1 / tensor2, value)


@_composed("lerp", is_smooth=True)
def interpolation(call: Call, input: Tensor, end: Tensor, weight: Number) -> Tensor:
    """Record (1 − weight) · input + weight · end."""
    with call.recorder:
        return (1 - weight) * input + weight * end


def _added(product: Tensor, x: Tensor, beta: float | int, alpha: float | int) -> Tensor:
    product = _scaled(product, alpha)
    # as in torch, a factor of 0 ignores the input, even if it is not finite
    return product if beta == 0 else _scaled(x, beta) + product


@_composed("baddbmm", is_smooth=True)
def add_batched_products(
    call: Call, input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float | int = 1, alpha: float | int = 1
) -> Tensor:
    """Record beta · input + alpha · batch1 · batch2."""
    with call.recorder:
        return _added(torch.bmm(batch1, batch2), input, beta, alpha)


@_composed("addbmm", is_smooth=True)
def add_sum_of_products(
    call: Call, input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float | int = 1, alpha: float | int = 1
) -> Tensor:
    """Record beta · input + alpha · Σ batch1 · batch2."""
    with call.recorder:
        return _added(torch.bmm(batch1, batch2).sum(0), input, beta, alpha)


@_composed("addmv", is_smooth=True)
def add_matrix_vector(
    call: Call, input: Tensor, mat: Tensor, vec: Tensor, *, beta: float | int = 1, alpha: float | int = 1
) -> Tensor:
    """Record beta · input + alpha · mat · vec."""
    with call.recorder:
        return _added(torch.mv(mat, vec), input, beta, alpha)


@_composed("addr", is_smooth=True)
def add_outer(
    call: Call, input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float | int = 1, alpha: float | int = 1
) -> Tensor:
    """Record beta · input + alpha · vec1 · vec2ᵀ."""
    with call.recorder:
        return _added(vec1[:, None] * vec2[None], input, beta, alpha)


@_composed("outer", "ger")
def outer(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """Record the product of each pair of two vectors' elements."""
    with call.recorder:
        return input[:, None] * other[None]


@_composed("dot", "vdot", "inner")
def inner(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """Record Σ input · other over the last axis."""
    if input.ndim != 1 or other.ndim != 1:
        with call.recorder:
            return torch.tensordot(input, other, dims=([-1], [-1])) if input.ndim and other.ndim else input * other
    with call.recorder:
        return (input * other).sum(-1)


@_composed("tensordot")
def contracted(call: Call, a: Tensor, b: Tensor, dims: Any = 2, **_kwargs: Any) -> Tensor:
    """Record a contraction over pairs of axes as an einsum."""
    if isinstance(dims, int):
        pairs = ([*range(a.ndim - dims, a.ndim)], [*range(dims)])
    else:
        pairs = tuple([axes] if isinstance(axes, int) else list(axes) for axes in dims)  # type: ignore[assignment]
    letters = "abcdefghijklmnopqrstuvwxyz"
    left = [*letters[: a.ndim]]
    right = [*letters[a.ndim : a.ndim + b.ndim]]
    for mine, theirs in zip(*pairs, strict=True):
        right[theirs % b.ndim] = left[mine % a.ndim]
    shared = {left[axis % a.ndim] for axis in pairs[0]}
    target = [letter for letter in (*left, *right) if letter not in shared]
    with call.recorder:
        return torch.einsum(f"{''.join(left)},{''.join(right)}->{''.join(target)}", a, b)


@_composed("bilinear")
def bilinear(call: Call, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Record xᵀ W y + bias for each unit."""
    with call.recorder:
        value = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
        return value if bias is None else value + bias


def extreme(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """Record the larger or smaller of two values that depend on the image; the winner takes all."""
    with call.recorder:
        pair = torch.stack(torch.broadcast_tensors(input, other))
        return pair.amax(0) if call.name.rstrip("_") in ("maximum", "fmax") else -(-pair).amax(0)


@operation("amin", "min", family="reduction", channels="kept")
def least(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record a minimum along axes, or of two tensors, as the negative of a maximum."""
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        with call.recorder:
            return torch.minimum(input, *args, **kwargs)
    name = "amax" if call.name == "amin" else "max"
    with call.recorder:
        result = getattr(torch, name)(-input, *args, **kwargs)
        if isinstance(result, Tensor):
            return -result
        return torch.return_types.min((-result[0], result[1]))


@operation("aminmax", family="reduction")
def range_of_values(call: Call, input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Record the smallest and the largest value."""
    axes = () if dim is None else dim
    with call.recorder:
        return torch.return_types.aminmax((input.amin(axes, keepdim), input.amax(axes, keepdim)))


@operation("prod", family="reduction", channels="kept")
def product_of_values(
    call: Call, input: Tensor, dim: int | None = None, keepdim: bool = False, **_kwargs: Any
) -> Tensor:
    """Record a product over an axis as a tree of products of two values."""
    if dim is None:
        with call.recorder:
            return torch.prod(input.flatten(), 0)
    with call.recorder:
        factors = list(torch.unbind(input, dim))
        while len(factors) > 1:
            rest = factors[len(factors) // 2 * 2 :]
            factors = [first * second for first, second in zip(factors[::2], factors[1::2], strict=False)] + rest
        return factors[0].unsqueeze(dim) if keepdim else factors[0]


@operation("cumprod", family="arithmetic")
def running_product(call: Call, input: Tensor, dim: int, **_kwargs: Any) -> Tensor:
    """Record the products of the first values along an axis, one after the other."""
    with call.recorder:
        first, *others = torch.unbind(input, dim)
        products = [first]
        for factor in others:
            products.append(products[-1] * factor)
        return torch.stack(products, dim)


@operation("logaddexp", family="arithmetic")
def log_of_sum(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """Record log(eᵃ + eᵇ)."""
    with call.recorder:
        return torch.stack(torch.broadcast_tensors(input, other)).logsumexp(0)


@operation("softmin", family="softmax")
def softmin(call: Call, input: Tensor, dim: int | None = None, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record the softmax of −x."""
    if dim is None:
        call.refuse("does not specify dim")
    with call.recorder:
        return F.softmax(-input, dim)


@operation("var_mean", "std_mean", family="norm")
def spread_and_mean(call: Call, input: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Record a variance or standard deviation, and the mean."""
    function: Callable[..., Tensor] = torch.var if call.name == "var_mean" else torch.std
    axes = None if isinstance(dim, bool) else dim
    keepdim = bool(kwargs.get("keepdim", args[1] if len(args) > 1 else False))
    with call.recorder:
        mean = input.mean() if axes is None else input.mean(axes, keepdim)
        return function(input, dim, *args, **kwargs), mean


@operation("cosine_similarity", family="arithmetic")
def cosine(call: Call, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Record the inner product of two normalized vectors."""
    with call.recorder:
        first, second = (x / (x * x).sum(dim, keepdim=True).sqrt().clamp_min(eps) for x in (x1, x2))
        return (first * second).sum(dim)


@operation("pairwise_distance", family="arithmetic")
def distance(call: Call, x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """Record the norm of a difference along the last axis."""
    with call.recorder:
        return torch.norm(x1 - x2 + eps, p, -1, keepdim)
