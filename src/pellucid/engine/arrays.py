"""Tensors and arrays that users pass: conversion to tensors, and the refusal of those without plain values."""

from collections.abc import Callable
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core.errors import ShapeError
from pellucid.engine.model import device_of, dtype_of

__all__ = ["EXPECTED", "check_tensor", "converted", "described", "is_numbers", "shown", "unsuitable"]

EXPECTED = "expected a batch of floats in [0, 1], (batch, …), or of token ids as integers, (batch, token)"
"""Valid images, for messages."""


def check_tensor(tensor: Tensor, what: str = "the images") -> None:
    """Raise `ShapeError` for a tensor that cannot be differentiated or holds no plain values.

    >>> check_tensor(torch.zeros(2, 3))
    """
    problem, way_out = "", ""
    if tensor.is_nested:
        problem, way_out = "a nested tensor", "pad it: torch.nested.to_padded_tensor(x, 0.0)"
    elif tensor.is_meta:
        problem, way_out = "a tensor on the meta device, which has no values", "pass a tensor with values"
    elif tensor.is_quantized:
        problem, way_out = "a quantized tensor", "convert it: x.dequantize()"
    elif tensor.layout is not torch.strided:
        problem, way_out = f"a tensor of layout {tensor.layout}", "convert it: x.to_dense()"
    elif tensor.is_complex():
        problem, way_out = f"a complex tensor ({tensor.dtype})", "pass real and imaginary part as channels"
    if problem:
        raise ShapeError(f"{what}: got {problem}; expected a dense tensor of real numbers. To fix this, {way_out}.")


def described(tensor: Tensor) -> str:
    """Describe a tensor by shape and dtype, for messages.

    >>> described(torch.zeros(2, 3))
    '(2, 3) torch.float32'
    """
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def is_numbers(x: Any) -> bool:
    """True for nested lists or tuples of numbers. Only the first entry of each level is checked."""
    while isinstance(x, tuple | list) and len(x):
        x = x[0]
        if isinstance(x, Number | np.generic) and not isinstance(x, bool | complex):
            return True
    return False


def converted(x: Any, model: Callable[..., Any] | None, what: str) -> Tensor:
    """Convert an array or nested lists of numbers to a tensor on the model's device; floats to its dtype.

    For a function, which has no dtype, an array keeps its own, and lists become float32.
    """
    try:
        array = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{what}: the lists have different lengths ({error}); {EXPECTED}.") from error
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"{what}: got an array of {array.dtype}; {EXPECTED}.")
    dtype = None
    if array.dtype.kind == "f":
        is_wide = array.dtype.itemsize > 4 and isinstance(x, np.ndarray)
        own = torch.float64 if is_wide else torch.float32
        dtype = dtype_of(model) if isinstance(model, nn.Module) else own
        array = array.astype(np.float64)  # exact for all but extended precision, which torch lacks
    try:
        # torch knows neither negative strides nor another byte order
        plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
        tensor = torch.tensor(plain, dtype=dtype, device="cpu")
    except TypeError as error:  # integers wider than torch knows
        raise ShapeError(f"{what}: got an array of {array.dtype}; {EXPECTED}.") from error
    return tensor.to(device_of(model)) if isinstance(model, nn.Module) else tensor


def unsuitable(x: Any, what: str) -> ShapeError:
    """Return the error for a value that holds no numbers."""
    way_out = ""
    if type(x).__module__.startswith("PIL."):
        way_out = (
            " Convert the image as for the model's training, for example: "
            "torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None] / 255."
        )
    return ShapeError(f"{what}: got {shown(x)}; {EXPECTED}.{way_out}")


def shown(value: Any) -> str:
    """Return a value's type and repr, shortened to one line."""
    text = " ".join(repr(value).split())
    kind = type(value).__name__
    if value is None:
        return "None"
    return f"{kind} {text if len(text) <= 60 else text[:57] + '…'}"
