"""Cascading randomization: copies of a network with more and more layers reinitialized."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from pellucid.core.errors import ModelError
from pellucid.core.isolation import preserved_random_state
from pellucid.core.seeding import seed_everything
from pellucid.engine.wrapping import fixed

__all__ = ["cascade", "layers_of", "randomise"]


def layers_of(model: nn.Module) -> list[list[nn.Module]]:
    """Return the layers in order of definition, each with the normalization layers after it.

    A layer is a module that itself owns a parameter with at least two axes.

    >>> len(layers_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))))
    2
    """
    layers: list[list[nn.Module]] = []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        # a norm at the very start has no layer before it, so it starts the first one
        if any(parameter.ndim > 1 for parameter in own) or (own and not layers):
            layers.append([module])
        # even a batch norm without weights has running statistics
        elif layers and (own or any(True for _ in module.buffers(recurse=False))):
            # norm layers (vectors and buffers only) are randomized with the layer before them
            layers[-1].append(module)
    return layers


def cascade(model: nn.Module, seed_of: Callable[[int], int], stages: int) -> list[nn.Module]:
    """Return copies of the model with the last layer reinitialized, then the last two, …, and finally all.

    `seed_of` gives the seed of layer 0 (the last), 1, …. At most `stages` copies are returned, evenly spread and
    including the one with all layers reinitialized. Raises `ModelError` for a model without layers.
    """
    working = copy.deepcopy(model)
    layers = layers_of(working)
    if not layers:
        raise ModelError("the model has no layer with weights to reinitialize.")
    count = min(stages, len(layers))
    kept = {round((stage + 1) * len(layers) / count) for stage in range(count)}
    copies = []
    for number, layer in enumerate(reversed(layers)):
        randomise(layer, seed_of(number))
        if number + 1 in kept:
            copies.append(fixed(copy.deepcopy(working)))
    return copies


def randomise(modules: list[nn.Module], seed: int) -> None:
    """Reinitialize the modules by their reset method, or else from a normal distribution fitted to each parameter."""
    with preserved_random_state(), torch.no_grad():
        seed_everything(seed)  # on every device, since layers draw where their weights are
        for module in modules:
            # nn.MultiheadAttention and nn.Transformer use the name with an underscore
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                mean, deviation = float(parameter.mean()), float(parameter.std(correction=0))
                noise = torch.randn(parameter.shape, dtype=torch.float32, device="cpu").to(parameter)
                parameter.copy_(noise * deviation + mean)
