"""One output's gradient after the other, of a plain call."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ModelError

__all__ = ["gradient_rows"]


def gradient_rows(call: Callable[[Tensor], Any], x: Tensor) -> Iterator[Tensor]:
    """One forward pass of `x`, then each output's gradient. To be drawn from where gradients are enabled."""
    leaf = x.detach().requires_grad_()
    flat = call(leaf.clone()).reshape(len(x), -1)  # a copy, since the model may work in place
    if not flat.requires_grad:
        raise ModelError("the outputs carry no gradient to the input; the model must not detach or use no_grad.")
    for index in range(flat.shape[1]):
        cotangent = torch.zeros_like(flat)
        cotangent[:, index] = 1
        (row,) = torch.autograd.grad(flat, leaf, cotangent, retain_graph=index + 1 < flat.shape[1])
        yield row
