"""The layers of a model, found by running one image: names, units, and what cannot be measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.engine.layer_calls import LayerCall, watched_layers

__all__ = ["LayerPlace", "Survey", "layer_output", "survey"]


@dataclass(frozen=True, eq=False)
class LayerPlace:
    """One call of a layer in a forward pass."""

    key: tuple[str, str, int]
    """Path, kind, and number of the call."""
    name: str
    kind: str
    is_activation: bool
    shape: tuple[int, ...]
    """Shape of the output for one image."""
    axis: int
    """Axis of the units in the output with its batch axis."""
    parameters: tuple[nn.Parameter, ...]
    requires_grad: bool
    """True if the output depends on a weight."""


@dataclass(frozen=True, eq=False)
class Survey:
    """The layers of a model in the order of execution."""

    places: tuple[LayerPlace, ...]
    left_out: Mapping[str, str]
    """Reasons as parts of sentences, by the name of a layer."""
    attention: tuple[str, ...]
    """Modules that compute attention weights."""
    outputs: Any
    """What the model returns for the first image."""


@dataclass(frozen=True, eq=False)
class _Seen:
    call: LayerCall
    number: int
    output: Tensor | None


def survey(model: nn.Module, images: Tensor) -> Survey:
    """Run the first image through a frozen model, and list its layers."""
    seen: list[_Seen] = []
    counts: dict[tuple[str, str], int] = {}
    attention: dict[str, None] = {}

    def note(call: LayerCall) -> None:
        number = counts.get((call.path, call.kind), 0)
        counts[call.path, call.kind] = number + 1
        output = layer_output(call, images=1)
        seen.append(_Seen(call, number, output))

    def attends(path: str) -> None:
        attention[path] = None

    weights = [one for one in model.parameters() if one.is_floating_point()]
    for weight in weights:  # `frozen` restores it; the outputs then tell if they depend on a weight
        weight.requires_grad_(True)
    with torch.enable_grad(), watched_layers(model, note, attends):
        outputs = model(images[:1].clone())
    for weight in weights:
        weight.requires_grad_(False)
    places, left_out = list[LayerPlace](), dict[str, str]()
    axes: list[tuple[torch.Size, int]] = []
    for one in seen:
        name = _name(one, counts[one.call.path, one.call.kind])
        if one.output is None:
            left_out[name] = _reason(one.call.output)
            continue
        axis = _axis(one, axes)
        is_activation = one.call.function is not None
        if not is_activation:
            axes.append((one.output.shape, axis))
        key = (one.call.path, one.call.kind, one.number)
        shape, has_weights = tuple(one.output.shape[1:]), one.output.requires_grad
        places.append(
            LayerPlace(key, name, one.call.kind, is_activation, shape, axis, _parameters(one.call), has_weights)
        )
    return Survey(tuple(places), left_out, tuple(attention), outputs)


def layer_output(call: LayerCall, images: int) -> Tensor | None:
    """Return the first tensor among a layer's outputs; None unless it has floats and one row per image."""
    output = call.output
    values = list(output.values()) if isinstance(output, dict) else output
    first = next(
        (one for one in (values if isinstance(values, tuple | list) else [values]) if isinstance(one, Tensor)), None
    )
    if first is None or first.ndim < 2 or len(first) != images or not first.is_floating_point() or not first.numel():
        return None
    return first


def _reason(output: Any) -> str:
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        return f"it returns a {type(first).__name__}, not a tensor"
    if not first.is_floating_point():
        return f"it returns {first.dtype}, not floating-point numbers"
    return f"its output has shape {tuple(first.shape)} for one image, which is not one row of features per image"


def _name(one: _Seen, calls: int) -> str:
    call = one.call
    is_module = call.function is None or call.module is not None
    name = call.path if is_module else f"{call.path or '(model)'}: {call.kind}"
    return f"{name}@{one.number}" if calls > 1 else name


def _axis(one: _Seen, axes: list[tuple[torch.Size, int]]) -> int:
    """Return the axis of the units: that of convolutions is 1, that of linear and recurrent layers the last.

    Activations, norms and the like have the axis of the last layer with weights whose output has the same shape, or
    else the same number of axes.
    """
    assert one.output is not None
    shape, module = one.output.shape, one.call.module
    if len(shape) == 2:
        return 1
    if isinstance(module, nn.modules.conv._ConvNd):
        return 1
    if isinstance(module, nn.Linear | nn.Embedding | nn.RNNBase | nn.MultiheadAttention | nn.Bilinear):
        return len(shape) - 1
    same = [axis for other, axis in axes if other == shape] or [
        axis for other, axis in axes if len(other) == len(shape)
    ]
    return same[-1] if same else (len(shape) - 1 if len(shape) == 3 else 1)


def _parameters(call: LayerCall) -> tuple[nn.Parameter, ...]:
    """Return the parameters of a module, with those of its parametrizations and of attention's projection."""
    module = call.module
    if module is None or call.function is not None:
        return ()
    has_parts = hasattr(module, "parametrizations") or isinstance(module, nn.MultiheadAttention)
    return tuple(module.parameters(recurse=has_parts))
