"""Infer the channel axis of a tensor from the torch function that produced it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pellucid.engine.table import OPERATIONS

__all__ = ["channel_axis", "is_passive"]

_CHANNELS_FIRST = (
    *("conv", "batch_norm", "group_norm", "instance_norm"),
    *("max_pool", "avg_pool", "adaptive_", "interpolate"),
)
"""Name prefixes of functions that work on (batch, channel, …)."""
_KEEP_AXES = {"__getitem__", "cat", "concat", "concatenate", "pad", "roll", "mean", "sum", "amax"}
"""Functions that keep the order of the axes although the shape may change."""


def is_passive(func: Callable[..., Any]) -> bool:
    """True if a function only moves or pools values, so its output is not a new feature map."""
    entry = OPERATIONS.find(func)
    if entry is None:
        return False
    table = entry.handler.__module__.rpartition(".")[2]
    return table in ("moves", "pooling", "queries") or entry.name in ("sum", "mean")


def channel_axis(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], sources: Sequence[tuple[Tensor, int | None]], out: Tensor
) -> int | None:
    """Return the channel axis of `out`, the result of the function `name` on `sources` (tensors and their axes).

    None if unknown.

    >>> import torch
    >>> x = torch.zeros(2, 5, 7, 3)
    >>> channel_axis("permute", (x, 0, 3, 1, 2), {}, [(x, 3)], x.permute(0, 3, 1, 2))
    1
    """
    # In-place variants (add_) behave like their functions; dunder names (__getitem__) stay as they are.
    name = name.strip("_") if not name.startswith("__") else name
    source, axis = sources[0]
    if name.startswith(_CHANNELS_FIRST):
        return 1
    if name == "linear" or (name == "layer_norm" and len(_argument(args, kwargs, 1, "normalized_shape")) == 1):
        return out.ndim - 1
    if name in ("matmul", "__matmul__") and args[0] is source and args[1].ndim == 2:
        return out.ndim - 1
    if name in ("permute", "transpose", "swapaxes", "swapdims"):
        order = _order(name, args, kwargs, source.ndim)
        return order.index(axis) if axis in order and order[0] == 0 else None  # the batch must stay first
    for tensor, own in sources:
        if own is not None and (tensor.shape == out.shape or (name in _KEEP_AXES and tensor.ndim == out.ndim)):
            return own
    return None


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs[name]


def _order(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], rank: int) -> list[int]:
    """Input axis of each output axis."""
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
