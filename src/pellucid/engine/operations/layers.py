"""Operations with a kernel or a window: convolutions, products with a constant matrix, and pooling.

Max-pooling of images has the values and winners of torch's, but is many times faster on a CPU. Torch has two CPU
kernels. The channels-last kernel compares many channels at once, so images are converted to that layout, pooled, and
converted back. The backward pass is faster in the contiguous layout.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.axes import BatchMixed
from pellucid.engine.call import Call
from pellucid.engine.linear_maps import (
    Contraction,
    Convolution,
    Dense,
    LeftMatrix,
    LinearFunction,
    LinearMap,
    RightMatrix,
)
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine, Maximum, Product

__all__ = [
    "FastMaxPool",
    "average_pool",
    "convolution",
    "fast_max_pool",
    "geometry_of",
    "linear",
    "matrix_product",
    "max_pool",
    "max_pool2d",
    "pool",
    "transposed_convolution",
    "unpool",
]


Sizes = int | Sequence[int]
Geometry = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel size, stride, padding, dilation and `ceil_mode` (True if a window may start in the image and end outside)."""


def _dynamic(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, *, channel_axis: int) -> Tensor:
    """Record a kernel operation whose weight or bias depends on the image."""
    if call.recorder.batch > 1:
        raise BatchMixed  # an image's own weights lie along no batch axis
    options = {name: value for name, value in call.kwargs.items() if name not in ("input", "weight", "bias")}

    def multiply(values: Tensor, kernel: Tensor) -> Tensor:
        result: Tensor = call.function(values, kernel, None, *call.args[3:], **options)
        return result

    z = multiply(x, weight)
    if call.depends(weight) and call.depends(x):
        z = call.record(Product, "product", z, [x, weight], 0, a=x, b=weight, z=z, multiply=multiply, gate=None)
    elif call.depends(weight):
        swapped = Contraction(lambda kernel, values: multiply(values, kernel))
        z = call.record(Affine, "average", z, [weight], 0, x=weight, z=z, weight=x, bias=None, map=swapped)
    else:
        contraction = Contraction(multiply)
        z = call.record(Affine, "average", z, [x], 0, x=x, z=z, weight=weight, bias=None, map=contraction)
    if bias is None:
        return z
    shape = [1] * z.ndim
    shape[channel_axis] = -1
    with call.recorder:
        return z + bias.view(shape)


def _affine(call: Call, kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, linear_map: LinearMap) -> Tensor:
    z: Tensor = call.run()
    return call.record(Affine, kind, z, [x], x=x, z=z, weight=weight, bias=bias, map=linear_map)


def _tuple(value: Sizes, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value) * (dimensions if len(value) == 1 else 1)


_kernel = partial(operation, family="kernel", is_smooth=True)
_pool = partial(operation, family="pool", channels="first")


@_kernel("conv1d", "conv2d", "conv3d", channels="first", operators=("convolution",))
def convolution(
    call: Call,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Record a convolution; weights that depend on the image make it a product of two values."""
    dimensions = weight.ndim - 2
    if input.ndim != weight.ndim or call.recorder.batch_axis(input) != 0:
        call.refuse("does not receive a batch of images")
    if call.depends(weight) or call.depends(bias):
        return _dynamic(call, input, weight, bias, channel_axis=1)
    dilation = _tuple(dilation, dimensions)
    if isinstance(padding, str):
        return _with_named_padding(call, (input, weight, bias, stride, padding, dilation, groups))
    linear_map = Convolution(
        _tuple(stride, dimensions), _tuple(padding, dimensions), dilation, False, (0,) * dimensions, groups
    )
    return _affine(call, "convolution", input, weight, bias, linear_map)


def _with_named_padding(call: Call, arguments: tuple[Any, ...]) -> Tensor:
    """Record `same` and `valid` padding: pad separately if the two sides differ, then convolve."""
    x, weight, bias, stride, padding, dilation, groups = arguments
    totals = [
        step * (size - 1) if padding == "same" else 0 for step, size in zip(dilation, weight.shape[2:], strict=True)
    ]
    # an odd total puts the extra value at the end, as in torch
    sides = [(total // 2, total - total // 2) for total in totals]
    convolve: Any = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.ndim - 3]
    with call.recorder:
        if any(left != right for left, right in sides):
            x = F.pad(x, [side for pair in reversed(sides) for side in pair])  # last axis first
            sides = [(0, 0)] * len(sides)
        return convolve(x, weight, bias, stride, tuple(left for left, _ in sides), dilation, groups)


@_kernel("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", channels="first")
def transposed_convolution(
    call: Call,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Tensor:
    """Record a transposed convolution; weights that depend on the image make it a product of two values."""
    dimensions = weight.ndim - 2
    if input.ndim != weight.ndim or call.recorder.batch_axis(input) != 0:
        call.refuse("does not receive a batch of images")
    if call.depends(weight) or call.depends(bias):
        return _dynamic(call, input, weight, bias, channel_axis=1)
    linear_map = Convolution(
        _tuple(stride, dimensions),
        _tuple(padding, dimensions),
        _tuple(dilation, dimensions),
        True,
        _tuple(output_padding, dimensions),
        groups,
    )
    return _affine(call, "convolution", input, weight, bias, linear_map)


@_kernel("linear", channels="last", operand=0)
def linear(call: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Record x · weightᵀ + bias; weights that depend on the image make it a product of two values."""
    if call.depends(weight) or call.depends(bias):
        return _dynamic(call, input, weight, bias, channel_axis=-1)
    _keep_batch_axis(call, input)
    return _affine(call, "dense", input, weight if weight.ndim == 2 else weight[None], bias, Dense())


def _keep_batch_axis(call: Call, x: Tensor) -> None:
    if call.recorder.batch > 1 and call.recorder.batch_axis(x) == x.ndim - 1:
        call.refuse("multiplies along the batch axis")


@_kernel("matmul", "__matmul__", channels="last", operand=0)
@_kernel("mm", operand=0)
@_kernel("__rmatmul__", "bmm", "mv")
def matrix_product(call: Call, input: Tensor, other: Tensor) -> Tensor:
    """Record a matrix product with a constant on either side, or of two values that depend on the image."""
    left, right = (other, input) if call.name == "__rmatmul__" else (input, other)
    if left.ndim < 2 or right.ndim < 2:
        return _vector_product(call, left, right)
    if call.depends(left) and call.depends(right):
        value: Tensor = call.run()
        return call.record(
            Product, "product", value, [left, right], a=left, b=right, z=value, multiply=torch.matmul, gate=None
        )
    if call.depends(left):
        _keep_batch_axis(call, left)
        if right.ndim == 2:
            # `Dense` holds the weight like `nn.Linear`: (output, input)
            return _affine(call, "dense", left, right.t(), None, Dense())
        return _affine(call, "dense", left, right, None, RightMatrix())
    if call.recorder.batch > 1 and call.recorder.batch_axis(right) == right.ndim - 2:
        call.refuse("multiplies along the batch axis")
    return _affine(call, "dense", right, left, None, LeftMatrix())


@operation(
    *(getattr(place, name) for place, name in ((F, "grouped_mm"), (torch, "_grouped_mm")) if hasattr(place, name))
)
def grouped_product(
    call: Call, mat_a: Tensor, mat_b: Tensor, *, offs: Tensor | None = None, bias: Tensor | None = None, **_kwargs: Any
) -> Tensor:
    """Record a product of each group of rows with its own matrix, as in a mixture of experts."""
    if offs is None or mat_a.ndim != 2 or mat_b.ndim != 3 or bias is not None or call.depends(mat_b):
        call.refuse("does not multiply groups of rows by constant matrices")
    ends = offs.tolist()
    groups = zip([0, *ends], ends, mat_b, strict=False)
    with call.recorder:
        product = torch.cat([mat_a[start:end] @ matrix for start, end, matrix in groups])
        # rows behind the last group belong to no matrix
        return F.pad(product, (0, 0, 0, len(mat_a) - ends[-1])) if ends[-1] < len(mat_a) else product


def _vector_product(call: Call, left: Tensor, right: Tensor) -> Tensor:
    """Record a product with a constant vector, expanded to a matrix of one row or column."""
    vector = left if left.ndim < 2 else right
    if call.depends(vector) or left.ndim == right.ndim == 1:
        call.refuse("multiplies a vector that depends on the image", "use factors with at least two axes.")
    with call.recorder:
        return (left[None] @ right).squeeze(-2) if vector is left else (left @ right[:, None]).squeeze(-1)


@_kernel("addmm", operand=1)
def add_matrix_product(
    call: Call,
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float | int = 1,
    alpha: float | int = 1,
) -> Tensor:
    """Record beta · input + alpha · mat1 · mat2, with constant input and mat2."""
    if call.depends(input) or call.depends(mat2):
        with call.recorder:
            return input * beta + torch.mm(mat1, mat2) * alpha
    _keep_batch_axis(call, mat1)
    bias = input * beta
    if bias.ndim == 2 and bias.shape[0] != 1:
        call.refuse("adds a matrix that differs between images")
    return _affine(
        call, "dense", mat1, (mat2 * alpha).t(), bias.expand(mat2.shape[1]) if bias.ndim < 2 else bias[0], Dense()
    )


@_pool("avg_pool2d", "adaptive_avg_pool2d", is_smooth=True)
@_pool("avg_pool1d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool3d", "interpolate", "upsample")
def average_pool(call: Call, input: Tensor, *_args: object, **_kwargs: object) -> Tensor:
    """Record a weighted average of neighbors."""
    value: Tensor = call.run()
    function = LinearFunction(call.replay_on(input))
    return call.record(Affine, "average", value, [input], x=input, z=value, weight=None, bias=None, map=function)


@_pool("fold", "grid_sample", "affine_grid")
def linear_window(call: Call, input: Tensor, *others: object, **kwargs: object) -> Tensor:
    """Record sums of overlapping patches, or a resampling at fixed points."""
    if any(call.depends(other) for other in (*others, *kwargs.values())):
        call.refuse("samples at points that depend on the image")
    if not call.depends(input) or (call.name == "fold" and input.ndim != 3) or call.recorder.batch_axis(input) != 0:
        call.refuse("does not receive a batch of images")
    value: Tensor = call.run()
    function = LinearFunction(call.replay_on(input))
    return call.record(Affine, "average", value, [input], 0, x=input, z=value, weight=None, bias=None, map=function)


@operation("torchvision::roi_align", "torchvision::ps_roi_align", family="pool", channels="first")
def region_pool(call: Call, input: Tensor, rois: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Record averages over regions, which are held fixed: torchvision has no derivative for them either."""
    if call.recorder.batch > 1 or not call.depends(input):
        raise BatchMixed  # the regions of all images lie along one axis
    result = call.function(input, rois, *args, **kwargs)
    value = result[0] if isinstance(result, tuple) else result

    def average(x: Tensor) -> Tensor:
        pooled = call.function(x, rois, *args, **kwargs)
        averages: Tensor = pooled[0] if isinstance(pooled, tuple) else pooled
        return averages

    value = call.record(
        Affine, "average", value, [input], 0, x=input, z=value, weight=None, bias=None, map=LinearFunction(average)
    )
    return (value, *result[1:]) if isinstance(result, tuple) else value


@_pool("max_pool2d", is_smooth=True)
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


@_pool("max_pool1d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def max_pool(
    call: Call,
    input: Tensor,
    *args: Any,
    return_indices: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Record the maximum of each window; the first of equal values wins."""
    pooled = tuple(range(2, input.ndim))
    # the name contains the number of spatial axes, as in `max_pool3d`
    if return_indices or len(pooled) != int(call.name[-2]):
        call.refuse("returns indices" if return_indices else "does not receive a batch of images")
    value, indices = getattr(F, call.name)(input, *args, return_indices=True, **kwargs)
    return call.record(
        Maximum, "max", value, [input], x=input, y=value, replay=call.replay_on(input), indices=indices, pooled=pooled
    )


@_pool("max_pool2d_with_indices", is_smooth=True)
@_pool("max_pool1d_with_indices", "max_pool3d_with_indices")
@_pool(*(f"adaptive_max_pool{rank}d_with_indices" for rank in (1, 2, 3)))
def max_pool_with_indices(call: Call, *_args: object, **_kwargs: object) -> None:
    """Refuse a max-pool whose indices the model uses, since they are no function of a value with relevance."""
    call.refuse("returns indices")


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
    # [] is the default of torch's operator
    steps = kernel if stride is None or stride == [] else _pair(stride)
    return kernel, steps, _pair(padding), _pair(dilation), ceil_mode


def _pair(size: Sizes) -> list[int]:
    # a sequence of one number holds for both axes
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
    # a seventh positional argument is `return_indices`
    if x.ndim != 4 or not x.is_floating_point() or kwargs.get("return_indices") or len(args) > 6:
        return None
    pooled: Tensor = FastMaxPool.apply(x, geometry_of(*args[1:], **options))
    return pooled


_MAX_POOLS = {F.max_pool2d, torch.max_pool2d}
