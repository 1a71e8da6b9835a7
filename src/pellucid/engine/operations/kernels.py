"""Operations with a kernel: convolutions, and products with a constant matrix."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.linear_maps import Convolution, Dense, LeftMatrix, LinearMap, RightMatrix
from pellucid.engine.recorder import Call
from pellucid.engine.table import operation
from pellucid.engine.tape import Affine, Product

__all__ = ["convolution", "linear", "matrix_product", "transposed_convolution"]

Sizes = int | Sequence[int]


def _check_constant(call: Call, *values: object) -> None:
    if any(call.depends(value) for value in values):
        call.refuse("has a weight or bias that depends on the image")


def _affine(call: Call, kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, linear_map: LinearMap) -> Tensor:
    z: Tensor = call.run()
    return call.record(Affine, kind, z, [x], x=x, z=z, weight=weight, bias=bias, map=linear_map)


def _tuple(value: Sizes, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value) * (dimensions if len(value) == 1 else 1)


@operation("conv1d", "conv2d", "conv3d")
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
    """Record a convolution with constant weights."""
    _check_constant(call, weight, bias)
    dimensions = weight.ndim - 2
    if input.ndim != weight.ndim or call.recorder.batch_axis(input) != 0:
        call.refuse("does not receive a batch of images")
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
    sides = [(total // 2, total - total // 2) for total in totals]
    convolve: Any = (torch.conv1d, torch.conv2d, torch.conv3d)[weight.ndim - 3]
    with call.recorder:
        if any(left != right for left, right in sides):
            x = F.pad(x, [side for pair in reversed(sides) for side in pair])
            sides = [(0, 0)] * len(sides)
        return convolve(x, weight, bias, stride, tuple(left for left, _ in sides), dilation, groups)


@operation("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
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
    """Record a transposed convolution with constant weights."""
    _check_constant(call, weight, bias)
    dimensions = weight.ndim - 2
    if input.ndim != weight.ndim or call.recorder.batch_axis(input) != 0:
        call.refuse("does not receive a batch of images")
    linear_map = Convolution(
        _tuple(stride, dimensions),
        _tuple(padding, dimensions),
        _tuple(dilation, dimensions),
        True,
        _tuple(output_padding, dimensions),
        groups,
    )
    return _affine(call, "convolution", input, weight, bias, linear_map)


@operation("linear")
def linear(call: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Record x · weightᵀ + bias."""
    _check_constant(call, weight, bias)
    _keep_batch_axis(call, input)
    return _affine(call, "dense", input, weight if weight.ndim == 2 else weight[None], bias, Dense())


def _keep_batch_axis(call: Call, x: Tensor) -> None:
    if call.recorder.batch > 1 and call.recorder.batch_axis(x) == x.ndim - 1:
        call.refuse("multiplies along the batch axis")


@operation("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv")
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
            return _affine(call, "dense", left, right.t(), None, Dense())
        return _affine(call, "dense", left, right, None, RightMatrix())
    if call.recorder.batch > 1 and call.recorder.batch_axis(right) == right.ndim - 2:
        call.refuse("multiplies along the batch axis")
    return _affine(call, "dense", right, left, None, LeftMatrix())


def _vector_product(call: Call, left: Tensor, right: Tensor) -> Tensor:
    """Record a product with a constant vector, expanded to a matrix of one row or column."""
    vector = left if left.ndim < 2 else right
    if call.depends(vector) or left.ndim == right.ndim == 1:
        call.refuse("multiplies a vector that depends on the image", "use factors with at least two axes.")
    with call.recorder:
        return (left[None] @ right).squeeze(-2) if vector is left else (left @ right[:, None]).squeeze(-1)


@operation("baddbmm")
def add_products(
    call: Call, input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float | int = 1, alpha: float | int = 1
) -> Tensor:
    """Record beta · input + alpha · batch1 · batch2."""
    if call.in_place:
        call.refuse("adds in place", "use the version without the trailing underscore.")
    with call.recorder:
        product = torch.bmm(batch1, batch2)
        product = product if alpha == 1 else product * alpha
        return product if beta == 0 else (input if beta == 1 else input * beta) + product


@operation("addmm")
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
        if call.in_place:
            call.refuse("adds in place", "use the version without the trailing underscore.")
        with call.recorder:
            return input * beta + torch.mm(mat1, mat2) * alpha
    _keep_batch_axis(call, mat1)
    bias = input * beta
    if bias.ndim == 2 and bias.shape[0] != 1:
        call.refuse("adds a matrix that differs between images")
    return _affine(
        call, "dense", mat1, (mat2 * alpha).t(), bias.expand(mat2.shape[1]) if bias.ndim < 2 else bias[0], Dense()
    )
