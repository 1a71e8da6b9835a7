"""Hidden layers for methods without rules: gradients at layer outputs, and the model as a function of one of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pellucid.attribution._adapter import Adapter
from pellucid.attribution._baselines import baseline_like
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._missing import MissingGradient, gradients_of
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Question, Target
from pellucid.core.errors import ModelError, UnsupportedOperation
from pellucid.engine.derivatives import WAY_OUT, derivatives, unseen_changes, zero_rows
from pellucid.engine.hidden import Observe, observed

__all__ = ["FromLayer", "Reading", "ToLayer", "activations", "from_layers", "is_cut", "read"]


@dataclass(frozen=True, eq=False)
class Reading:
    """A differentiable forward pass, with the outputs of some layers, or the input if no layer is named."""

    subject: Subject
    leaf: Tensor
    """The images, which require a gradient."""
    layers: tuple[str, ...]
    logits: Tensor
    values: tuple[Tensor, ...]
    """The outputs, detached; none if they are not kept."""
    _edges: tuple[GradientEdge, ...] = ()
    """The places of the outputs in the graph, which stay valid if the model overwrites the tensors."""

    def gradients(self, targets: Sequence[Target], *, is_kept: bool = False) -> Iterator[list[Tensor]]:
        """Yield ∂ score / ∂ value of all layers for each target; the last one frees the graph unless `is_kept`.

        Raises `MissingGradient` for a score that depends on a layer's output but has no gradient. For the input, the
        caller checks that.
        """
        if not self.layers:
            yield from ([slope] for slope in gradients_of(self.subject, self.logits, self.leaf, targets))
            return
        for number, target in enumerate(targets, start=1):
            # The gradient of the sum over the images is the gradient of each image.
            slopes = self._slopes(target.scores(self.logits).sum(), is_kept=is_kept or number < len(targets))
            self._check(target, slopes)
            yield slopes

    def pull(self, place: int, cotangent: Tensor) -> Tensor:
        """Return the vector–Jacobian product of one layer's output with respect to the input; keeps the graph."""
        (slope,) = derivatives(self._edges[place], [self.leaf], cotangent, way_out=WAY_OUT, retain_graph=True)
        assert slope is not None
        return slope

    def _slopes(self, score: Tensor, *, is_kept: bool) -> list[Tensor]:
        found = derivatives(score, self._edges, way_out=WAY_OUT, retain_graph=is_kept)
        for layer, slope in zip(self.layers, found, strict=True):
            if slope is None:
                raise ModelError(
                    f"the explained score does not depend on the output of layer {layer!r} through a differentiable "
                    "path; name a layer between the input and the score."
                )
        return [slope for slope in found if slope is not None]

    def _check(self, target: Target, slopes: Sequence[Tensor]) -> None:
        plain, images = self.logits.detach(), self.leaf.detach()
        for layer, slope in zip(self.layers, slopes, strict=True):
            is_zero = zero_rows(slope)
            if is_zero is None:
                continue  # a gradient of exactly zero is rare; only then do further passes look for the reason
            values = _output(self.subject, images, layer)
            held, inside = target.held(plain), _inside(self.subject, layer, values, images)

            def scores(y: Tensor, inside: Subject = inside, held: Target = held) -> Tensor:
                return held.scores(inside.logits(_joined(y, images)))[:, None]

            unseen = unseen_changes(scores, values, is_zero[:, None])[:, 0]
            if bool(unseen.any()):
                classes = target.classes(plain)
                raise MissingGradient(classes[unseen].tolist(), classes[~is_zero].tolist())


def read(subject: Subject, leaf: Tensor, layers: tuple[str, ...], *, with_values: bool = True) -> Reading:
    """Run a differentiable forward pass of images that require a gradient, and read the outputs of the layers.

    `with_values=False` saves the memory for copies of the outputs.

    Raises `ModelError` for a layer that does not depend on the input, and the errors of `observed`.
    """
    if not layers:
        return Reading(subject, leaf, (), subject.logits(leaf), (leaf.detach(),))
    _check_outputs(subject, leaf.detach(), layers)
    edges: dict[str, GradientEdge] = {}
    values: dict[str, Tensor] = {}

    def see(name: str, output: Tensor, is_input: bool) -> Tensor | None:
        if not output.requires_grad:
            raise ModelError(
                f"the output of layer {name!r} does not depend on the input through a differentiable path; name a "
                f"layer between the input and the logits, or {WAY_OUT}"
            )
        # The graph of a view changes if it is overwritten later; that of other tensors does not.
        own = output.clone() if output._is_view() and not is_input else output
        edges[name] = get_gradient_edge(own)
        if with_values:
            values[name] = own.detach().clone()  # later layers may work in place
        return own if own is not output else None

    logits = subject.logits(leaf, within=observed(subject.model, layers, see, len(leaf)))
    subject.settle(leaf)
    kept = tuple(values[name] for name in layers) if with_values else ()
    return Reading(subject, leaf, layers, logits, kept, tuple(edges[name] for name in layers))


def _check_outputs(subject: Subject, images: Tensor, layers: tuple[str, ...]) -> None:
    """Check with one image that the outputs of the layers can be told apart from other values; once per kind of input.

    Raises `ShapeError` for a layer whose first axis does not hold the images, even if it is as long as the batch (an
    axis of tokens is longer than one for a single image), and `UnsupportedOperation` for one whose output shares its
    memory with a value that is overwritten later.
    """
    key = ("outputs", layers, images.shape[1:], images.dtype, images.device)
    if key in subject.layers:
        return
    views: list[str] = []

    def see(name: str, output: Tensor, is_input: bool) -> None:
        if output._is_view() and not is_input:
            views.append(name)

    plain = _observed_logits(subject, images[:1], layers, see)
    for name in views:
        own = _observed_logits(subject, images[:1], (name,), lambda _name, output, _is_input: output.clone())
        # a model that draws random numbers is refused elsewhere, with a better reason
        if not _is_close(own, plain) and _is_close(_observed_logits(subject, images[:1], (), see), plain):
            raise UnsupportedOperation(
                f"the output of layer {name!r} shares its memory with another value, and the model overwrites one of "
                "them in place, so the output has no relevance of its own; name the layer before or after it, or "
                "replace the in-place operation."
            )
    subject.layers[key] = True


def _observed_logits(subject: Subject, images: Tensor, layers: tuple[str, ...], observe: Observe) -> Tensor:
    with torch.no_grad():
        logits = subject.logits(images, within=observed(subject.model, layers, observe, len(images)))
    subject.settle(images)
    return logits


class FromLayer(Adapter):
    """A model as a function of one layer's output: of rows that hold the output and the image, both flattened.

    The image is held: it has no gradient, and reaches the logits only past the layer.
    """

    def __init__(self, model: nn.Module, layer: str, shape: torch.Size, image_shape: torch.Size) -> None:
        super().__init__(model)
        self.layer = layer
        self.shape = shape
        """Shape of the layer's output for one image."""
        self.image_shape = image_shape

    def forward(self, rows: Tensor) -> Any:
        """Run the model on the images in `rows`, (batch, value), with the layer's output replaced."""
        size = self.shape.numel()
        value = rows[:, :size].reshape(-1, *self.shape)
        images = rows[:, size:].detach().reshape(-1, *self.image_shape)

        def put_in(_name: str, output: Tensor, is_input: bool) -> Tensor:
            own = value.to(output.dtype)
            # A module that works in place returns its input, which other code may hold.
            return output.copy_(own) if is_input else own

        with observed(self.model, [self.layer], put_in, len(rows)):
            return self.model(images.clone())

    def probed(self, moved: Tensor, rows: Tensor) -> Tensor:
        """Return `moved` with the images of `rows`: the logits change with the image, which has no gradient here."""
        size = self.shape.numel()
        return torch.cat([moved[:, :size], rows[:, size:].detach()], 1)

    def cut(self, maps: Tensor) -> Tensor:
        """Return the columns of the layer's output in (…, value), in its shape."""
        return maps[..., : self.shape.numel()].reshape(*maps.shape[:-1], *self.shape)


class _Reached(BaseException):
    """Ends a forward pass at a layer; not an `Exception`, which the model's own code could catch."""


class ToLayer(Adapter):
    """A model that ends at one layer, whose output takes the place of the logits."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__(model)
        self.layer = layer
        self._is_checked = False

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Run the model up to the layer and return its output."""
        seen: list[Tensor] = []

        def stop(_name: str, output: Tensor, _is_input: bool) -> NoReturn:
            seen.append(output)
            raise _Reached

        with suppress(_Reached), observed(self.model, [self.layer], stop, None):
            self.model(*inputs, **named)
        return seen[0]

    def check(self, run: Callable[[nn.Module], Any]) -> None:
        """Run a whole pass once, since one that ends at the first call cannot tell that a module is called again.

        Raises `ModelError` unless the layer is called once, and returns a tensor of floats.
        """
        if not self._is_checked:
            with torch.no_grad(), observed(self.model, [self.layer], lambda *_: None, None):
                run(self.model)
            self._is_checked = True


def _joined(values: Tensor, images: Tensor) -> Tensor:
    return torch.cat([values.flatten(1).to(images.dtype), images.flatten(1)], 1)


def _inside(subject: Subject, layer: str, values: Tensor, images: Tensor) -> Subject:
    model = FromLayer(subject.model, layer, values.shape[1:], images.shape[1:])
    own = Subject(model, replace(subject.readout, layers=()), what=subject.what)
    own.begin()
    own.first, own.received, own.is_mixed = subject.first, subject.received, subject.is_mixed
    return own


def activations(subject: Subject, images: Tensor, layers: tuple[str, ...]) -> dict[str, Tensor | None]:
    """Return the outputs of the layers, without a graph; None for the input, whose name is empty."""
    seen: dict[str, Tensor | None] = {"": None}
    if not layers:
        return seen

    def see(name: str, output: Tensor, _is_input: bool) -> None:
        seen[name] = output.detach().clone()  # later layers may work in place

    _check_outputs(subject, images, layers)
    _observed_logits(subject, images, layers, see)
    return seen


def _output(subject: Subject, images: Tensor, layer: str) -> Tensor:
    value = activations(subject, images, (layer,))[layer]
    assert value is not None
    return value


def is_cut(subject: Subject, layer: str, values: Tensor, others: Tensor, logits: Tensor) -> bool:
    """True if a layer's output alone determines the logits: other images with these `values` have these logits."""
    with torch.no_grad():
        own = _inside(subject, layer, values, others).logits(_joined(values, others))
    return _is_close(own, logits)


def _is_close(own: Tensor, logits: Tensor) -> bool:
    allowed = 1e-9 if logits.dtype == torch.float64 else 1e-4
    return bool((own - logits).abs().max() <= allowed * logits.abs().max().clamp(min=1e-12))


M = TypeVar("M", bound=Attribution)
AttributeEach = Callable[[M, Subject, Tensor, Question], list[Outcome]]


def from_layers(attribute_each: AttributeEach[M]) -> AttributeEach[M]:
    """Extend `attribute_each` to layers: explain the model as a function of each layer's output, with the image held.

    The baseline of a method is then the layer's output for the baseline image.
    """

    @wraps(attribute_each)
    def at_layers(self: M, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        if not question.layers:
            return attribute_each(self, subject, images, question)
        by_layer = []
        # all outputs first, so that a layer without one is refused before the work at the others
        for layer, values in activations(subject, images, question.layers).items():
            if values is None:  # the input, which has no name
                continue
            inside = _inside(subject, layer, values, images)
            assert isinstance(inside.model, FromLayer)
            method = _starting_at(self, subject, layer, images)
            outcomes = attribute_each(method, inside, _joined(values, images), replace(question, layers=()))
            by_layer.append(
                [replace(one, relevance=inside.model.cut(one.relevance), activations=values) for one in outcomes]
            )
        # The caller expects outcomes ordered by target, then by layer.
        return [outcome for outcomes in zip(*by_layer, strict=True) for outcome in outcomes]

    return at_layers


def _starting_at(method: M, subject: Subject, layer: str, images: Tensor) -> M:
    """Return the method with its baseline, or its references, passed through the layers before this one."""
    baseline, references = getattr(method, "baseline", None), getattr(method, "references", None)
    if baseline is not None:
        empty = _output(subject, baseline_like(baseline, images).contiguous(), layer)
        return replace(method, baseline=_joined(empty, images))  # type: ignore[call-arg]
    if isinstance(references, Tensor):
        own = references.to(images)
        # The columns of the references' images are not used: each explained image is held.
        return replace(method, references=_joined(_output(subject, own, layer), own))  # type: ignore[call-arg]
    return method
