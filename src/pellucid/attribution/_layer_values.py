"""Forward passes through a layer: its output read with or without its gradient, or replaced."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pellucid.attribution._layers import Layer, Probe, check_uses, find_layer, named, observed
from pellucid.attribution._missing import check_gradients
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ModelError
from pellucid.engine.derivatives import WAY_OUT, check_graph, missing_derivative
from pellucid.engine.recorder import Recorder
from pellucid.engine.table import tensors_in

__all__ = ["Read", "read_layer", "read_values", "replace_values", "run_through"]

T = TypeVar("T")


class _ControlFlowDiffers(ModelError):
    """The call that provides the feature maps is not where it was in the last forward pass."""


@dataclass(frozen=True, eq=False)
class Read:
    """A layer's output for a batch, and the gradient of the explained score with respect to it."""

    values: Tensor
    gradient: Tensor
    """Same shape as `values`."""
    logits: Tensor
    classes: Tensor


def read_layer(subject: Subject, images: Tensor, target: Target, name: str | None) -> tuple[Layer, Read]:
    """Find a layer, and read its output and the gradient of the explained score with respect to it.

    The layers before it run without gradients. Raises `ModelError` if the score does not depend on the layer, and the
    errors of `find_layer`.
    """
    return _with_layer(subject, images, name, lambda layer: _read(subject, images, target, layer))


def read_values(subject: Subject, images: Tensor, name: str | None) -> tuple[Layer, Tensor, Tensor]:
    """Find a layer, and return it with its output and the logits, both without gradients.

    Raises the errors of `find_layer`.
    """

    def read(layer: Layer) -> tuple[Tensor, Tensor]:
        probe = _Values()
        with torch.no_grad():
            logits = run_through(subject, images, layer, probe)
        _check_is_hidden(layer, logits)
        return probe.values[0], logits

    layer, (values, logits) = _with_layer(subject, images, name, read)
    return layer, values, logits


def replace_values(subject: Subject, images: Tensor, layer: Layer, values: Tensor) -> Tensor:
    """Return the logits of a forward pass in which the layer's output is replaced, without gradients."""
    with torch.no_grad():
        return run_through(subject, images, layer, _Replacement(values))


def _with_layer(subject: Subject, images: Tensor, name: str | None, read: Callable[[Layer], T]) -> tuple[Layer, T]:
    layer = find_layer(subject, images, name)
    try:
        return layer, read(layer)
    except _ControlFlowDiffers:
        # some models compute constants in their first pass only, such as attention biases in eval mode
        subject.layers.clear()
        layer = find_layer(subject, images, name)
        return layer, read(layer)


def run_through(
    subject: Subject,
    images: Tensor,
    layer: Layer,
    probe: Probe,
    within: AbstractContextManager[Any] | None = None,
) -> Tensor:
    """Run a forward pass in which `probe` sees, and may replace, the layer's output; return the logits.

    `within` is entered around the pass, such as a mode that records it.
    """
    with ExitStack() as stack:
        if within is not None:
            stack.enter_context(within)
        if layer.call is None:
            stack.enter_context(observed(subject.model, layer.name, probe))
            logits = subject.logits(images, within=nullcontext())
        else:
            logits = subject.logits(images, within=_CallProbe(layer, probe, Recorder(subject.model, images[:1])))
    subject.settle(images)
    if layer.call is not None and not probe.uses:
        raise _ControlFlowDiffers(
            f"the feature maps came from {layer.name} in the last forward pass, but the model makes fewer calls now; "
            "name a layer with layer='…'."
        )
    check_uses(layer.name, probe.uses)
    return logits


def _read(subject: Subject, images: Tensor, target: Target, layer: Layer) -> Read:
    probe = _Slopes()
    logits = run_through(subject, images, layer, probe)
    values, zeros = probe.seen[0]
    scores = target.scores(logits).sum()
    _check_is_hidden(layer, logits)
    if not scores.requires_grad:
        raise ModelError(_independent(layer))
    check_graph(scores, WAY_OUT)
    try:
        # The added zeros are the only leaf of the graph: the layers before them ran without gradients.
        slope = torch.autograd.grad(scores, zeros, allow_unused=True)[0]
    except RuntimeError as error:
        raise missing_derivative(error, WAY_OUT) or error from error
    if slope is None:
        raise ModelError(_independent(layer))
    logits = logits.detach()
    if len(slope) == len(images):  # otherwise the first axis is not the batch, and rows are not images
        check_gradients(subject, images, [target], [slope], logits)
    return Read(values, slope, logits, target.classes(logits))


def _independent(layer: Layer) -> str:
    return (
        f"the explained score does not depend on layer {layer.name!r} through a differentiable path; "
        "name a layer on the path to the logits with layer='…'."
    )


def _check_is_hidden(layer: Layer, logits: Tensor) -> None:
    """Raise `ModelError` if an automatically found layer is the output, whose gradient only shows the target."""
    if layer.call is not None and logits.ndim == len(layer.shape) and max(logits.shape[2:], default=1) > 1:
        raise ModelError(
            f"the explained output consists of maps, {tuple(logits.shape[1:])}, as for segmentation or a hidden unit, "
            "so the last feature maps are the output itself and would only show the target; name an earlier layer "
            "with layer='…'."
        )


class _Slopes(Probe):
    """Keep a layer's output and add zeros to it; the score is then differentiated with respect to the zeros."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, output: Tensor, *, in_place: bool = False) -> Tensor:
        self.uses += 1
        with torch.enable_grad():  # the graph starts here: nothing before the layer requires a gradient
            zeros = torch.zeros_like(output).requires_grad_()
            # A copy, because later layers may work in place.
            self.seen.append((output.detach().clone(), zeros))
            return output.add_(zeros) if in_place else output + zeros


class _Values(Probe):
    """Keep a layer's output."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def __call__(self, output: Tensor, *, in_place: bool = False) -> Tensor:
        self.values.append(output.detach().clone())  # a copy, because later layers may work in place
        return super().__call__(output, in_place=in_place)


class _Replacement(Probe):
    """Replace a layer's output."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def __call__(self, output: Tensor, *, in_place: bool = False) -> Tensor:
        self.uses += 1
        # A clone, because later layers may work in place.
        return output.copy_(self._values) if in_place else self._values.clone()


class _CallProbe(TorchFunctionMode):
    """Apply a probe to the output of one function call of a forward pass."""

    def __init__(self, layer: Layer, probe: Probe, recorder: Recorder) -> None:
        super().__init__()
        self._layer, self._probe, self._count = layer, probe, 0
        self._recorder = recorder  # never entered, only used for module names

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self._count += 1
        # Counted as in `_Search`, so that the index refers to the same call.
        if self._count != self._layer.call:
            return value
        # A different branch may make the same number of calls, so name, module and shape must match as well.
        is_same = self._layer.name == named(self._recorder, func)
        if not is_same or not isinstance(value, Tensor) or value.shape[1:] != self._layer.shape[1:]:
            raise _ControlFlowDiffers(
                f"the feature maps came from {self._layer.name} in the last forward pass, but the model's control flow "
                "differs now; name a layer with layer='…'."
            )
        # An in-place function returns its argument, which later code may also use.
        return self._probe(value, in_place=any(value is tensor for tensor in tensors_in(args)))
