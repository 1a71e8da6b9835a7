"""Gradients of a function's outputs, one at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pellucid.core.errors import ModelError
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.derivatives import check_graph, derivatives
from pellucid.jacobians._missing import WAY_OUT

__all__ = ["gradient_rows"]


def gradient_rows(call: Callable[[Tensor], Any], x: Tensor) -> Iterator[Tensor]:
    """Run `x` forward once, then yield each output's gradient. Iterate with gradients enabled."""
    leaf = x.detach().requires_grad_()
    with SoundNorms(call):
        flat = call(leaf.clone()).reshape(len(x), -1)  # a copy, because the model may modify its input in place
    if not flat.requires_grad:
        raise ModelError(
            "the outputs have no gradient with respect to the input; remove detach or no_grad from the model."
        )
    check_graph(flat, WAY_OUT)
    for index in range(flat.shape[1]):
        cotangent = torch.zeros_like(flat)
        cotangent[:, index] = 1
        # the last pass frees the graph
        is_kept = index + 1 < flat.shape[1]
        (row,) = derivatives(flat, [leaf], cotangent, way_out=WAY_OUT, retain_graph=is_kept)
        assert row is not None
        yield row
