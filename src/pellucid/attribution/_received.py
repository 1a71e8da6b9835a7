"""The inputs of a call: their kinds, checks and copies, and the unit of maps of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.attribution._several import Packing
from pellucid.attribution._tokens import WithMasks, is_tokens
from pellucid.core.errors import ShapeError
from pellucid.engine.arrays import EXPECTED, described

__all__ = ["Received", "check_images", "copied", "first_pass", "unit_of"]

Received = Tensor | Packing | WithMasks
"""The inputs of a call: a single one, several floats joined into rows, or token ids with masks."""


def copied(inputs: Received) -> Any:
    """Return a copy of the inputs in their structure, since the caller may change them in place later."""
    if isinstance(inputs, Tensor):
        return inputs.detach().clone()
    several = inputs.several
    return several.with_tensors([tensor.detach().clone() for tensor in several.tensors])


def first_pass(inputs: Received) -> Callable[[nn.Module], Any]:
    """Return a function that runs a model on the first example, or on all if they are packed."""
    if isinstance(inputs, Tensor):
        return lambda model: model(inputs[:1].detach().clone())
    return inputs.rerun


def unit_of(unit: str, inputs: Received) -> str:
    """Return the unit of the map with the unit of an input value filled in."""
    is_image = isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.ndim == 4
    is_embedding = isinstance(inputs, WithMasks) or (isinstance(inputs, Tensor) and is_tokens(inputs))
    return unit.replace("{input}", "pixel value" if is_image else "embedding" if is_embedding else "input value")


def check_images(x: Tensor) -> None:
    """Raise `ShapeError` unless `x` is a batch of floats of sufficient precision."""
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        bytes_hint = " Convert bytes with images.float() / 255." if x.dtype == torch.uint8 else ""
        raise ShapeError(f"the images are {described(x)}; {EXPECTED}.{bytes_hint}")
    if x.numel() == 0:
        raise ShapeError(f"the images are {tuple(x.shape)} and so contain no values; {EXPECTED}.")
    if x.dtype not in (torch.float32, torch.float64):
        raise ShapeError(
            f"the images are {x.dtype}, a precision at which maps are off by several percent and miss their sums; "
            "explain in float32: images.float(), and a float32 copy of the model."
        )
