"""What is made large: the log-probability of classes, units of a layer, or a function of the model's outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, PellucidError, ShapeError, UnknownName, UnsupportedOperation
from pellucid.core.types import Images
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.derivatives import check_graph
from pellucid.engine.freezing import dtype_of
from pellucid.engine.guards import AutocastWatch

__all__ = ["Goal", "Unit", "Values", "make_goal"]

Unit = tuple[str, int | Sequence[int]] | Callable[[Any], Tensor]
"""A layer's name with a channel or several, or a function of the model's outputs, with one number per image."""

WAY_OUT = "hand over a model whose outputs can be differentiated."
"""How errors about missing derivatives end."""

Values = Float[Tensor, "batch target"]


@dataclass(frozen=True, eq=False)
class Goal:
    """One number per image and target, to be made large."""

    model: nn.Module
    targets: tuple[int, ...]
    """Classes, or channels; −1 for a function."""
    read: Callable[[Images], tuple[Values, Values]]
    """The values that are made large, and the raw ones (logits, activations), of some images and all targets."""
    is_of_classes: bool


def make_goal(
    model: nn.Module, classes: Sequence[int] | Tensor | int | None, unit: Unit | None, sample: Images
) -> Goal:
    """The goal that the public arguments state, tried on `sample`; the model is frozen by the caller.

    Raises `ConfigError`, `UnknownName`, `ShapeError`, `ModelError` or `UnsupportedOperation` for what cannot work.
    """
    if unit is None:
        return _class_goal(model, classes, sample)
    if classes is not None:
        raise ConfigError("classes and unit were both given; a prototype is of one of them.")
    if callable(unit):
        return _tried(Goal(model, (-1,), lambda images: _twice(_of_function(model, unit, images)), False), sample)
    given: object = unit
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)):
        raise ConfigError(
            f"unit is {unit!r}; give (layer, channel), such as ('conv1', 3), or a function of the outputs."
        )
    layer, channels = unit[0], _listed(unit[1])
    modules = dict(model.named_modules())
    if layer not in modules:
        raise UnknownName("layer", layer, [name for name in modules if name])
    with torch.no_grad():
        size = _of_layer(modules[layer], layer, model, sample).shape[1]
    _check_range("channel", channels, size, f"layer {layer!r}")

    def read(images: Images) -> tuple[Values, Values]:
        return _twice(_of_layer(modules[layer], layer, model, images)[:, channels])

    return _tried(Goal(model, tuple(channels), read, False), sample)


def _class_goal(model: nn.Module, classes: Sequence[int] | Tensor | int | None, sample: Images) -> Goal:
    with torch.no_grad():
        logits = _logits(model, sample)
    _refuse_probabilities(logits)
    wanted = list(range(logits.shape[1])) if classes is None else _listed(classes)
    _check_range("class", wanted, logits.shape[1], "the model")

    def read(images: Images) -> tuple[Values, Values]:
        logits = _logits(model, images)
        return logits.log_softmax(1)[:, wanted], logits[:, wanted]

    return _tried(Goal(model, tuple(wanted), read, True), sample)


def _logits(model: nn.Module, images: Images) -> Tensor:
    outputs = _run(model, images)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(images):
        came = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ShapeError(
            f"the model returns {came} for {len(images)} images; a class needs logits (batch, class). "
            "Give unit=function, which takes what the model returns and gives one number per image."
        )
    return _wide(outputs)


def _run(model: nn.Module, images: Images) -> Any:
    try:
        with AutocastWatch(), SoundNorms(model):
            return model(images.to(dtype_of(model)))
    except PellucidError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model cannot take images of shape {tuple(images.shape)} (image, channel, height, width): "
            f"{type(error).__name__}: {error}. Give image_shape=(channels, height, width) as it needs."
        ) from error


def _of_layer(module: nn.Module, name: str, model: nn.Module, images: Images) -> Values:
    """The mean of each channel over all places of a layer's output, at its last use."""
    seen: list[Any] = []

    def remember(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(output.clone() if isinstance(output, Tensor) else output)  # before an operation in place

    handle = module.register_forward_hook(remember)
    try:
        _run(model, images)
    finally:
        handle.remove()
    if not seen:
        raise ModelError(f"the layer {name!r} does not run; name one that does.")
    output = seen[-1]
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(images):
        came = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ShapeError(
            f"the layer {name!r} returns {came} for {len(images)} images; name one with (batch, channel, …)."
        )
    return _wide(output).flatten(2).mean(2) if output.ndim > 2 else _wide(output)


def _of_function(model: nn.Module, function: Callable[[Any], Tensor], images: Images) -> Values:
    values: object = function(_run(model, images))
    if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(f"the unit's function returns {came} for {len(images)} images; return one number per image.")
    return _wide(values)[:, None]


def _tried(goal: Goal, sample: Images) -> Goal:
    """`goal`; an error where its values cannot be followed back to the images."""
    with torch.enable_grad():
        values = goal.read(sample.detach().requires_grad_())[0]
    if not values.requires_grad:
        raise UnsupportedOperation(
            "the values to be maximised have no gradient to the images: the model leaves the graph on its way (detach, "
            f"no_grad, argmax, NumPy); {WAY_OUT}"
        )
    check_graph(values, WAY_OUT)
    return goal


def _refuse_probabilities(logits: Tensor) -> None:
    if logits.shape[1] == 1:
        raise ShapeError(
            "the model returns one logit, so that a softmax says nothing; give unit=lambda logits: logits[:, 0]."
        )
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all()):
        raise UnsupportedOperation(
            "the model ends in a softmax: its outputs are probabilities, and their softmax is not; hand over the model "
            "without it, or give unit=lambda probabilities: probabilities[:, 3].log()."
        )


def _check_range(kind: str, indices: list[int], size: int, where: str) -> None:
    if not indices:
        raise ShapeError(f"no {kind} was given; name at least one.")
    wrong = [index for index in indices if not 0 <= index < size]
    if wrong:
        raise ShapeError(f"there is no {kind} {wrong[0]}; {where} has {size}, so give indices from 0 to {size - 1}.")


def _listed(indices: Sequence[int] | int | Tensor) -> list[int]:
    if isinstance(indices, int):
        return [indices]
    listed = indices.flatten().tolist() if isinstance(indices, Tensor) else list(indices)
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in listed):
        raise ShapeError(f"{listed} are no indices; give whole numbers.")
    return listed


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _twice(values: Values) -> tuple[Values, Values]:
    return values, values
