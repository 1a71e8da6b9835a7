"""Every output by every input, by one backward pass per output."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.errors import ModelError, ShapeError, UnknownName
from pellucid.engine.chunks import images_per_chunk
from pellucid.engine.freezing import dtype_of, frozen
from pellucid.jacobian._double import DoubleModel

__all__ = ["METHODS", "gradient_rows", "jacobian"]

METHODS = ("auto", "finite_difference")
"""The ways to compute a Jacobian."""

STEP = 2.0**-20
"""The finite-difference step for inputs in [0, 1]: a power of two, so that adding it to a float32 pixel is exact in
float64; small, so that few ReLUs switch on the way; large enough for nine digits of a difference."""

Inputs = Float[Tensor, "batch ..."]


def jacobian(
    model: nn.Module,
    x: Inputs,
    outputs: Sequence[int] | None = None,
    *,
    chunk: int | None = None,
    method: str = "auto",
) -> Inputs:
    """The derivative of every output with respect to every input, image by image: (batch, *outputs, *inputs).

    With `outputs`, only those (indices into the flattened outputs, in that order): (batch, len(outputs), *inputs).
    `chunk` images share one forward pass, by default so many that no tensor passes 30 MB; then one backward pass per
    output. The model runs in eval mode and its own dtype and is handed back as it was; the images of a batch must not
    depend on each other. The result is like `x` in dtype and device.

    `method="finite_difference"` takes central differences in float64 instead, at two forward passes per input.

    Raises `UnknownName` for another method, `ShapeError` for an output the model does not have, and `ModelError`
    where the outputs carry no gradient to `x`.

    >>> model = nn.Linear(3, 2)
    >>> jacobian(model, torch.rand(5, 3)).shape
    torch.Size([5, 2, 3])
    >>> torch.equal(jacobian(model, torch.rand(1, 3))[0], model.weight)
    True
    """
    if method not in METHODS:
        raise UnknownName("Jacobian method", method, METHODS)
    if not len(x):
        raise ShapeError("x holds no image; pass at least one.")
    compute = _differences if method == "finite_difference" else _backwards
    return compute(model, x, outputs, chunk)


def _backwards(model: nn.Module, x: Tensor, outputs: Sequence[int] | None, chunk: int | None) -> Tensor:
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        inputs = x.detach().to(dtype_of(model), copy=True)
        parts = inputs.split(chunk or images_per_chunk(model, inputs))
        result, start = None, 0
        for part in parts:
            for position, (shape, row) in enumerate(gradient_rows(model, part, outputs)):
                if result is None:
                    result = x.new_empty((len(x), shape.numel(), *x.shape[1:]))
                result[start : start + len(part), position] = row
            start += len(part)
    assert result is not None
    return result.reshape(len(x), *shape, *x.shape[1:])


def gradient_rows(
    call: Callable[[Tensor], Any], x: Tensor, outputs: Sequence[int] | None = None
) -> Iterator[tuple[torch.Size, Tensor]]:
    """One forward pass of `x`, then for each output: the shape of all wanted outputs, and the output's gradient.

    To be drawn from where gradients are enabled.
    """
    leaf = x.detach().requires_grad_()
    result = call(leaf.clone())  # a copy, since the model may work in place
    if not isinstance(result, Tensor) or result.shape[:1] != x.shape[:1]:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ShapeError(f"the model returned {got} for {len(x)} images; it should return a tensor, a row per image.")
    flat = result.reshape(len(x), -1)
    wanted = list(range(flat.shape[1])) if outputs is None else [int(index) for index in outputs]
    if not wanted or not all(0 <= index < flat.shape[1] for index in wanted):
        raise ShapeError(f"outputs is {wanted}, and the model has outputs 0 to {flat.shape[1] - 1}.")
    if not flat.requires_grad:
        raise ModelError("the outputs carry no gradient to the input; the model must not detach or use no_grad.")
    shape = result.shape[1:] if outputs is None else torch.Size([len(wanted)])
    for position, index in enumerate(wanted):
        cotangent = torch.zeros_like(flat)
        cotangent[:, index] = 1
        (row,) = torch.autograd.grad(flat, leaf, cotangent, retain_graph=position + 1 < len(wanted))
        yield shape, row


def _differences(model: nn.Module, x: Tensor, outputs: Sequence[int] | None, chunk: int | None) -> Tensor:
    with frozen(model), torch.no_grad():
        double = DoubleModel(model)
        inputs = double.prepare(x)
        parts = inputs.split(chunk or images_per_chunk(double, inputs))
        slopes = torch.cat([_slopes(double, part) for part in parts])  # (batch, input, *outputs)
    moved = slopes.movedim(1, -1)
    if outputs is not None:
        moved = moved.flatten(1, -2)[:, list(outputs)]
    return moved.reshape(*moved.shape[:-1], *x.shape[1:]).to(x)


def _slopes(double: DoubleModel, inputs: Tensor) -> Tensor:
    """Central differences along each input in turn."""
    slopes = []
    for index in range(inputs[0].numel()):
        step = torch.zeros_like(inputs).flatten(1)
        step[:, index] = STEP
        step = step.view_as(inputs)
        slopes.append((double(inputs + step) - double(inputs - step)) / (2 * STEP))
    return torch.stack(slopes, 1)
