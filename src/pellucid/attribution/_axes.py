"""Infer the channel axis of a tensor from the torch function that produced it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pellucid.engine.operations import OPERATIONS
from pellucid.engine.operations.moves import order_of_axes

__all__ = ["channel_axis", "is_passive"]


def is_passive(func: Callable[..., Any]) -> bool:
    """True if a function only moves or pools values, so its output is not a new feature map."""
    return OPERATIONS.traits(func).family in ("move", "pool", "query", "reduction")


def channel_axis(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sources: Sequence[tuple[Tensor, int | None]],
    out: Tensor,
) -> int | None:
    """Return the channel axis of `out`, the result of `func` on `sources` (tensors and their axes).

    None if unknown.

    >>> import torch
    >>> x = torch.zeros(2, 5, 7, 3)
    >>> channel_axis(torch.permute, (x, (0, 3, 1, 2)), {}, [(x, 3)], x.permute(0, 3, 1, 2))
    1
    """
    channels = OPERATIONS.traits(func).channels
    source, axis = sources[0]
    if channels == "first":
        return 1
    if channels == "last" and _is_along_last_axis([*args, *kwargs.values()], source):
        return out.ndim - 1
    if channels == "permuted":
        order = order_of_axes(lambda x: func(x, *args[1:], **_without_input(kwargs)), source.ndim)
        return order.index(axis) if axis in order and order[0] == 0 else None  # the batch must stay first
    for tensor, own in sources:
        # A result of the same shape, as that of an elementwise function, keeps the channel axis of its source.
        if own is not None and (tensor.shape == out.shape or (channels == "kept" and tensor.ndim == out.ndim)):
            return own
    return None


def _is_along_last_axis(values: Sequence[Any], source: Tensor) -> bool:
    """True if `source` is multiplied by a matrix, or normalized along its last axis only."""
    second = values[1]
    return values[0] is source and (second.ndim == 2 if isinstance(second, Tensor) else len(second) == 1)


def _without_input(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("input", "self")}
