"""Build the model that `--model` names, and check that it fits the data before training starts."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from pellucid.core.errors import ConfigError, ModelError
from pellucid.core.importing import load_function
from pellucid.core.isolation import preserved_random_state
from pellucid.core.seeding import derive_seed, seed_everything
from pellucid.core.types import Images
from pellucid.models import MODELS
from pellucid.models._spec import is_function

__all__ = ["build_model", "check_fit", "count_parameters", "takes_classes"]


def build_model(
    spec: str, image_shape: tuple[int, int, int] | None, classes: int | None, seed: int | None = 0
) -> nn.Module:
    """Build the model named `spec`, with weights drawn from `seed`; the global random state is restored.

    Args:
        spec: a registered name, MODULE:FUNCTION or MODULE:CLASS. A function receives those of `channels`, `classes` and
            `image_size` (height, width) that its signature names; nothing is passed through `**kwargs`.
        image_shape: channels, height, width; None if unknown.
        classes: number of logits; None if unknown.
        seed: seed of the initial weights; None: the global random state, which then advances.

    Raises:
        UnknownName: for a name that is not registered.
        ConfigError: for a function that cannot be imported, or that requires an unknown number.
        ModelError: if the function fails or does not return an `nn.Module`.
    """
    function = _function(spec)
    channels, height, width = image_shape or (None, None, None)
    offered = {"channels": channels, "classes": classes, "image_size": image_shape and (height, width)}
    with preserved_random_state() if seed is not None else nullcontext():
        if seed is not None:
            seed_everything(derive_seed(seed, "model"))
        accepted = _accepted(function, offered, spec)
        try:
            # MODULE:NAME can also be a finished model
            model = function if isinstance(function, nn.Module) else function(**accepted)
            if image_shape is not None:
                _fill_lazy_layers(model, image_shape)
        # the registered models explain an unsuitable image size themselves
        except ModelError:
            raise
        except (Exception, SystemExit) as error:  # a function that calls sys.exit must not end the run with its code
            raise ModelError(f"--model {spec} failed: {type(error).__name__}: {error}.") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model {spec} returned {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def takes_classes(spec: str) -> bool:
    """Return True if the function of a model takes the number of classes."""
    return "classes" in _parameters(_function(spec))


def _function(spec: str) -> Callable[..., Any]:
    return load_function("--model", spec) if is_function(spec) else MODELS[spec]


def _fill_lazy_layers(model: Any, image_shape: tuple[int, int, int]) -> None:
    """Run lazy layers once so that their weights are drawn from the seed, like all others."""
    if isinstance(model, nn.Module) and any(isinstance(one, UninitializedParameter) for one in model.parameters()):
        with torch.no_grad():
            # eval mode, so that the zeros do not enter batch-norm statistics
            model.eval()(torch.zeros(2, *image_shape))
        model.train()


def _accepted(function: Callable[..., Any], offered: dict[str, Any], spec: str) -> dict[str, Any]:
    """Return the known values among those that the function has parameters for."""
    parameters = _parameters(function)
    for name, way_out in (
        ("classes", "pass --class-names FILE, or give"),
        ("channels", "give"),
        ("image_size", "give"),
    ):
        if name in parameters and offered[name] is None and parameters[name].default is inspect.Parameter.empty:
            raise ConfigError(f"--model {spec} takes {name}, which is unknown here; {way_out} the parameter a default.")
    return {name: value for name, value in offered.items() if name in parameters and value is not None}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    if isinstance(function, nn.Module):
        return {}
    # Through `**kwargs`, a function such as torchvision's would pass names on that nothing knows.
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: one for name, one in inspect.signature(function).parameters.items() if one.kind in named}


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_fit(model: nn.Module, images: Images, classes: int) -> None:
    """Raise `ModelError` unless the model maps `images` (two or more) to one logit per class and can be trained.

    The model is tried in both modes; its mode, gradients, buffers and the global random state are restored.
    """
    if count_parameters(model) == 0:
        raise ModelError("the model has no trainable parameters; return one with requires_grad=True.")
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"the model's state {name!r} is a {type(value).__name__}, but only tensors can be saved; "
                "do not return it from get_extra_state, or store it in a buffer."
            )
    with preserved_random_state():
        # modules can be in different modes, such as frozen batch norms in eval mode
        modes = [(module, module.training) for module in model.modules()]
        gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
        # the pass in training mode updates batch-norm statistics
        buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        try:
            # some models behave differently in training, such as those with auxiliary outputs
            for training in (False, True):
                model.train(training)
                _check_outputs(model, images, classes)
        finally:
            for module, training in modes:
                # not `train()`, which would also change the submodules
                module.training = training
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)


def _check_outputs(model: nn.Module, images: Images, classes: int) -> None:
    mode = "training" if model.training else "evaluation"
    shape, expected = tuple(images.shape), (len(images), classes)
    try:
        logits = model(images)
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the model cannot map images of shape {shape} (image, channel, height, width; {mode} mode) to "
            f"logits of shape {expected}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(
            f"in {mode} mode the model returned {got} for images of shape {shape}; "
            f"it must return logits of shape {expected}: one per image and class, and nothing else."
        )
    if not logits.is_floating_point():
        raise ModelError(f"the model's outputs are {logits.dtype}; logits must be floating-point.")
    # only in training mode, because some models disable gradients for evaluation
    if model.training and not logits.requires_grad:
        raise ModelError("no gradient flows from the model's logits to its parameters; remove detach() and no_grad().")
