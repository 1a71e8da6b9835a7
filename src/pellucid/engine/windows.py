"""Max-pooling by comparing shifted slices: the same values and winners as torch's own, many times faster on a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

__all__ = ["Windows", "windows_of"]

Pair = tuple[int, int]
Sizes = int | Sequence[int]


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling over the last two axes lie."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def slices(self, x: Tensor, fill: float = -torch.inf) -> list[Tensor]:
        """X at each place of the window, row by row: views, each in the shape of the output."""
        (above, left), padded = self.padding, x
        if above or left:
            padded = F.pad(x, (left, left, above, above), value=fill)
        counts = self._counts(padded)
        return [padded[..., rows, columns] for rows, columns in self._places(counts)]

    def _counts(self, padded: Tensor) -> Pair:
        height, width = (
            (size - step * (kernel - 1) - 1) // stride + 1
            for size, kernel, step, stride in zip(
                padded.shape[-2:], self.kernel, self.dilation, self.stride, strict=True
            )
        )
        return height, width

    def _places(self, counts: Pair) -> list[tuple[slice, slice]]:
        def along(axis: int, place: int) -> slice:
            start = place * self.dilation[axis]
            return slice(start, start + self.stride[axis] * (counts[axis] - 1) + 1, self.stride[axis])

        return [(along(0, row), along(1, column)) for row in range(self.kernel[0]) for column in range(self.kernel[1])]

    def largest(self, x: Tensor) -> Tensor:
        """The largest value of each window."""
        parts = self.slices(x)
        value = torch.maximum(parts[0], parts[1]) if len(parts) > 1 else parts[0].clone()
        for part in parts[2:]:
            torch.maximum(value, part, out=value)
        return value

    def winners(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """For each place of the window, where it holds the largest value, the first one among equals."""
        masks, is_open = [], torch.ones_like(y, dtype=torch.bool)
        for part in self.slices(x):
            masks.append((part == y).logical_and_(is_open))
            is_open.logical_xor_(masks[-1])
        return masks

    def spread(self, shares: Sequence[Tensor], like: Tensor) -> Tensor:
        """What each place of the window gets, summed up in the shape of `like`."""
        (above, left), (height, width) = self.padding, like.shape[-2:]
        shape = (*shares[0].shape[:-2], height + 2 * above, width + 2 * left)
        total = torch.zeros(shape, dtype=shares[0].dtype, device=shares[0].device)
        for share, (rows, columns) in zip(shares, self._places(self._counts(total)), strict=True):
            total[..., rows, columns] += share
        return total[..., above : above + height, left : left + width]

    def pull(self, x: Tensor, y: Tensor, cotangent: Tensor) -> Tensor:
        """Each output's cotangent, given to its winner."""
        return self.spread([cotangent * mask for mask in self.winners(x, y)], x)


def windows_of(
    x: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Windows | None:
    """The windows of `F.max_pool2d(x, …)`, where they can be compared by slices: batches of images on a CPU."""
    if x.ndim != 4 or ceil_mode or return_indices or x.device.type != "cpu" or not x.is_floating_point():
        return None
    kernel = _pair(kernel_size)
    return Windows(kernel, kernel if stride is None or stride == [] else _pair(stride), _pair(padding), _pair(dilation))


def _pair(size: Sizes) -> Pair:
    if isinstance(size, int):
        return size, size
    return (size[0], size[-1])


class FastMaxPool(torch.autograd.Function):
    """Max-pooling by slices, for autograd."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, windows: Windows) -> Tensor:
        y = windows.largest(x)
        ctx.save_for_backward(x, y)
        ctx.windows = windows  # type: ignore[attr-defined]
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return ctx.windows.pull(x, y, cotangents[0]), None


def fast_max_pool(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What `func(*args, **kwargs)` gives, where it is a max-pooling that slices can do; otherwise None."""
    if func not in _MAX_POOLS:
        return None
    x = args[0] if args else kwargs["input"]
    windows = windows_of(x, *args[1:], **{name: value for name, value in kwargs.items() if name != "input"})
    return None if windows is None else FastMaxPool.apply(x, windows)


_MAX_POOLS = {F.max_pool2d, torch.max_pool2d}
