"""The layer whose maps are explained: found by itself or named, and read with the gradient that arrives at it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.attribution._axes import channel_axis, is_passive
from pellucid.attribution._missing import check_gradients
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ModelError, UnknownName
from pellucid.engine.arguments import tensors_in
from pellucid.engine.derivatives import WAY_OUT, check_graph, missing_derivative
from pellucid.engine.recorder import Recorder

__all__ = ["Layer", "Read", "find_layer", "read_layer"]


@dataclass(frozen=True)
class Layer:
    """Where in a forward pass the maps come out."""

    name: str
    """The module's path, or the operation and the module it runs in."""
    shape: tuple[int, ...]
    """Of its output for one image."""
    axis: int | None
    """The axis of its channels; None where that cannot be told."""
    call: int | None = None
    """The number of the function call, where the layer was found by itself."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a layer puts out for a batch, and the gradient of the explained score by it."""

    values: Tensor
    gradient: Tensor
    """Like `values`."""
    logits: Tensor
    classes: Tensor


def find_layer(subject: Subject, images: Tensor, name: str | None) -> Layer:
    """The layer `name`; by itself, the last operation whose output has spatial axes, poolings and moves apart.

    One image is run, once per kind of input. Raises `UnknownName` for a layer that the model does not have, and
    `ModelError` where it is not used exactly once, or where none can be found.
    """
    known = [path for path, _ in subject.model.named_modules() if path]
    if name is not None and name not in known:
        raise UnknownName("layer", name, known)
    parts = tuple(map(id, subject.model.modules()))  # a part may have been replaced since
    key = (name, parts, images.shape[1:], images.dtype, images.device)
    if key not in subject.layers:
        subject.layers[key] = _search(subject, images[:1], name)
    return subject.layers[key]


def _search(subject: Subject, image: Tensor, name: str | None) -> Layer:
    search = _Search(subject.model, image)
    outputs: list[Any] = []
    used = nullcontext() if name is None else _seeing(subject.model, name, outputs.append)
    with used:
        subject.logits(image, within=search)
    subject.settle(image)
    if name is None:
        return search.chosen()
    _check_uses(name, len(outputs))
    if not isinstance(outputs[0], Tensor):
        came = type(outputs[0]).__name__
        raise ModelError(f"layer {name!r} returns a {came}, not a tensor; name a layer inside it, or the next one.")
    return Layer(name, tuple(outputs[0].shape), search.axis_of(outputs[0]))


def _check_uses(name: str, count: int) -> None:
    if count != 1:
        way_out = "name the module around one of its uses" if count else "name a layer that is used"
        raise ModelError(f"layer {name!r} is used {count} times in a forward pass, and must be used once; {way_out}.")


def read_layer(subject: Subject, images: Tensor, target: Target, layer: Layer) -> Read:
    """The layer's output, and the gradient of the explained score by it.

    The network before the layer is run without a gradient. Raises `ModelError` where the score does not depend on the
    layer.
    """
    probe = _Probe()
    if layer.call is None:
        with _seeing(subject.model, layer.name, probe):
            logits = subject.logits(images, within=nullcontext())
    else:
        logits = subject.logits(images, within=_Stop(layer, probe))
    subject.settle(images)
    _check_uses(layer.name, len(probe.seen))
    values, zeros = probe.seen[0]
    scores = target.scores(logits).sum()
    _check_is_inside(layer, logits)
    if not scores.requires_grad:
        raise ModelError(_no_way(layer))
    check_graph(scores, WAY_OUT)
    try:
        slope = torch.autograd.grad(scores, zeros, allow_unused=True)[0]
    except RuntimeError as error:
        raise missing_derivative(error, WAY_OUT) or error from error
    if slope is None:
        raise ModelError(_no_way(layer))
    logits = logits.detach()
    if len(slope) == len(images):
        check_gradients(subject, images, [target], [slope], logits)
    return Read(values, slope, logits, target.classes(logits))


def _no_way(layer: Layer) -> str:
    return (
        f"the explained score does not depend on layer {layer.name!r} by a differentiable way; "
        "name a layer on the way to the logits with layer='…'."
    )


def _check_is_inside(layer: Layer, logits: Tensor) -> None:
    """`ModelError` where a layer found by itself is what the model puts out: its gradient repeats the target."""
    if layer.call is not None and logits.ndim == len(layer.shape) and max(logits.shape[2:], default=1) > 1:
        raise ModelError(
            f"the model puts out maps, {tuple(logits.shape[1:])}, as segmenters do, so its last maps are the output "
            "itself and would only show the target; name a layer before it with layer='…'."
        )


class _Probe:
    """Keeps an output, and adds zeros to it, by which the score can be differentiated."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, output: Tensor, *, in_place: bool = False) -> Tensor:
        """The output as the model goes on with it."""
        with torch.enable_grad():
            zeros = torch.zeros_like(output).requires_grad_()
            self.seen.append((output.detach().clone(), zeros))
            return output.add_(zeros) if in_place else output + zeros


@contextmanager
def _seeing(model: nn.Module, name: str, see: Callable[..., Any]) -> Iterator[None]:
    """Hand each output of a module to `see`, and go on with what that returns, unless it is None."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        is_same = isinstance(see, _Probe) and any(output is value for value in inputs)
        return see(output, in_place=True) if is_same else see(output)

    handle = model.get_submodule(name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Stop(TorchFunctionMode):
    """Puts a probe behind one function call of a forward pass."""

    def __init__(self, layer: Layer, probe: _Probe) -> None:
        super().__init__()
        self._layer, self._probe, self._count = layer, probe, 0

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self._count += 1
        if self._count != self._layer.call:
            return value
        is_same = self._layer.name.partition(" ")[0] == getattr(func, "__name__", "")
        if not is_same or not isinstance(value, Tensor) or value.shape[1:] != self._layer.shape[1:]:
            raise ModelError(
                "the model took another way through its layers than the last time; name a layer with layer='…'."
            )
        return self._probe(value, in_place=any(value is tensor for tensor in tensors_in(args)))


class _Search(TorchFunctionMode):
    """Looks for the last operation that puts out maps, and knows on which axis each tensor has its channels."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self._rank, self._count = image.ndim, 0
        self._recorder = Recorder(model, image)  # not entered: it knows the names of modules
        self._axes: dict[int, tuple[Tensor, int | None]] = {id(image): (image, 1)}
        """By identity of what depends on the image, which is kept alive."""
        self._born = {id(image): 0}
        """The number of the call that made it."""
        self._found: Layer | None = None
        self._behind = self._beside = ""
        """What has places behind the map found, and what goes past it."""

    def axis_of(self, value: Tensor) -> int | None:
        """The axis of a value's channels."""
        return self._axes.get(id(value), (value, None))[1]

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self._count += 1
        sources = [self._axes[id(tensor)] for tensor in tensors_in((args, kwargs or {})) if id(tensor) in self._axes]
        outputs = [out for out in tensors_in(value) if out.is_floating_point()] if sources else []
        if outputs:
            name = getattr(func, "__name__", "")
            self._look_past(name, sources)
            for out in outputs:
                axis = channel_axis(name, args, kwargs or {}, sources, out)
                self._axes[id(out)], self._born[id(out)] = (out, axis), self._count
                if len(sources) > 1 or not is_passive(func):
                    self._note(name, out, axis)
        return value

    def _look_past(self, name: str, sources: list[tuple[Tensor, int | None]]) -> None:
        """Does the operation use something from before the map found?"""
        if self._found is not None and any(self._born[id(tensor)] < (self._found.call or 0) for tensor, _ in sources):
            self._beside = self._named(name)

    def _note(self, name: str, out: Tensor, axis: int | None) -> None:
        """Is it a map, or something behind the last map that has places too, such as tokens?"""
        places = [size for number, size in enumerate(out.shape) if number not in (0, axis)]
        if out.ndim == self._rank and axis is not None and max(places, default=1) > 1:
            self._found = Layer(self._named(name), tuple(out.shape), axis, self._count)
            self._behind = self._beside = ""
        elif out.ndim > 2 and sum(size > 1 for size in out.shape[1:]) > 1:
            self._behind = f"{self._named(name)}, with the shape {tuple(out.shape)}"

    def _named(self, name: str) -> str:
        path = self._recorder.path()
        return f"{name} in {path!r}" if path else f"{name} in the model itself"

    def chosen(self) -> Layer:
        """The last layer with maps; `ModelError` where there is none, or where it is not all that the logits see."""
        if self._behind:
            raise ModelError(
                f"the last output with places is that of {self._behind}, whose places are tokens or cannot be told "
                "from its channels; name a layer with layer='…', and for tokens the way to maps with reshape=function, "
                "such as lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))."
            )
        if self._found is None:
            raise ModelError(
                "no operation puts out maps with more than one place, so there is nothing to show; "
                "class activation maps need a convolutional network. Choose another method, such as 'gradient'."
            )
        if self._beside:
            raise ModelError(
                f"the last maps, of {self._found.name}, are not all that the logits see: {self._beside} also uses what "
                "was computed before them; name the layer to look at with layer='…'."
            )
        return self._found
