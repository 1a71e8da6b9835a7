"""Nodes of autograd's graph that combine elements: convolutions, linear layers, averages, sums and concatenations."""

from collections.abc import Callable
from typing import Any

import torch

from pellucid.jacobians._native.steps import broadcast, constant
from pellucid.jacobians._native.values import Arrival, Images, Layer, Layout, Operation, Step, Unsupported, Window

__all__ = ["OPERATIONS"]


def _convolution(node: Any, images: Images) -> Operation:
    above, below = images.shape(node), images.shape(*images.sources(node)[0])
    if above[0] != 1 or len(above) not in (3, 4):
        raise Unsupported(f"ConvolutionBackward0 of shape {above}")
    # not copied, even in another memory format, because its address identifies it
    weight, groups, is_transposed = images.strided(node._saved_weight), node._saved_groups, node._saved_transposed
    if weight.dtype != images.dtype:
        raise Unsupported(f"ConvolutionBackward0 with {weight.dtype} weights")
    taps = torch.Size(weight.shape[2:]).numel()
    # (group, output channel, input channel, tap)
    kernels = weight.reshape(groups, len(weight) // groups, weight.shape[1], taps)
    layer = Layer(
        kernels.transpose(1, 2) if is_transposed else kernels,
        _pair(below[2:], 1),
        _pair(above[2:], 1),
        _pair(weight.shape[2:], 1),
        _pair(node._saved_stride, 1),
        _pair(node._saved_padding, 0),
        _pair(node._saved_dilation, 1),
        is_transposed,
    )
    positions = torch.Size(above[2:]).numel()
    layout = Layout(above[1], positions, positions, 1)
    return Operation(layout, (Arrival(*images.sources(node)[0]),), layer, torch.Size(below[2:]).numel(), 1)


def _pair(values: Any, default: int) -> tuple[int, int]:
    """Return a number per axis of an image; a signal has one row."""
    values = tuple(values)
    if len(values) not in (1, 2):
        raise Unsupported("ConvolutionBackward0 of a volume")
    return (default, values[0]) if len(values) == 1 else (values[0], values[1])


def _linear(node: Any, images: Images) -> Operation:
    is_biased = "Addmm" in type(node).__name__
    bias, source, weight = images.sources(node) if is_biased else ((None, 0), *images.sources(node))
    if weight[0] is not None or bias[0] is not None:
        raise Unsupported(f"{type(node).__name__} of two values that depend on the input")
    matrix = node._saved_mat2  # (input, output)
    if is_biased and node._saved_alpha != 1:
        matrix = matrix * node._saved_alpha
    if matrix.dtype != images.dtype or matrix.layout != torch.strided or matrix.device.type != "cpu":
        raise Unsupported(f"{type(node).__name__} with {matrix.dtype} weights")
    rows, outputs = images.shape(node)
    (inputs, _), (down, right) = matrix.shape, matrix.stride()
    # transposed, with axes for the group and the tap, in a single operation
    weight = matrix.detach().as_strided((1, outputs, inputs, 1), (0, right, down, 0))
    layer = Layer(weight, (1, rows), (1, rows))
    return Operation(Layout(outputs, rows, 1, outputs), (Arrival(*source),), layer, 1, inputs)


def _window(pairs: list[list[tuple[int, float]]], images: Images) -> Window:
    starts = torch.tensor([0, *(len(pair) for pair in pairs)], dtype=torch.int32, device="cpu").cumsum(0)
    flat = [entry for pair in pairs for entry in pair]
    places = torch.tensor([place for place, _ in flat], dtype=torch.int32, device="cpu")
    weights = torch.tensor([weight for _, weight in flat], dtype=torch.float64, device="cpu")
    return Window(starts.to(torch.int32), places, weights.to(images.dtype))


def _planes(node: Any, images: Images, window: Window) -> Operation:
    """Return a sum over the positions of each channel of an image."""
    above, below = images.shape(node), images.shape(*images.sources(node)[0])
    outer, inner = (torch.Size(shape[-2:]).numel() for shape in (above, below))
    layout = Layout(torch.Size(above[:-2]).numel(), outer, outer, 1)
    return Operation(layout, (Arrival(*images.sources(node)[0]),), window, inner, 1)


def _average(node: Any, images: Images) -> Operation:
    above, below = images.shape(node), images.shape(*images.sources(node)[0])
    kernel = _pair(node._saved_kernel_size * (3 - len(node._saved_kernel_size)), 1)
    stride = node._saved_stride or kernel
    padding, is_counted = node._saved_padding, node._saved_count_include_pad
    spans = []
    for axis in range(2):
        size, row = below[len(below) - 2 + axis], []
        for place in range(above[len(above) - 2 + axis]):
            start = place * stride[axis] - padding[axis]
            end = min(start + kernel[axis], size + padding[axis])
            row.append((range(max(start, 0), min(end, size)), end - start))
        spans.append(row)
    pairs = []
    for rows, height in spans[0]:
        for columns, width in spans[1]:
            count = height * width if is_counted else len(rows) * len(columns)
            weight = 1 / (node._saved_divisor_override or count)
            pairs.append([(row * below[-1] + column, weight) for row in rows for column in columns])
    return _planes(node, images, _window(pairs, images))


def _adaptive_average(node: Any, images: Images) -> Operation:
    above, below = images.shape(node), images.shape(*images.sources(node)[0])
    spans = [
        # bounds of torch: floor of the start, ceiling of the end
        [range(place * size // count, -(-(place + 1) * size // count)) for place in range(count)]
        for size, count in zip(below[-2:], above[-2:], strict=True)
    ]
    pairs = [
        [(row * below[-1] + column, 1 / (len(rows) * len(columns))) for row in rows for column in columns]
        for rows in spans[0]
        for columns in spans[1]
    ]
    return _planes(node, images, _window(pairs, images))


def _reduction(node: Any, images: Images) -> Operation:
    """Return a sum or mean over neighboring axes."""
    below = images.shape(*images.sources(node)[0])
    rank, name = len(below), type(node).__name__
    axes = sorted({(axis - 2**64 if axis >= 2**63 else axis) % rank for axis in node._saved_dim or range(rank)})
    if axes[0] == 0 or axes != list(range(axes[0], axes[-1] + 1)):
        raise Unsupported(f"{name} over axes {axes}")
    before, middle, after = below[: axes[0]], below[axes[0] : axes[-1] + 1], below[axes[-1] + 1 :]
    outer, size, inner = (torch.Size(part).numel() for part in (before, middle, after))
    weight = 1 / size if "Mean" in name else 1.0
    if outer != 1 and inner != 1:
        raise Unsupported(f"{name} over axes {axes}")
    window = _window([[(place, weight) for place in range(size)]], images)
    # the reduced axes are the positions; the others are channels
    channel_step, position_step = (size, 1) if inner == 1 else (1, inner)
    return Operation(Layout(outer * inner), (Arrival(*images.sources(node)[0]),), window, channel_step, position_step)


def _junction(node: Any, images: Images, arrivals: list[Arrival]) -> Operation:
    return Operation(Layout(images.size(node)), tuple(arrivals))


def _arrival(node: Any, images: Images, place: int, steps: list[Step]) -> Arrival:
    source = images.sources(node)[place]
    way = (*steps, *broadcast(images.shape(*source), images.shape(node)))
    return Arrival(source[0], source[1], way)


def _sum(node: Any, images: Images) -> Operation:
    sign = -1 if "Sub" in type(node).__name__ else 1
    factor = sign * node._saved_alpha
    steps = constant(factor, images.shape(node), images) if factor != 1 else []
    return _junction(node, images, [_arrival(node, images, 0, []), _arrival(node, images, 1, steps)])


def _product(node: Any, images: Images) -> Operation:
    shape, others = images.shape(node), (node._saved_other, node._saved_self)
    return _junction(
        node, images, [_arrival(node, images, place, constant(others[place], shape, images)) for place in (0, 1)]
    )


def _quotient(node: Any, images: Images) -> Operation:
    shape, above, below = images.shape(node), node._saved_self, node._saved_other
    slopes = below.to(images.dtype).reciprocal(), -above / below.square()
    return _junction(
        node, images, [_arrival(node, images, place, constant(slopes[place], shape, images)) for place in (0, 1)]
    )


def _concatenation(node: Any, images: Images) -> Operation:
    above = images.shape(node)
    axis = (node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim) % len(above)
    if axis == 0:
        raise Unsupported(f"{type(node).__name__} along the axis of the images")
    is_stack = "Stack" in type(node).__name__
    index = torch.full(above, -1, dtype=torch.int32, device="cpu")
    arrivals, start = [], 0
    sizes = _widths(node, images, axis, is_stack=is_stack)
    for place, (source, width) in enumerate(zip(images.sources(node), sizes, strict=True)):
        if source[0] is not None:
            entry, size = index.clone(), images.size(*images.sources(node)[place])
            piece = entry.narrow(axis, start, width)
            piece.copy_(torch.arange(size, dtype=torch.int32, device="cpu").view(piece.shape))
            arrivals.append(Arrival(source[0], source[1], entry=entry.reshape(-1)))
        start += width
    return _junction(node, images, arrivals)


def _widths(node: Any, images: Images, axis: int, *, is_stack: bool) -> list[int]:
    """Return the widths of concatenated values. At most one of them may be unknown, because it is a constant."""
    if is_stack:
        return [1] * len(images.sources(node))
    shapes = [None if source[0] is None else images.shape(*source) for source in images.sources(node)]
    known = [shape[axis] for shape in shapes if shape is not None]
    if len(known) < len(shapes) - 1:
        raise Unsupported("CatBackward0 of several constants")
    rest = images.shape(node)[axis] - sum(known)
    return [rest if shape is None else shape[axis] for shape in shapes]


OPERATIONS: dict[str, Callable[[Any, Images], Operation]] = {
    "Convolution": _convolution,
    "Addmm": _linear,
    "Mm": _linear,
    "AvgPool2D": _average,
    "AdaptiveAvgPool2D": _adaptive_average,
    "Mean": _reduction,
    "Sum": _reduction,
    "Add": _sum,
    "Sub": _sum,
    "Mul": _product,
    "Div": _quotient,
    "Cat": _concatenation,
    "Stack": _concatenation,
}
"""Readers of nodes by the operation's name, without the "Backward0" that autograd appends."""
