"""How a result shows itself: tensors by their shape, everything else as it is."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

__all__ = ["Shown"]

LARGEST_TENSOR = 12
"""Tensors of at most so many values are shown as values."""


class Shown:
    """A dataclass that prints on a few lines, whatever its tensors hold.

    >>> import torch
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, repr=False)
    ... class Result(Shown):
    ...     maps: Tensor
    ...     method: str
    >>> Result(torch.zeros(5, 3, 28, 28), "gradient")
    Result(
      maps = float32 (5, 3, 28, 28)
      method = 'gradient'
    )
    """

    def __repr__(self) -> str:
        """A line for each field."""
        lines = [f"  {field.name} = {_told(getattr(self, field.name))}" for field in fields(self) if field.repr]  # type: ignore[arg-type]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _told(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() > LARGEST_TENSOR:
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" + _where(value)
    if isinstance(value, Tensor):
        return _told(value.tolist()) + _where(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_told, value)) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_told, value)) + ")"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_told(entry)}" for key, entry in value.items()) + "}"
    return repr(value)


def _where(value: Tensor) -> str:
    return "" if value.device.type == "cpu" else f" on {value.device}"
