"""The naive way, kept for comparison: central differences in float64, two forward passes per input."""

import torch
from torch import Tensor, nn

from pellucid.core.errors import ModelError
from pellucid.engine.chunks import images_per_chunk
from pellucid.jacobian._double import DoubleModel
from pellucid.jacobian._problem import Problem, untouched

__all__ = ["STEP", "differences"]

STEP = 2.0**-20
"""The step for inputs in [0, 1]: a power of two, so that adding it to a float32 pixel is exact in float64; small, so
that few ReLUs switch on the way; large enough for nine digits of a difference."""


def differences(problem: Problem, chunk: int | None) -> tuple[Tensor, int]:
    r"""J (batch, *outputs, *inputs) in float64, by \((f(x+h) - f(x-h)) / 2h\), and the number of forward passes."""
    if len(problem.inputs) != 1 or not isinstance(problem.model, nn.Module) or problem.name is not None:
        raise ModelError("finite differences are taken of a module with one input and one output; use another method.")
    (x,) = problem.inputs
    with untouched(problem.model), torch.no_grad():
        double = DoubleModel(problem.model)
        inputs = double.prepare(x)
        parts = inputs.split(chunk or images_per_chunk(double, inputs))
        slopes = torch.cat([_slopes(double, part) for part in parts])  # (batch, input, *outputs)
    moved = slopes.movedim(1, -1)
    if problem.indices is not None:
        wanted = problem.wanted(moved.flatten(1, -2).shape[1])
        moved = moved.flatten(1, -2)[:, list(wanted)]
    return moved.reshape(*moved.shape[:-1], *x.shape[1:]), 2 * problem.input_count * len(parts)


def _slopes(double: DoubleModel, inputs: Tensor) -> Tensor:
    """Central differences along each input in turn."""
    slopes = []
    for index in range(inputs[0].numel()):
        step = torch.zeros_like(inputs).flatten(1)
        step[:, index] = STEP
        step = step.view_as(inputs)
        slopes.append((double(inputs + step) - double(inputs - step)) / (2 * STEP))
    return torch.stack(slopes, 1)
