"""Outputs of a model's layers in one forward pass."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.core.isolation import isolated
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.wrapping import module_paths

__all__ = ["layer_outputs"]


def layer_outputs(model: nn.Module, images: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Return the outputs of the layers with weights as (batch, feature) in float32, in the order of execution.

    A layer with weights is a module with a parameter of two or more axes, such as a convolution or a linear layer; its
    output is that before the activation. `names` limits the result to these layers. A layer used several times is read
    at its last use. Outputs without one row per image are omitted. The model is left unchanged.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> {name: tuple(output.shape) for name, output in layer_outputs(model, torch.zeros(5, 1, 4, 4)).items()}
    {'0': (5, 8), '3': (5, 3)}
    """
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = next((one for one in _flat(output) if isinstance(one, Tensor)), None)
            outputs.pop(name, None)  # the order is that of the last uses
            if tensor is not None and tensor.ndim >= 2 and len(tensor) == len(images) and tensor.is_floating_point():
                # a copy, since the next layer may work in place
                outputs[name] = tensor.detach().flatten(1).to(torch.float32, copy=True)

        return hook

    layers = {name: module for name, module in module_paths(model) if _has_weights(module)}
    chosen = {name: module for name, module in layers.items() if names is None or name in names}
    handles = [module.register_forward_hook(remember(name)) for name, module in chosen.items()]
    try:
        with isolated(), frozen(model), torch.no_grad():
            model(images.detach().to(dtype_of(model), copy=True))
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _flat(output: Any) -> list[Any]:
    """Return the values of an output, which can be a tuple or a dict."""
    if isinstance(output, dict):
        return list(output.values())
    return list(output) if isinstance(output, tuple | list) else [output]


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters(recurse=False))
