"""Two-dimensional max-pooling with the values and winners of torch's, but many times faster on a CPU.

Torch has two CPU kernels. The channels-last kernel compares many channels at once, so images are converted to that
layout, pooled, and converted back. The backward pass is faster in the contiguous layout.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["FastMaxPool", "fast_max_pool", "geometry_of", "pool", "unpool"]

Sizes = int | Sequence[int]
Geometry = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel size, stride, padding, dilation and `ceil_mode` (True if a window may start in the image and end outside)."""


def geometry_of(
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Geometry:
    """Normalize the arguments of `F.max_pool2d` that follow the images.

    >>> geometry_of(2)
    ([2, 2], [2, 2], [0, 0], [1, 1], False)
    """
    kernel = _pair(kernel_size)
    steps = kernel if stride is None or stride == [] else _pair(stride)
    return kernel, steps, _pair(padding), _pair(dilation), ceil_mode


def _pair(size: Sizes) -> list[int]:
    return [size, size] if isinstance(size, int) else [size[0], size[-1]]


def pool(x: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window and its row-major index in the image; the first of equal values wins."""
    if x.device.type == "cpu" and x.is_contiguous():
        x = x.contiguous(memory_format=torch.channels_last)
    value, indices = torch.ops.aten.max_pool2d_with_indices(x, *geometry)
    return value.contiguous(), indices.contiguous()


def unpool(cotangent: Tensor, x: Tensor, geometry: Geometry, indices: Tensor) -> Tensor:
    """Route each output's cotangent to its winner; zero elsewhere."""
    routed: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(cotangent, x, *geometry, indices)
    return routed


class FastMaxPool(torch.autograd.Function):
    """Autograd function for max-pooling by `pool` and `unpool`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: Geometry) -> Tensor:
        value, indices = pool(x, geometry)
        ctx.save_for_backward(x, indices)
        ctx.geometry = geometry
        return value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        x, indices = ctx.saved_tensors
        return unpool(cotangents[0], x, ctx.geometry, indices), None


def fast_max_pool(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Compute `func(*args, **kwargs)` if it is a max-pooling of a batch of images; otherwise return None."""
    if func not in _MAX_POOLS:
        return None
    x = args[0] if args else kwargs["input"]
    options = {name: value for name, value in kwargs.items() if name not in ("input", "return_indices")}
    if x.ndim != 4 or not x.is_floating_point() or kwargs.get("return_indices") or len(args) > 6:
        return None
    pooled: Tensor = FastMaxPool.apply(x, geometry_of(*args[1:], **options))
    return pooled


_MAX_POOLS = {F.max_pool2d, torch.max_pool2d}
