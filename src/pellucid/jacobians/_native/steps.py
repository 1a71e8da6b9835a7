"""Nodes of autograd's graph that act on each element: activations, max pooling, scaling, views and permutations."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.jacobians._native.values import Images, Step, Unsupported, table_step

__all__ = ["STEPS", "broadcast", "constant"]

Steps = list[Step]

VIEWS = (
    *("View", "UnsafeView", "ReshapeAlias", "ReshapeCopy", "Squeeze", "Unsqueeze"),
    *("Clone", "Alias", "Contiguous", "ToCopy", "LiftFresh"),
)
"""Operations that keep the order of elements."""

SLOPES = (
    *("Threshold", "LeakyRelu", "Hardtanh", "Clamp", "ClampMin", "ClampMax", "Abs"),
    *("Elu", "Celu", "Selu", "Sigmoid", "Tanh", "Gelu", "Silu"),
    *("Mish", "Softplus", "Softshrink", "Hardshrink", "Hardsigmoid", "Hardswish", "LogSigmoid"),
    *("Exp", "Exp2", "Expm1", "Log", "Log2", "Log1p", "Log10"),
    *("Sqrt", "Rsqrt", "Sin", "Cos", "Tan", "Sinh", "Cosh"),
    *("Asin", "Acos", "Atan", "Asinh", "Acosh", "Atanh", "Erf"),
    *("Erfc", "Reciprocal", "Pow", "Square", "PreluKernel", "Sign", "Round"),
    *("Floor", "Ceil", "Trunc", "Relu6", "Frac"),
)
"""Functions of each element on its own: their derivative is what autograd's node returns for a cotangent of ones."""


def _relu(node: Any, images: Images) -> Steps:
    result = images.data(node._saved_result)
    return [Step("keep_positive", result, images.size(node))]


def _slope(node: Any, images: Images) -> Steps:
    shape = images.shape(node)
    size = torch.Size(shape).numel()
    ones = torch.ones((shape[0] * images.count, *shape[1:]), dtype=images.dtype, device="cpu")
    slopes = node(ones)
    slope = slopes[0] if isinstance(slopes, tuple) else slopes
    below = images.shape(*node.next_functions[0])
    if torch.Size(below).numel() != size:
        raise Unsupported(f"{type(node).__name__} with a broadcast input")
    # the kernel drops elements with a factor of zero, but zero times infinity is an error that must be seen
    if not slope.isfinite().all():
        raise Unsupported(f"{type(node).__name__} with an infinite slope")
    return [Step("multiply", images.data(slope), size)]


def _pool(node: Any, images: Images) -> Steps:
    rank = 3 if "3D" in type(node).__name__ else 2
    above, below = images.shape(node), images.shape(*node.next_functions[0])
    if "Adaptive" in type(node).__name__:
        is_merging = any(size % count for size, count in zip(below[-rank:], above[-rank:], strict=True))
    else:
        kernel = node._saved_kernel_size
        is_merging = _overlaps(kernel, node._saved_stride or kernel, node._saved_dilation)
    return _to_winners(images.data(node._saved_result1), above, below, rank, is_merging)


def _fast_pool(node: Any, images: Images) -> Steps:
    """Read the max pooling of attribution methods."""
    kernel, stride, _, dilation, _ = node.geometry
    winners = images.data(node.saved_tensors[1])
    above, below = images.shape(node), images.shape(*node.next_functions[0])
    return _to_winners(winners, above, below, 2, _overlaps(kernel, stride, dilation))


def _overlaps(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> bool:
    reach = [(side - 1) * gap + 1 for side, gap in zip(kernel, dilation, strict=True)]
    return any(step < span for step, span in zip(stride, reach, strict=True))


def _to_winners(winners: Tensor, above: tuple[int, ...], below: tuple[int, ...], rank: int, is_merging: bool) -> Steps:
    outer, inner = (torch.Size(shape[-rank:]).numel() for shape in (above, below))
    return [Step("pool", winners, torch.Size(above).numel(), outer, inner, is_merging)]


def _batch_norm(node: Any, images: Images) -> Steps:
    if node._saved_training or node._saved_running_var is None:
        raise Unsupported("NativeBatchNorm with batch statistics")
    scale = (node._saved_running_var + node._saved_eps).rsqrt()
    if node._saved_weight is not None:
        scale = scale * node._saved_weight
    shape = images.shape(node)
    return [Step("scale", images.data(scale.to(images.dtype)), 0, len(scale), torch.Size(shape[2:]).numel())]


def constant(factor: Tensor | float, shape: tuple[int, ...], images: Images) -> Steps:
    """Return the steps that multiply a value of this shape by a constant, broadcast like torch does."""
    if isinstance(factor, Tensor) and factor.is_complex():
        raise Unsupported("complex numbers")
    # autograd stores a Python number as a tensor that dispatch modes cannot handle; reading it is no operation for them
    if not isinstance(factor, Tensor) or factor.ndim == 0:
        number: Any = factor.tolist() if isinstance(factor, Tensor) else factor
        factor = torch.tensor(float(number), dtype=images.dtype, device="cpu")
    factor = images.data(factor.to(images.dtype))
    if factor.numel() == 1:
        return [Step("scale", factor.reshape(1), 0, 1, 1)]
    axes = torch.Size(factor.shape).numel(), [axis for axis, size in enumerate(factor.shape) if size > 1]
    if len(axes[1]) == 1 and factor.ndim - axes[1][0] < len(shape):  # one number per channel
        inner = torch.Size(shape[len(shape) - factor.ndim + axes[1][0] + 1 :]).numel()
        return [Step("scale", factor.reshape(-1), 0, factor.numel(), inner)]
    full = (shape[0] * images.count, *shape[1:])
    is_shared = factor.ndim < len(shape) or factor.shape[0] == 1
    spread = factor.expand((shape[0], *shape[1:]) if is_shared else full).contiguous()
    return [Step("multiply", spread, 0 if is_shared else torch.Size(shape).numel())]


def broadcast(below: tuple[int, ...], above: tuple[int, ...]) -> Steps:
    """Return the steps from a value of the shape `above` to the input of the shape `below` that was broadcast to it."""
    if below == above:
        return []
    size = torch.Size(below).numel()
    if size == torch.Size(above).numel():
        return []
    if (len(below) == len(above) and below[0] != above[0]) or len(below) < len(above):
        raise Unsupported("an input that is broadcast over images")
    index = torch.arange(size, device="cpu", dtype=torch.int64).view(below).expand(above)
    return [table_step(index, size)]


def _scaled(node: Any, images: Images, factor: Any, place: int) -> Steps:
    above, below = images.shape(node), images.shape(*node.next_functions[place])
    return [*constant(factor, above, images), *broadcast(below, above)]


def _mul(node: Any, images: Images) -> Steps:
    place = 0 if node.next_functions[0][0] is not None else 1
    return _scaled(node, images, node._saved_self if place else node._saved_other, place)


def _div(node: Any, images: Images) -> Steps:
    if node.next_functions[0][0] is None:
        raise Unsupported("DivBackward0 by a value of the input")
    divisor = node._saved_other
    if divisor.ndim == 0:  # a new tensor, because autograd's own of a Python number computes in float32
        divisor = torch.tensor(divisor.tolist(), dtype=torch.float64, device="cpu")
    return _scaled(node, images, divisor.reciprocal(), 0)


def _plus(node: Any, images: Images) -> Steps:
    place = 0 if node.next_functions[0][0] is not None else 1
    sign = -1 if "Sub" in type(node).__name__ else 1
    factor = sign * node._saved_alpha if place else 1
    above, below = images.shape(node), images.shape(*node.next_functions[place])
    return [*(constant(factor, above, images) if factor != 1 else []), *broadcast(below, above)]


def _signed(dimension: int) -> int:
    """Return an axis that autograd stores as an unsigned integer."""
    return dimension - 2**64 if dimension >= 2**63 else dimension


def _inner(node: Any, rank: int, *dimensions: int) -> list[int]:
    """Return axes, counted from the front. Raises `Unsupported` for the axis of the images."""
    axes = [_signed(dimension) % rank for dimension in dimensions]
    if 0 in axes:
        raise Unsupported(f"{type(node).__name__} along the axis of the images")
    return axes


def _moved(move: Callable[[Any, Tensor, int], Tensor]) -> Callable[..., Steps]:
    """Make a reader of a node that only moves elements; `move` does the same to their indices."""

    def read(node: Any, images: Images, number: int = 0) -> Steps:
        below = images.shape(*node.next_functions[0])
        size = torch.Size(below).numel()
        index = torch.arange(size, device="cpu", dtype=torch.int64).view(below)
        moved = move(node, index, number)
        if moved.numel() != images.size(node, number):
            raise Unsupported(type(node).__name__)
        return [table_step(moved, size)]

    return read


def _transposed(node: Any, index: Tensor, _: int) -> Tensor:
    return index.transpose(*_inner(node, index.ndim, node._saved_dim0, node._saved_dim1))


def _permuted(node: Any, index: Tensor, _: int) -> Tensor:
    axes = [_signed(axis) % index.ndim for axis in node._saved_dims]
    if axes[0] != 0:
        raise Unsupported("PermuteBackward0 of the axis of the images")
    return index.permute(axes)


def _sliced(node: Any, index: Tensor, _: int) -> Tensor:
    start, end = _signed(node._saved_start), _signed(node._saved_end)
    if _signed(node._saved_dim) % index.ndim == 0:
        # x[:, 1:] also slices the axis of the images, from end to end
        if start == 0 and end >= 2**62 and node._saved_step == 1:
            return index
        raise Unsupported("SliceBackward0 along the axis of the images")
    keys = [slice(None)] * (_signed(node._saved_dim) % index.ndim) + [slice(start, end, node._saved_step)]
    return index[tuple(keys)]


def _selected(node: Any, index: Tensor, _: int) -> Tensor:
    (axis,) = _inner(node, index.ndim, node._saved_dim)
    return index.select(axis, _signed(node._saved_index))


def _split(node: Any, index: Tensor, number: int) -> Tensor:
    (axis,) = _inner(node, index.ndim, node._saved_dim)
    sizes = getattr(node, "_saved_split_sizes", None) or node._saved_split_size
    return index.split(list(sizes) if isinstance(sizes, tuple | list) else sizes, axis)[number]


def _unbound(node: Any, index: Tensor, number: int) -> Tensor:
    (axis,) = _inner(node, index.ndim, node._saved_dim)
    return index.unbind(axis)[number]


def _flipped(node: Any, index: Tensor, _: int) -> Tensor:
    return index.flip(_inner(node, index.ndim, *node._saved_dims))


def _padded(node: Any, index: Tensor, _: int) -> Tensor:
    pad = [_signed(width) for width in node._saved_pad]
    if len(pad) >= 2 * index.ndim and any(pad[2 * index.ndim - 2 :]):
        raise Unsupported("ConstantPadNdBackward0 along the axis of the images")
    return F.pad(index, pad, value=-1)


def _shuffled(node: Any, index: Tensor, _: int) -> Tensor:
    return F.pixel_shuffle(index, node._saved_upscale_factor)


def _unshuffled(node: Any, index: Tensor, _: int) -> Tensor:
    return F.pixel_unshuffle(index, node._saved_downscale_factor)


MOVES = {
    "Transpose": _transposed,
    "Permute": _permuted,
    "Slice": _sliced,
    "Select": _selected,
    "Split": _split,
    "SplitWithSizes": _split,
    "Unbind": _unbound,
    "Flip": _flipped,
    "ConstantPadNd": _padded,
    "PixelShuffle": _shuffled,
    "PixelUnshuffle": _unshuffled,
}


def _expanded(node: Any, images: Images) -> Steps:
    below, above = images.shape(*node.next_functions[0]), images.shape(node)
    if len(below) != len(above):
        raise Unsupported("ExpandBackward0 with new axes")
    return broadcast(below, above)


STEPS: dict[str, Callable[..., Steps]] = {
    **dict.fromkeys(VIEWS, lambda *_: []),
    **dict.fromkeys(SLOPES, _slope),
    **{name: _moved(move) for name, move in MOVES.items()},
    "Relu": _relu,
    "MaxPool2DWithIndices": _pool,
    "MaxPool3DWithIndices": _pool,
    "FastMaxPool": _fast_pool,
    "AdaptiveMaxPool2D": _pool,
    "AdaptiveMaxPool3D": _pool,
    "NativeBatchNorm": _batch_norm,
    "Neg": lambda node, images: constant(-1, images.shape(node), images),
    "Rsub": lambda node, images: constant(-node._saved_alpha, images.shape(node), images),
    "Expand": _expanded,
}
"""Readers of nodes by the operation's name, without the "Backward0" that autograd appends. Readers of `MOVES` also take
the number of the result."""

PARTIAL = {"Mul": _mul, "Div": _div, "Add": _plus, "Sub": _plus}
"""Readers of operations of two values, for nodes where only one of them depends on the input."""
