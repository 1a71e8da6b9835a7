"""The layer for class activation maps: found automatically or by name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.attribution._axes import channel_axis, is_passive
from pellucid.attribution._places import Fold, last_tokens, tokens_of
from pellucid.attribution._subject import Subject
from pellucid.core.errors import ModelError
from pellucid.engine.recorder import Recorder
from pellucid.engine.table import tensors_in
from pellucid.engine.wrapping import check_model, find_module

__all__ = ["Layer", "Probe", "check_uses", "find_layer", "named", "observed"]


@dataclass(frozen=True)
class Layer:
    """The module or function call whose output provides the feature maps."""

    name: str
    """Path of the module, or the operation and the module that calls it."""
    shape: tuple[int, ...]
    """Output shape for one image, with the batch axis."""
    axis: int | None
    """Channel axis; None if unknown."""
    call: int | None = None
    """Index of the function call, for a layer found automatically."""
    fold: Fold | None = None
    """Arrangement of the output's tokens as maps; None if the output already consists of maps, or if unknown."""


def find_layer(subject: Subject, images: Tensor, name: str | None) -> Layer:
    """Find the layer `name`, or the last operation with a spatial output that is not pooling or a reshape.

    Runs one image, once per kind of input. Raises `UnknownName` for an unknown layer, and `ModelError` if the layer is
    not used exactly once or none can be found.
    """
    check_model(subject.model, "layer", layers=None if name is None else [name])
    if name is not None:
        find_module(subject.model, name)
    modules = tuple(map(id, subject.model.modules()))  # a submodule may have been replaced since the last call
    key = (name, modules, images.shape[1:], images.dtype, images.device)
    if key not in subject.layers:
        subject.layers[key] = _search(subject, images[:1], name)
    return subject.layers[key]


def _search(subject: Subject, image: Tensor, name: str | None) -> Layer:
    search = _Search(subject.model, image)
    outputs: list[Any] = []
    collecting = nullcontext() if name is None else observed(subject.model, name, outputs.append)
    with collecting:
        subject.logits(image, within=search)
    subject.settle(image)
    if name is None:
        found = last_tokens(subject, image) if search.ends_in_tokens else None
        return search.chosen() if found is None else Layer(found.name, found.shape, None, found.call, found.fold)
    check_uses(name, len(outputs))
    if not isinstance(outputs[0], Tensor):
        received = type(outputs[0]).__name__
        raise ModelError(f"layer {name!r} returns a {received}, not a tensor; name a layer inside it, or the next one.")
    shape = tuple(outputs[0].shape)
    fold = tokens_of(subject, image, name) if len(shape) != image.ndim else None
    return Layer(name, shape, search.axis_of(outputs[0]), fold=fold)


def check_uses(name: str, count: int) -> None:
    if count != 1:
        advice = "name the parent module of one of its uses" if count else "name a layer that is used"
        raise ModelError(f"layer {name!r} is used {count} times in a forward pass, but must be used once; {advice}.")


class Probe:
    """Sees the output of a layer, and returns what the layers above receive instead."""

    uses: int = 0
    """Number of outputs seen."""

    def __call__(self, output: Tensor, *, in_place: bool = False) -> Tensor:
        """Return the output that the layers above receive; `in_place`: the same tensor, modified."""
        self.uses += 1
        return output


@contextmanager
def observed(model: nn.Module, name: str, observe: Callable[..., Any]) -> Iterator[None]:
    """Pass each output of a module to `observe`, and replace it with the result unless that is None."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        # A module that works in place returns its input: the zeros must then be added in place as well, or code that
        # holds the input tensor, such as a residual connection, would miss them.
        is_same = isinstance(observe, Probe) and any(output is value for value in inputs)
        return observe(output, in_place=True) if is_same else observe(output)

    handle = find_module(model, name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def named(recorder: Recorder, func: Callable[..., Any]) -> str:
    """Name a function and the module that calls it now."""
    path = recorder.path()
    return f"{getattr(func, '__name__', '')} in {repr(path) if path else 'the model itself'}"


class _Search(TorchFunctionMode):
    """Find the last operation that outputs feature maps, tracking the channel axis of each tensor."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self._rank, self._count = image.ndim, 0
        self._recorder = Recorder(model, image)  # never entered, only used for module names
        self._axes: dict[int, tuple[Tensor, int | None]] = {id(image): (image, 1)}
        """Tensors that depend on the image with their channel axis, by id. Holding them keeps ids from being reused."""
        self._created = {id(image): 0}
        """Index of the call that created each tensor."""
        self._last: Layer | None = None
        self._later = self._bypass = ""
        """A later operation with a spatial output, and one that bypasses the last maps."""

    @property
    def ends_in_tokens(self) -> bool:
        """True if the last output with several positions is not a map."""
        return bool(self._later)

    def axis_of(self, value: Tensor) -> int | None:
        """Channel axis of a tensor; None if unknown."""
        return self._axes.get(id(value), (value, None))[1]

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        self._count += 1
        sources = [self._axes[id(tensor)] for tensor in tensors_in((args, kwargs or {})) if id(tensor) in self._axes]
        outputs = [out for out in tensors_in(value) if out.is_floating_point()] if sources else []
        if outputs:
            self._check_bypass(func, sources)
            for out in outputs:
                axis = channel_axis(func, args, kwargs or {}, sources, out)
                self._axes[id(out)], self._created[id(out)] = (out, axis), self._count
                # A passive function of several inputs, such as `cat`, still creates new maps.
                if len(sources) > 1 or not is_passive(func):
                    self._note(func, out, axis)
        return value

    def _check_bypass(self, func: Callable[..., Any], sources: list[tuple[Tensor, int | None]]) -> None:
        """Note an operation that uses values from before the last maps."""
        if self._last is not None and any(self._created[id(tensor)] < (self._last.call or 0) for tensor, _ in sources):
            self._bypass = named(self._recorder, func)

    def _note(self, func: Callable[..., Any], out: Tensor, axis: int | None) -> None:
        """Note feature maps, or a later output with several positions, such as tokens."""
        places = [size for number, size in enumerate(out.shape) if number not in (0, axis)]
        if out.ndim == self._rank and axis is not None and max(places, default=1) > 1:
            self._last = Layer(named(self._recorder, func), tuple(out.shape), axis, self._count)
            self._later = self._bypass = ""
        elif out.ndim > 2 and sum(size > 1 for size in out.shape[1:]) > 1:
            self._later = f"{named(self._recorder, func)}, of shape {tuple(out.shape)}"

    def chosen(self) -> Layer:
        """Return the last layer with feature maps; `ModelError` if there is none, or if the logits also bypass it."""
        if self._later:
            raise ModelError(
                f"the last output with several positions is that of {self._later}, whose positions do not fill a "
                "regular grid over the image; name a layer with layer='…', or pass the function from its output to "
                "maps (batch, channel, …) as reshape=function, such as "
                "lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))."
            )
        if self._last is None:
            raise ModelError(
                "no operation outputs feature maps with more than one position; class activation maps need a "
                "convolutional network. Choose another method, such as 'gradient'."
            )
        if self._bypass:
            raise ModelError(
                f"the last feature maps, of {self._last.name}, do not determine the logits: {self._bypass} also uses "
                "values computed before them; name a layer with layer='…'."
            )
        return self._last
