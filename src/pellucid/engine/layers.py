"""The layers of a model in the order of a forward pass, and the filters of the first one."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.core.isolation import isolated
from pellucid.core.types import Images
from pellucid.engine.model import dtype_of, frozen
from pellucid.engine.operations import OPERATIONS
from pellucid.engine.wrapping import module_paths

__all__ = ["Layer", "first_filters", "layers"]

LONGEST_DETAIL = 120
"""Maximum length of a layer's settings, in characters."""


@dataclass(frozen=True)
class Layer:
    """A layer of a model."""

    name: str
    """Path in the model; empty for the model itself."""
    kind: str
    """Name of its class."""
    detail: str
    """Its settings, as in the representation of the module."""
    shape: tuple[int, ...] | None
    """Shape of its output for one image; None if it is not called, or returns no tensor."""
    parameters: int
    """Number of its parameters that belong to no other layer in the list."""
    calls: int
    """Number of calls in a forward pass."""


def layers(model: nn.Module, images: Images) -> list[Layer]:
    """Return the layers of a model in the order of their first call, those that are not called last.

    A module is a layer if it contains no other module, or if it uses parameters that none of the modules inside it
    uses. The model is run once and left unchanged. The parameters of all layers add up to those of the model.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    >>> [(layer.kind, layer.shape, layer.parameters) for layer in layers(model, torch.zeros(1, 1, 2, 2))]
    [('Flatten', (4,), 0), ('Linear', (3,), 15), ('ReLU', (3,), 0)]
    """
    # a module that is registered under several paths keeps the first
    paths = list({module: name for name, module in reversed(list(module_paths(model)))}.items())[::-1]
    shapes = _called(model, [module for module, _ in paths], images)
    # in the order of the first calls; modules without a call last
    order = {id(module): number for number, module in enumerate(shapes)}
    owned = _owners(paths, shapes)
    return [
        Layer(
            name,
            type(module).__name__,
            module.extra_repr()[:LONGEST_DETAIL],
            shapes[module][0] if module in shapes else None,
            owned.get(id(module), 0),
            shapes[module][1] if module in shapes else 0,
        )
        for module, name in sorted(paths, key=lambda pair: order.get(id(pair[0]), len(order)))
        if owned.get(id(module)) or (module in shapes and not list(module.children()))
    ]


Calls = dict[nn.Module, tuple[tuple[int, ...] | None, int]]
"""Shape of the output for one image and number of calls, by module in the order of the first calls."""


def _called(model: nn.Module, modules: list[nn.Module], images: Images) -> Calls:
    calls: Calls = {}

    def enter(module: nn.Module, _: Any) -> None:
        # on entry, so that a layer that contains others comes before them
        calls.setdefault(module, (None, 0))

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        # attention returns its output with the weights
        first = output[0] if isinstance(output, tuple | list) and output else output
        shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else None
        calls[module] = (shape, calls[module][1] + 1)

    with isolated(), ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        with frozen(model), torch.no_grad():
            model(images[:1].detach().to(dtype_of(model), copy=True))
    return calls


def _owners(paths: list[tuple[nn.Module, str]], calls: Calls) -> dict[int, int]:
    """Return the number of parameters of each layer, by the id of its module; a shared parameter counts once.

    Parameters of a module that is not called, such as the projection inside torch's attention, belong to the innermost
    module around it that is.
    """
    owned: dict[int, int] = {}
    seen: set[int] = set()
    named = {name: module for module, name in paths}
    for module, name in paths:
        owner = module if module in calls else _user(name, named, calls) or module
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                owned[id(owner)] = owned.get(id(owner), 0) + parameter.numel()
    return owned


def _user(name: str, named: dict[str, nn.Module], calls: Calls) -> nn.Module | None:
    """Return the innermost called module around a path, if it calls no module inside it: it uses their parameters."""
    while name:
        name = name.rpartition(".")[0]
        module = named.get(name)
        if module is not None and module in calls:
            return module if _runs(module, calls) else None
    return None


def _runs(module: nn.Module, calls: Calls) -> bool:
    """Return True if a module runs without calling any module inside it."""
    return not any(child in calls for child in module.modules() if child is not module)


class _FirstWeight(TorchFunctionMode):
    """Function mode that remembers the weight of the first linear operation or convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: Tensor | None = None
        self.input: Tensor | None = None

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.weight is None:
            operand = OPERATIONS.traits(func).operand
            # a convolution has no trait for its operand; its weight comes after its input
            first = 0 if func is torch.conv2d else operand
            tensors = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)]
            if first is not None and len(tensors) > first + 1:
                self.input, self.weight = (one.detach().clone() for one in tensors[first : first + 2])
        return func(*args, **(kwargs or {}))


def first_filters(model: nn.Module, images: Images) -> Tensor | None:
    """Return the filters (filter, channel, height, width) of the first layer, if they can be seen as images.

    These are the kernels of a convolution over one or three channels, or the rows of a linear layer over all pixels;
    None for other models. The model is run once and left unchanged.

    >>> first_filters(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.zeros(1, 1, 2, 2)).shape
    torch.Size([3, 1, 2, 2])
    """
    with isolated(), frozen(model), torch.no_grad(), _FirstWeight() as watch:
        model(images[:1].detach().to(dtype_of(model), copy=True))
    weight = watch.weight
    if weight is None or watch.input is None or images.ndim != 4:
        return None
    if weight.ndim == 2 and weight.shape[1] == images[0].numel():
        if not _is_image(watch.input, images[0]):
            return None
        return weight.reshape(-1, *images.shape[1:]).float() if images.shape[1] in (1, 3) else None
    if weight.ndim == 4 and weight.shape[1] in (1, 3) and weight.shape[2] * weight.shape[3] > 1:
        return weight.float()
    return None


def _is_image(values: Tensor, image: Tensor) -> bool:
    """Return True if `values` are the pixels of an image (channel, height, width) in order, apart from normalization.

    Features of the same number, and pixels in another order, give weights that are no images.
    """
    if values.numel() != image.numel():
        return False
    own, given = (one.reshape(len(image), -1).double() for one in (values.cpu(), image.detach().cpu()))
    own, given = own - own.mean(1, keepdim=True), given - given.mean(1, keepdim=True)
    slope = (own * given).sum(1, keepdim=True) / (given * given).sum(1, keepdim=True).clamp(min=1e-12)
    # half precision has three digits
    return bool((own - slope * given).abs().max() <= 0.02 * own.abs().max())
