"""Readable reprs for results: large tensors by dtype and shape, everything else by value."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

__all__ = ["Shown"]

LARGEST_TENSOR = 12
"""Tensors with at most this many values are printed in full."""


class Shown:
    """Mixin for dataclasses: a multi-line repr that stays short for large tensors.

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
        """Return one line per field."""
        lines = [f"  {field.name} = {_format(getattr(self, field.name))}" for field in fields(self) if field.repr]  # type: ignore[arg-type]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _format(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() > LARGEST_TENSOR:
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" + _device_suffix(value)
    if isinstance(value, Tensor):
        return _format(value.tolist()) + _device_suffix(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_format, value)) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_format, value)) + ")"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_format(entry)}" for key, entry in value.items()) + "}"
    return repr(value)


def _device_suffix(value: Tensor) -> str:
    return "" if value.device.type == "cpu" else f" on {value.device}"
