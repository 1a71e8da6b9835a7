"""Pooling, and interpolation, which is an average with fixed weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.linear_maps import LinearFunction
from pellucid.engine.max_pooling import geometry_of, pool, unpool
from pellucid.engine.operations.sums import _axis_after
from pellucid.engine.recorder import Call
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine, Maximum

__all__ = ["average_pool", "largest", "max_pool", "max_pool2d"]

Sizes = int | Sequence[int]


@operation("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
           "adaptive_avg_pool3d", "interpolate", "upsample")  # fmt: skip
def average_pool(call: Call, input: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    """Record a weighted average of neighbors."""
    value: Tensor = call.run()
    function = LinearFunction(call.replay_on(input))
    return call.record(Affine, "average", value, [input], x=input, z=value, weight=None, bias=None, map=function)


@operation("max_pool2d")
def max_pool2d(
    call: Call,
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Record the maximum of each window; the first of equal values wins."""
    if return_indices or input.ndim != 4:
        call.refuse("returns indices" if return_indices else "does not receive a batch of images")
    geometry = geometry_of(kernel_size, stride, padding, dilation, ceil_mode)
    value, indices = pool(input, geometry)

    def pull(cotangent: Tensor) -> Tensor:
        return unpool(cotangent, input, geometry, indices)

    return call.record(
        Maximum, "max", value, [input],
        x=input, y=value, replay=call.replay_on(input), pull=pull, indices=indices, pooled=(2, 3),
    )  # fmt: skip


@operation("max_pool1d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def max_pool(
    call: Call,
    input: Tensor,
    *args: Any,
    return_indices: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Record the maximum of each window; the first of equal values wins."""
    pooled = tuple(range(2, input.ndim))
    if return_indices or len(pooled) != int(call.name[-2]):
        call.refuse("returns indices" if return_indices else "does not receive a batch of images")
    value, indices = getattr(F, call.name)(input, *args, return_indices=True, **kwargs)
    return call.record(
        Maximum, "max", value, [input], x=input, y=value, replay=call.replay_on(input), indices=indices, pooled=pooled
    )


@operation("amax", "max")
def largest(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record the maximum along axes, or of all values; `max` along one axis also returns the indices."""
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        call.refuse("compares two tensors")
    result = call.run()
    dim, keepdim = _dim_and_keepdim(*args, **kwargs)
    axis = _axis_after(call, input, dim, keepdim)
    pooled = tuple(range(input.ndim)) if dim in (None, ()) else (dim,) if isinstance(dim, int) else tuple(dim)
    pooled = tuple(sorted(number % input.ndim for number in pooled))
    indices = input.movedim(pooled, tuple(range(-len(pooled), 0))).flatten(-len(pooled)).argmax(-1)
    value = result if isinstance(result, Tensor) else result.values
    replay: Callable[[Tensor], Any] = call.replay_on(input)
    value = call.record(
        Maximum, "max", value, [input], axis, x=input, y=value, indices=indices.view(value.shape), pooled=pooled,
        replay=replay if isinstance(result, Tensor) else lambda x: replay(x).values,
    )  # fmt: skip
    return value if isinstance(result, Tensor) else type(result)((value, result.indices))


def _dim_and_keepdim(dim: Any = None, keepdim: bool = False) -> tuple[Any, bool]:
    return dim, keepdim
