"""The axis of a recorded value that holds the images of the batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["BatchMixed", "broadcast_axis", "numbered", "probed_axis", "summed_axis"]


class BatchMixed(Exception):
    """Raised when an operation mixes the images of the batch, so that no axis of the result separates them."""


def broadcast_axis(batch: int, value: Tensor, inputs: Sequence[tuple[Tensor, int]]) -> int:
    """Return the batch axis of a value that broadcasts its inputs, given with their axes."""
    # with a single image, sums per image run over everything, so the axis is irrelevant
    if batch == 1:
        return 0
    # broadcasting aligns the last axes, so the batch axis shifts with the rank
    axes = {axis + value.ndim - tensor.ndim for tensor, axis in inputs}
    if len(axes) != 1:
        raise BatchMixed
    axis = axes.pop()
    if not 0 <= axis < value.ndim or value.shape[axis] % batch:
        raise BatchMixed
    return axis


def numbered(like: Tensor, axis: int, batch: int) -> Tensor:
    """Return a tensor shaped like `like` that holds the 1-based index of the image at each position."""
    size = like.shape[axis]
    # counted from 1, because padding inserts 0
    numbers = torch.arange(1, batch + 1, dtype=like.dtype, device=like.device).repeat_interleave(size // batch)
    return numbers.view(-1, *(1 for _ in like.shape[axis + 1 :])).expand(like.shape).contiguous()


def probed_axis(batch: int, move: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, int]]) -> int:
    """Find the batch axis of values moved from the inputs, given with their axes, by moving image indices instead."""
    if batch == 1:
        return 0
    marked = [numbered(tensor, axis, batch) for tensor, axis in inputs]
    moved = move(*marked)
    # constants are the values that stay the same when all indices change
    return _axis_of(batch, moved, moved == move(*(numbers + batch for numbers in marked)))


def summed_axis(batch: int, spread: Callable[[Tensor], Tensor], source: tuple[Tensor, int]) -> int:
    """Find the batch axis of weighted sums of the source, given with its axis, by summing image indices instead."""
    if batch == 1:
        return 0
    marked = numbered(*source, batch)
    counts = spread(torch.ones_like(marked))
    means, squares = (spread(values) / counts for values in (marked, marked.square()))
    is_empty = counts == 0
    if not torch.allclose(squares[~is_empty], means[~is_empty].square()):
        raise BatchMixed  # the indices in a sum vary
    return _axis_of(batch, means.round(), is_empty)


def _axis_of(batch: int, moved: Tensor, is_constant: Tensor) -> int:
    for axis, size in enumerate(moved.shape):
        if size % batch == 0 and bool(((moved == numbered(moved, axis, batch)) | is_constant).all()):
            return axis
    raise BatchMixed
