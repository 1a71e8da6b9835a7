"""On which axis a tensor has its channels: what a function of torch tells of its output."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pellucid.engine.table import OPERATIONS

__all__ = ["channel_axis", "is_passive"]

_FIRST = ("conv", "batch_norm", "group_norm", "instance_norm", "max_pool", "avg_pool", "adaptive_", "interpolate")
"""How the names of functions begin that work on (batch, channel, …)."""
_KEEPING = {"__getitem__", "cat", "concat", "concatenate", "pad", "roll", "mean", "sum", "amax"}
"""What keeps the order of the axes, though the shape changes."""


def is_passive(func: Callable[..., Any]) -> bool:
    """Whether a function only moves values or pools neighbours, and computes no map of its own."""
    entry = OPERATIONS.find(func)
    if entry is None:
        return False
    table = entry.handler.__module__.rpartition(".")[2]
    return table in ("moves", "pooling", "queries") or entry.name in ("sum", "mean")


def channel_axis(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], sources: Sequence[tuple[Tensor, int | None]], out: Tensor
) -> int | None:
    """The axis of the channels in `out`, which the function `name` made of `sources` (tensors and their axes).

    None where it cannot be told.

    >>> import torch
    >>> x = torch.zeros(2, 5, 7, 3)
    >>> channel_axis("permute", (x, 0, 3, 1, 2), {}, [(x, 3)], x.permute(0, 3, 1, 2))
    1
    """
    name = name.strip("_") if not name.startswith("__") else name
    source, axis = sources[0]
    if name.startswith(_FIRST):
        return 1
    if name == "linear" or (name == "layer_norm" and len(_argument(args, kwargs, 1, "normalized_shape")) == 1):
        return out.ndim - 1
    if name in ("matmul", "__matmul__") and args[0] is source and args[1].ndim == 2:
        return out.ndim - 1
    if name in ("permute", "transpose", "swapaxes", "swapdims"):
        order = _order(name, args, kwargs, source.ndim)
        return order.index(axis) if axis in order and order[0] == 0 else None
    for tensor, own in sources:
        if own is not None and (tensor.shape == out.shape or (name in _KEEPING and tensor.ndim == out.ndim)):
            return own
    return None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs[name]


def _order(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], rank: int) -> list[int]:
    """Which axis of the input each axis of the output is."""
    numbers = [*args[1:], *(value for key, value in kwargs.items() if key not in ("input", "self"))]
    if len(numbers) == 1 and not isinstance(numbers[0], int):
        numbers = list(numbers[0])
    numbers = [number % rank for number in numbers]
    if name == "permute":
        return numbers
    order = list(range(rank))
    first, second = numbers
    order[first], order[second] = order[second], order[first]
    return order
