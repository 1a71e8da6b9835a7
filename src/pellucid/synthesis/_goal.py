"""Optimization targets: log-probabilities of classes, units of a layer, or a function of the model's outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ModelError, PellucidError, ShapeError, UnsupportedOperation
from pellucid.core.isolation import raise_translated
from pellucid.core.types import Images
from pellucid.engine.arrays import check_tensor
from pellucid.engine.batch_norm import SoundNorms
from pellucid.engine.derivatives import check_graph
from pellucid.engine.hidden import check_names, observed
from pellucid.engine.input_errors import INPUT_ERRORS
from pellucid.engine.model import AutocastWatch, check_model, dtype_of
from pellucid.engine.units import Unit
from pellucid.engine.wrapping import check_hidden_norms, find_module

__all__ = ["Classes", "Goal", "Response", "Values", "make_goal"]

Classes = Sequence[int] | Tensor | int | Unit | Sequence[Unit] | None
"""Classes by index, or hidden units; None for all classes."""
Response = Unit | Sequence[Unit] | tuple[str, int | Sequence[int]] | Callable[[Any], Tensor]
"""Hidden units, (layer name, channel or channels), or a function of the model's outputs that returns one number per
image."""

HINT = "pass a model with differentiable outputs."
"""Ends the errors about missing derivatives."""

Values = Float[Tensor, "batch target"]


@dataclass(frozen=True, eq=False)
class Goal:
    """The values to maximize: one number per image and target."""

    model: nn.Module
    targets: tuple[int, ...]
    """Classes or channels; −1 for a function."""
    read: Callable[[Images], tuple[Values, Values]]
    """Maps images to the values to maximize and the raw values (logits, activations), for all targets."""
    is_of_classes: bool


def make_goal(model: nn.Module, classes: Classes, unit: Response | None, sample: Images) -> Goal:
    """Create the goal that the public arguments describe, and test it on `sample`; the caller freezes the model.

    Raises `ConfigError`, `UnknownName`, `ShapeError`, `ModelError` or `UnsupportedOperation` for invalid arguments.
    """
    check_model(model, "derivatives")
    if unit is not None and classes is not None:
        raise ConfigError("got both classes and unit; give only one of them.")
    if units := _units(classes) or _units(unit):
        return _unit_goal(model, units, sample)
    if unit is None:
        return _class_goal(model, classes, sample)
    if callable(unit) and not isinstance(unit, type):
        return _checked(Goal(model, (-1,), lambda images: _repeated(_of_function(model, unit, images)), False), sample)
    given: object = unit
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)):
        raise ConfigError(
            f"got unit={unit!r}; expected (layer, channel), such as ('conv1', 3), or a function of the outputs."
        )
    layer, channels = given[0], _as_list(given[1])
    module = find_module(model, layer)
    with torch.no_grad():
        size = _of_layer(module, layer, model, sample).shape[1]
    _check_range("channel", channels, size, f"layer {layer!r}")

    def read(images: Images) -> tuple[Values, Values]:
        return _repeated(_of_layer(module, layer, model, images)[:, channels])

    return _checked(Goal(model, tuple(channels), read, False), sample)


def _units(given: object) -> list[Unit]:
    """Return the hidden units among the arguments; none if they are classes, or anything else."""
    listed = list(given) if isinstance(given, tuple | list) else [given]
    units = [one for one in listed if isinstance(one, Unit)]
    return units if len(units) == len(listed) else []


def _unit_goal(model: nn.Module, units: list[Unit], sample: Images) -> Goal:
    layers = list(dict.fromkeys(unit.layer for unit in units))
    check_names(model, layers)

    def read(images: Images) -> tuple[Values, Values]:
        outputs: dict[str, Tensor] = {}

        def see(name: str, output: Tensor, _is_input: bool) -> None:
            outputs[name] = output.clone()  # the next layer may modify the output in place

        with observed(model, layers, see, len(images)):
            _run(model, images)
        return _repeated(torch.stack([_at_least_float32(unit.score(outputs[unit.layer])) for unit in units], 1))

    with torch.no_grad():
        read(sample)
    return _checked(Goal(model, tuple(unit.channel for unit in units), read, False), sample)


def _class_goal(model: nn.Module, classes: Any, sample: Images) -> Goal:
    with torch.no_grad():
        logits = _logits(model, sample)
    _refuse_probabilities(logits)
    indices = list(range(logits.shape[1])) if classes is None else _as_list(classes)
    _check_range("class", indices, logits.shape[1], "the model")

    def read(images: Images) -> tuple[Values, Values]:
        logits = _logits(model, images)
        return logits.log_softmax(1)[:, indices], logits[:, indices]

    return _checked(Goal(model, tuple(indices), read, True), sample)


def _logits(model: nn.Module, images: Images) -> Tensor:
    outputs = _run(model, images)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(images):
        received = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ShapeError(
            f"the model returned {received} for {len(images)} images; classes need logits of shape (batch, class). "
            "Give unit=function, a function from the model's outputs to one number per image."
        )
    return _at_least_float32(outputs)


def _run(model: nn.Module, images: Images) -> Any:
    try:
        # refuse autocast within the model, and replace norms whose gradient torch gets wrong
        with AutocastWatch(), SoundNorms(model):
            return model(images.to(dtype_of(model)))
    except PellucidError:
        raise
    except Exception as error:
        raise_translated(error)
        raise ModelError(
            f"the model rejects images of shape {tuple(images.shape)} (image, channel, height, width): "
            f"{type(error).__name__}: {error}. Give the image_shape=(channels, height, width) that it expects."
        ) from error


def _of_layer(module: nn.Module, name: str, model: nn.Module, images: Images) -> Values:
    """Return the mean of each channel over all positions of a layer's output, in its last call."""
    seen: list[Any] = []

    def remember(_module: nn.Module, _inputs: Any, output: Any) -> None:
        # cloned, because the next layer may modify the output in place (ReLU(inplace=True))
        seen.append(output.clone() if isinstance(output, Tensor) else output)

    handle = module.register_forward_hook(remember)
    try:
        _run(model, images)
    finally:
        handle.remove()
    if not seen:
        raise ModelError(f"the layer {name!r} does not run in the forward pass; name one that does.")
    # a layer that is called several times counts with its last call
    output = seen[-1]
    if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(images):
        received = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ShapeError(
            f"the layer {name!r} returned {received} for {len(images)} images; expected (batch, channel, …)."
        )
    output = _at_least_float32(output)
    return output.flatten(2).mean(2) if output.ndim > 2 else output


def _of_function(model: nn.Module, function: Callable[[Any], Tensor], images: Images) -> Values:
    outputs = _run(model, images)
    try:
        values: object = function(outputs)
    except INPUT_ERRORS as error:
        if isinstance(error, PellucidError):
            raise
        raise ConfigError(f"the unit function raised {type(error).__name__}: {error}.") from error
    if not isinstance(values, Tensor) or values.shape != images.shape[:1]:
        received = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(
            f"the unit function returned {received} for {len(images)} images; return one number per image."
        )
    return _at_least_float32(values)[:, None]


def _checked(goal: Goal, sample: Images) -> Goal:
    """Return `goal`; raise an error if its values have no gradient with respect to the images."""
    check_hidden_norms(goal.model, sample[:1].to(dtype_of(goal.model)))
    with torch.enable_grad():
        values = goal.read(sample.detach().requires_grad_())[0]
    if not values.requires_grad:
        raise UnsupportedOperation(
            "the values to maximize have no gradient with respect to the images: the model leaves the graph (detach, "
            f"no_grad, argmax, NumPy); {HINT}"
        )
    check_graph(values, HINT)
    return goal


def _refuse_probabilities(logits: Tensor) -> None:
    # log p(class | x) would be 0 for every image
    if logits.shape[1] == 1:
        raise ShapeError(
            "the model returns a single logit, whose softmax is always 1; give unit=lambda logits: logits[:, 0]."
        )
    # non-negative outputs that sum to 1 are almost certainly probabilities
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-4).all()):
        raise UnsupportedOperation(
            "the model ends in a softmax, so its outputs are probabilities instead of logits; pass the model "
            "without it, or give unit=lambda probabilities: probabilities[:, 3].log()."
        )


def _check_range(kind: str, indices: list[int], size: int, where: str) -> None:
    if not indices:
        raise ShapeError(f"no {kind} was given; give at least one.")
    wrong = [index for index in indices if not 0 <= index < size]
    if wrong:
        raise ShapeError(f"there is no {kind} {wrong[0]}; {where} has {size}; give indices from 0 to {size - 1}.")


def _as_list(indices: Sequence[int] | int | Tensor) -> list[int]:
    if isinstance(indices, Tensor):
        check_tensor(indices, "the indices")
    given: Any = indices
    if isinstance(given, Tensor | np.ndarray):
        given = given.flatten().tolist()
    listed = [given] if isinstance(given, Integral) else list(given) if isinstance(given, Sequence) else [given]
    if isinstance(given, str) or not all(isinstance(i, Integral) and not isinstance(i, bool) for i in listed):
        raise ShapeError(f"{given!r} are not indices; give integers.")
    return [int(index) for index in listed]


def _at_least_float32(values: Tensor) -> Tensor:
    # half precision has too few digits for small steps of the objective
    return values if values.dtype == torch.float64 else values.float()


def _repeated(values: Values) -> tuple[Values, Values]:
    return values, values
