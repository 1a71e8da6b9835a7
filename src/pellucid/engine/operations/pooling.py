"""Pooling, and interpolation, which is an average with given weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.engine.linear_maps import LinearFunction
from pellucid.engine.operations.sums import _axis_after
from pellucid.engine.recorder import Call
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine, Maximum

__all__ = ["average_pool", "largest", "max_pool", "max_pool2d"]

Sizes = int | Sequence[int]


@operation("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
           "adaptive_avg_pool3d", "interpolate", "upsample")  # fmt: skip
def average_pool(call: Call, input: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    """A weighted average of neighbours."""
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
    """The largest of each window; the first one where several are equal."""
    if return_indices or input.ndim != 4:
        call.refuse("returns indices" if return_indices else "is not given a batch of images")
    sizes = [[size] * 2 if isinstance(size, int) else list(size) for size in (kernel_size, padding, dilation)]
    steps = sizes[0] if stride is None or stride == [] else [stride] * 2 if isinstance(stride, int) else list(stride)
    geometry = (sizes[0], steps, sizes[1], sizes[2], ceil_mode)
    value, indices = torch.ops.aten.max_pool2d_with_indices(input, *geometry)

    def pull(cotangent: Tensor) -> Tensor:
        return torch.ops.aten.max_pool2d_with_indices_backward(cotangent, input, *geometry, indices)

    return call.record(
        Maximum, "max", value, [input], x=input, y=value, replay=call.replay_on(input), pull=pull, indices=indices
    )


@operation("max_pool1d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax")
def max_pool(
    call: Call,
    input: Tensor,
    *args: Any,
    return_indices: bool = False,
    **kwargs: Any,
) -> Tensor:
    """The largest of each window, or along axes."""
    if return_indices:
        call.refuse("returns indices")
    value: Tensor = call.run()
    axis = None
    if call.name == "amax":
        axis = _axis_after(call, input, *_dim_and_keepdim(*args, **kwargs))
    return call.record(Maximum, "max", value, [input], axis, x=input, y=value, replay=call.replay_on(input))


def _dim_and_keepdim(dim: int | Sequence[int] | None = None, keepdim: bool = False) -> tuple[Any, bool]:
    return dim, keepdim


@operation("max")
def largest(call: Call, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The largest along one axis, with its place, or of all."""
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        call.refuse("compares two tensors")
    result = call.run()
    axis = _axis_after(call, input, *_dim_and_keepdim(*args, **kwargs))
    replay: Callable[[Tensor], Any] = call.replay_on(input)
    if isinstance(result, Tensor):
        return call.record(Maximum, "max", result, [input], axis, x=input, y=result, replay=replay)
    value = call.record(
        Maximum, "max", result.values, [input], axis, x=input, y=result.values, replay=lambda x: replay(x).values
    )
    return type(result)((value, result.indices))
