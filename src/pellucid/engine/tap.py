"""Read a layer's input during a forward pass, such as the embedding that enters the last linear layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.core.errors import ModelError, ShapeError
from pellucid.core.isolation import isolated
from pellucid.core.types import Embedding, Images
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.wrapping import find_module, module_paths

__all__ = ["Tap", "find_embedding"]

UNNAMED = "last linear operation"
"""Placeholder for the layer's name if no module owns the weight."""


@dataclass(frozen=True, eq=False)
class Tap:
    """Reads the input of one layer of a model."""

    model: nn.Module
    layer: str
    """Path of the layer in the model, or "last linear operation" if no module owns its weight."""
    is_last_linear: bool = False
    """True to read the last linear operation, however it is called; `layer` is then only a label."""

    def read(self, images: Images) -> Embedding:
        """Return the layer's input for each image, flattened to (batch, feature), in float32.

        Images are cast to the model's dtype, and the model is left unchanged. A layer used several times is read at
        its last use. Raises `ShapeError` if the input does not have one row per image, and `ModelError` if the layer
        does not run.
        """
        with isolated():
            if self.is_last_linear or self.layer == UNNAMED:
                inputs = _last_linear(self.model, images)[0]
            else:
                inputs = _module_input(self.model, self.layer, images)
        if inputs.ndim < 2 or len(inputs) != len(images):
            raise ShapeError(
                f"the input of layer {self.layer!r} has shape {tuple(inputs.shape)} for {len(images)} images; "
                "name a layer whose input has one row per image with --embedding-layer."
            )
        return inputs.flatten(1).float()


def find_embedding(model: nn.Module, images: Images, layer: str | None = None) -> Tap:
    """Return a tap at the embedding: the input of the last linear layer in the forward pass, or of `layer`.

    The last linear layer is the one *used* last in a forward pass of `images`, whatever the order of registration.
    It may also be called as a function (`F.linear`, `x @ W.T`).

    The prefix `model.` of a wrapped model can be omitted.

    Raises `UnknownName` for a layer the model does not have (the message lists those it has), and `ModelError` if the
    forward pass uses no linear layer.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> tap = find_embedding(model, torch.zeros(1, 1, 2, 2))
    >>> tap.layer, tap.read(torch.zeros(5, 1, 2, 2)).shape
    ('3', torch.Size([5, 3]))
    """
    if layer is not None:
        find_module(model, layer)
        return Tap(model, layer)
    with isolated():
        _, weight = _last_linear(model, images)
    return Tap(model, _owner(model, weight) or UNNAMED, is_last_linear=True)


class _LinearWatch(TorchFunctionMode):
    """Function mode that remembers the input and weight of the last linear operation."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor] | None = None

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = OPERATIONS.traits(func).operand
        if first is not None:
            tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
            operands = tensors[first : first + 2]
            # a matrix of weights; products within attention have batch axes on both sides
            if len(operands) == 2 and operands[1].ndim == 2:
                inputs, weight = operands
                self.last = (inputs.detach().clone(), weight)  # cloned, since later operations may write in place
        return func(*args, **(kwargs or {}))


def _last_linear(model: nn.Module, images: Images) -> tuple[Tensor, Tensor]:
    with frozen(model), torch.no_grad(), _LinearWatch() as watch:
        model(_prepared(model, images))
    if watch.last is None:
        raise ModelError(
            "the model's forward pass uses no linear layer, so its embedding cannot be located; "
            "choose a layer with --embedding-layer."
        )
    return watch.last


def _prepared(model: nn.Module, images: Images) -> Tensor:
    """Copy the images in the model's dtype; a copy, because the model may write into its input."""
    return images.detach().to(dtype_of(model), copy=True)


def _owner(model: nn.Module, weight: Tensor) -> str | None:
    """Return the path of the linear layer that owns `weight`, or a tensor it is a view of."""
    for name, module in module_paths(model):
        own = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and isinstance(own, Tensor) and own.data_ptr() == weight.data_ptr():
            return name or None
    return None


def _module_input(model: nn.Module, layer: str, images: Images) -> Tensor:
    seen: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> None:
        tensors = [value for value in (*inputs, *named_inputs.values()) if isinstance(value, Tensor)]
        seen[:] = [value.detach().clone() for value in tensors[:1]]  # cloned, since the layer may work in place

    handle = find_module(model, layer).register_forward_pre_hook(remember, with_kwargs=True)
    try:
        with frozen(model), torch.no_grad():
            model(_prepared(model, images))
    finally:
        handle.remove()
    if not seen:
        raise ModelError(
            f"layer {layer!r} is not used in the model's forward pass; choose another with --embedding-layer."
        )
    return seen[0]
