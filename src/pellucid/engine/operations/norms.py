"""Normalizations: batch norm is affine with constants; the others are affine while their deviation is held fixed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.batch_norm import Norm, read_norm
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import Diagonal, FrozenNorm
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine

__all__ = ["batch_norm", "dropout", "group_norm", "instance_norm", "layer_norm"]


@operation("batch_norm", family="norm", is_smooth=True, keeps_image=True, channels="first",
           operators=("native_batch_norm", "_native_batch_norm_legit_no_training"))  # fmt: skip
def batch_norm(call: Call, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record (x − mean) / √(variance + eps) · weight + bias, with the running statistics."""
    norm = read_norm(call.function, call.args, call.kwargs)  # torch.batch_norm and F.batch_norm differ in their order
    if norm.is_of_input or norm.mean is None or norm.variance is None:
        call.recorder.refuse_batch_statistics()
    return _affine(call, norm, norm.mean, norm.variance)


def _affine(call: Call, norm: Norm, mean: Tensor, variance: Tensor) -> Tensor:
    value: Tensor = call.run()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    wide = (-1, *(1 for _ in norm.x.shape[2:]))
    return call.record(
        Affine, "batch_norm", value, [norm.x],
        x=norm.x, z=value, weight=scale.view(wide), bias=shift.view(wide), map=Diagonal(),
    )  # fmt: skip


def _frozen(
    call: Call, x: Tensor, grouped: tuple[int, ...], axes: tuple[int, ...], eps: float | int,
    weight: Tensor | None, bias: Tensor | None, *, is_centered: bool = True,
    replay: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Record a normalization over `axes` of x in the shape `grouped` as an affine map with fixed deviation."""
    value: Tensor = call.run()
    view = x.reshape(grouped)
    spread = view.var(axes, correction=0, keepdim=True) if is_centered else view.square().mean(axes, keepdim=True)
    deviation = (spread + eps).sqrt()
    linear_map = FrozenNorm(grouped, axes, deviation, is_centered, eps)
    scale = torch.ones((), dtype=x.dtype, device=x.device) if weight is None else weight
    return call.record(
        Affine,
        "layer_norm",
        value,
        [x],
        x=x,
        z=value,
        weight=scale,
        bias=bias,
        map=linear_map,
        replay=replay or call.replay_on(x),
    )


@operation("layer_norm", family="norm", channels="last")
def layer_norm(
    call: Call,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float | int = 1e-5,
    *_backend: object,
) -> Tensor:
    """Record a layer norm over the last axes."""
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    return _frozen(call, input, tuple(input.shape), axes, eps, weight, bias)


@operation("rms_norm", family="norm")
def rms_norm(
    call: Call,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | int | None = None,
) -> Tensor:
    """Record a division by the root mean square over the last axes."""
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    floor = torch.finfo(input.dtype).eps if eps is None else eps  # torch's default
    return _frozen(call, input, tuple(input.shape), axes, floor, weight, None, is_centered=False)


def _per_channel(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.view(-1, *(1 for _ in x.shape[2:]))


@operation("group_norm", family="norm", channels="first")
def group_norm(
    call: Call,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float | int = 1e-5,
    *_backend: object,
) -> Tensor:
    """Record a normalization over each group of channels."""
    grouped = (input.shape[0], num_groups, input.shape[1] // num_groups, *input.shape[2:])
    axes = tuple(range(2, len(grouped)))
    return _frozen(call, input, grouped, axes, eps, _per_channel(weight, input), _per_channel(bias, input))


@operation("instance_norm", family="norm", keeps_image=True, channels="first")
def instance_norm(call: Call, *_args: Any, **_kwargs: Any) -> Tensor:
    """Record a normalization over the positions of each channel of each image, or by running statistics."""
    norm = read_norm(call.function, call.args, call.kwargs)
    if not norm.is_of_input and norm.mean is not None and norm.variance is not None:
        return _affine(call, norm, norm.mean, norm.variance)
    x = norm.x
    wide = (_per_channel(norm.weight, x), _per_channel(norm.bias, x))

    # as a group norm, since torch's derivative of an instance norm may be wrong (see `engine.batch_norm`)
    def replay(x: Tensor) -> Tensor:
        return F.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)

    return _frozen(call, x, tuple(x.shape), tuple(range(2, x.ndim)), norm.eps, *wide, replay=replay)


Axes = int | Sequence[int] | None


@operation("var")
def variance(
    call: Call,
    input: Tensor,
    dim: Axes = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | int | None = None,
) -> Tensor:
    """Record a variance as the mean square of the centered values."""
    # the overload var(input, unbiased)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    ddof = correction if correction is not None else 1 if unbiased is None else int(unbiased)
    count = math.prod(input.shape[axis] for axis in axes)
    with call.recorder:
        centered = input - input.mean(tuple(axes), keepdim=True)
        return centered.square().sum(tuple(axes), keepdim) * (1 / (count - ddof))


@operation("std")
def deviation(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Record a standard deviation as the root of the variance."""
    with call.recorder:
        return torch.sqrt(torch.var(input, *args, **kwargs))


@operation("norm", torch.linalg.vector_norm, torch.linalg.norm)
def length(
    call: Call, input: Tensor, p: Any = 2, dim: Axes = None, keepdim: bool = False, *, ord: Any = None, **_kwargs: Any
) -> Tensor:
    """Record a Euclidean norm as the root of the sum of squares."""
    order = p if ord is None else ord
    is_of_matrix = call.function is torch.linalg.norm and (
        len(dim) == 2 if isinstance(dim, (tuple, list)) else dim is None and input.ndim == 2
    )
    if order not in (2, 2.0, "fro", None) and (isinstance(order, str) or is_of_matrix):
        call.refuse("is a norm of matrices")
    axes = dim if dim is None or isinstance(dim, int) else tuple(dim)
    with call.recorder:
        return _length(input, 2.0 if order in ("fro", None) else float(order), axes, keepdim)


def _length(x: Tensor, order: float, axes: Any, keepdim: bool) -> Tensor:
    """Return (Σ |x|ᵖ)^(1/p), whose limits are the largest and the smallest |x|."""
    if order == 2:
        return torch.sqrt(x.square().sum(axes, keepdim))
    if order == 1:
        return x.abs().sum(axes, keepdim)
    if math.isinf(order):
        every = () if axes is None else axes
        return x.abs().amax(every, keepdim) if order > 0 else x.abs().amin(every, keepdim)
    return x.abs().pow(order).sum(axes, keepdim).pow(1 / order)


@operation("normalize", family="norm")
def normalize(
    call: Call,
    input: Tensor,
    p: float | int = 2.0,
    dim: int = 1,
    eps: float | int = 1e-12,
    **_kwargs: Any,
) -> Tensor:
    """Record a division by the Euclidean norm along an axis."""
    with call.recorder:
        return input / _length(input, float(p), dim, keepdim=True).clamp_min(eps)


@operation("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", family="dropout")
@operation("feature_dropout", family="dropout")
def dropout(
    call: Call,
    input: Tensor,
    p: float | int = 0.5,
    training: bool = True,
    **_kwargs: object,
) -> Tensor:
    """Return the input unchanged; dropout that is active in eval mode is refused."""
    if training and p > 0:
        call.refuse("draws random numbers in eval mode")
    return input
