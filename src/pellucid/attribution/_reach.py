"""Reach: the segments that each position of a hidden value depends on, followed through local operations.

A convolution, a pooling or an elementwise function computes each position from few positions of its input. For other
operations, such as a linear layer, no reach is known, and the local part of the network ends there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.engine.operations import OPERATIONS
from pellucid.engine.table import tensors_in

__all__ = ["colors_of", "neighbors_in", "reach_after", "reach_of_segments"]

Reaches = Callable[[Tensor], Tensor | None]
"""Returns the reach of a value; None for constants."""


def reach_of_segments(index: Tensor) -> Tensor:
    """Return the reach of the image itself, (segment, …): 1 where a channel belongs to the segment, otherwise 0.

    `index` is the segment of each value, (channel, …).

    >>> reach_of_segments(torch.tensor([[0, 0, 1]]))
    tensor([[1., 1., 0.],
            [0., 0., 1.]])
    """
    count = int(index.max()) + 1
    reach = torch.zeros(count, *index.shape[1:], dtype=torch.float32, device="cpu")
    return reach.scatter_(0, index.to("cpu"), 1.0)


def reach_after(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], known: Reaches) -> Any:
    """Return the reach of the result of a call, or None if the operation is not local.

    `known` returns the reach of each argument; at least one of them has a reach.
    """
    entry = OPERATIONS.find(function)
    if entry is None:
        return None
    windows = _WINDOWS.get(entry.name)
    if windows is not None:
        axes = int(entry.name[-2])  # conv2d
        return _through_windows(windows, axes, args, kwargs, known)
    if entry.traits.is_elementwise or (_is_constant_map(entry.name, args, kwargs) and "out" not in kwargs):
        return _through_elements(entry.name == "batch_norm", args, kwargs, known)
    return None


def _is_constant_map(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """True for a batch norm with running statistics, or a dropout that drops nothing."""
    if name == "batch_norm":
        return not kwargs.get("training", len(args) > 5 and args[5])
    is_training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else None))
    return name in _DROPOUTS and is_training is False


def _through_elements(is_norm: bool, args: Sequence[Any], kwargs: Mapping[str, Any], known: Reaches) -> Tensor | None:
    """Return the union of the reaches of all arguments, if none of them is broadcast over the places."""
    tensors = list(tensors_in((args, kwargs)))
    reaches = [(tensor, known(tensor)) for tensor in tensors]
    tracked = {id(reach): (tensor.shape, reach) for tensor, reach in reaches if reach is not None}
    (shape, union), *others = tracked.values()
    if is_norm:  # its constants have one value per channel, in one axis
        return union if len(tracked) == 1 and reaches[0][1] is not None else None
    if any(own != shape for own, _ in others) or any(
        tensor.shape != shape if reach is not None else not _is_constant(tensor.shape, shape)
        for tensor, reach in reaches
    ):
        return None
    for _, reach in others:
        union = torch.maximum(union, reach)
    return union


def _is_constant(own: torch.Size, wanted: torch.Size) -> bool:
    """True if a constant of this shape is the same for all images and enlarges no axis of a value of another shape."""
    if len(own) > len(wanted) or (len(own) == len(wanted) and own[0] != 1):
        return False
    pairs = zip(reversed(own), reversed(wanted), strict=False)
    return all(size in (1, whole) for size, whole in pairs)


def _through_windows(
    window_of: Callable[..., "_Window"], axes: int, args: Sequence[Any], kwargs: Mapping[str, Any], known: Reaches
) -> Tensor | None:
    try:
        window = window_of(*args, **kwargs)
    except (TypeError, ValueError, AttributeError):  # arguments in a form of their own
        return None
    image: Any = args[0] if args else kwargs.get("input")
    reach = known(image)
    others = [tensor for tensor in tensors_in((args[1:], kwargs)) if tensor is not image]
    if reach is None or reach.ndim - 1 != axes:
        return None  # with fewer axes, torch takes the images for channels
    if any(known(other) is not None for other in others):
        return None  # for example, weights that depend on the image
    return window(reach)


@dataclass(frozen=True)
class _Window:
    """The places below each output of a convolution or pooling, with the arguments of that function."""

    size: Any
    stride: Any
    padding: Any
    dilation: Any = 1
    is_ceiled: Any = False
    is_pool: bool = True

    def __call__(self, reach: Tensor) -> Tensor:
        """Return the union of the reaches below each output."""
        axes = reach.ndim - 1
        pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
        stride = self.size if self.stride in (None, (), []) else self.stride
        padding = self.padding
        if not self.is_pool:  # padded explicitly, because `max_pool` refuses padding of more than half a window
            reach, padding = F.pad(reach, self._sides(axes)), 0
        union: Tensor = pool(reach[None], self.size, stride, padding, self.dilation, bool(self.is_ceiled))[0]
        return union

    def _sides(self, axes: int) -> list[int]:
        """Return the padding before and after each axis, from the last axis to the first."""
        if self.padding == "same":
            pairs = zip(_each(self.size, axes), _each(self.dilation, axes), strict=True)
            wide = [(size - 1) * dilation for size, dilation in pairs]
            return [side for extent in reversed(wide) for side in (extent // 2, extent - extent // 2)]
        both = _each(0 if self.padding == "valid" else self.padding, axes)
        return [side for amount in reversed(both) for side in (amount, amount)]


def _each(value: Any, axes: int) -> list[int]:
    numbers = [int(value)] if isinstance(value, int) else [int(one) for one in value]
    return numbers * axes if len(numbers) == 1 else numbers


def _convolution(
    _x: Any, weight: Any, _bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, _groups: Any = 1
) -> _Window:
    return _Window(tuple(weight.shape[2:]), stride, padding, dilation, is_pool=False)


def _named(window_of: Callable[..., _Window]) -> Callable[..., _Window]:
    """Accept the names that torch gives to the unused arguments."""

    def window(*args: Any, **kwargs: Any) -> _Window:
        return window_of(*args, **{_UNUSED.get(name, name): value for name, value in kwargs.items()})

    return window


def _max_pool(
    _x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: Any = False,
    return_indices: Any = False,
) -> _Window:  # fmt: skip
    if return_indices:
        raise ValueError
    return _Window(kernel_size, stride, padding, dilation, ceil_mode)


def _average_pool(
    _x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: Any = False, _counts: Any = True,
    _divisor: Any = None,
) -> _Window:  # fmt: skip
    return _Window(kernel_size, stride, padding, 1, ceil_mode)


_UNUSED = {
    "input": "_x",
    "bias": "_bias",
    "groups": "_groups",
    "count_include_pad": "_counts",
    "divisor_override": "_divisor",
}
_WINDOWS = {
    f"{name}{axes}d": _named(window)
    for name, window in (("conv", _convolution), ("max_pool", _max_pool), ("avg_pool", _average_pool))
    for axes in (1, 2, 3)
}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d"}


def neighbors_in(reach: Tensor) -> Tensor:
    """Return which segments reach the same place, (segment, segment), as booleans."""
    flat = reach.flatten(1)
    return flat @ flat.T > 0


def colors_of(neighbors: Tensor) -> list[int]:
    """Color the segments greedily, so that neighbors have different colors.

    >>> colors_of(torch.tensor([[True, True, False], [True, True, True], [False, True, True]]))
    [0, 1, 0]
    """
    colors: list[int] = []
    earlier: list[list[int]] = [[] for _ in neighbors]
    for number, other in neighbors.tril(-1).nonzero().tolist():
        earlier[number].append(other)
    for number, others in enumerate(earlier):
        used = {colors[other] for other in others}
        colors.append(next(color for color in range(number + 1) if color not in used))
    return colors
