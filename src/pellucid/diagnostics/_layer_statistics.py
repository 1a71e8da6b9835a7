"""Statistics of every layer: activations, dead and saturated units, effective rank, and gradient norms."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.core.errors import ConfigError, ShapeError, UnknownName
from pellucid.core.isolation import isolated
from pellucid.core.options import Range, check_argument
from pellucid.diagnostics._arguments import check_tensors, holds_integers
from pellucid.diagnostics._effective_rank import effective_rank
from pellucid.diagnostics._layer_rows import LayerRow, LayerStatistics
from pellucid.diagnostics._layer_survey import LayerPlace, Survey, layer_output, survey
from pellucid.diagnostics._layer_tally import LayerTally
from pellucid.engine.derivatives import missing_derivative
from pellucid.engine.input_errors import INPUT_ERRORS, raise_input_error
from pellucid.engine.inputs import check_is_model
from pellucid.engine.layer_calls import LayerCall, watched_layers
from pellucid.engine.model import Network, check_model, device_of, dtype_of, frozen, images_per_chunk, unwrap
from pellucid.engine.outputs import Chooser, check_chooser, choose_output
from pellucid.engine.table import tensors_in

__all__ = ["layer_statistics"]

IMAGES_AT_ONCE = 64
"""Maximum number of images per pass; the gradients of all layers are in memory at once."""
SATURATED_SHARE = 0.95
"""Share of inputs at which the function of a saturated unit is flat, at least."""


def layer_statistics(
    model: Network,
    images: Tensor,
    labels: Tensor | None = None,
    layers: Sequence[str] | str | int | None = None,
    *,
    output: Chooser = None,
) -> LayerStatistics:
    """Measure every layer of a model: activations, dead and saturated units, effective rank, and gradient norms.

    Layers are the modules with weights and the activation functions, whether modules or functions such as `F.relu`.
    `images` (batch, …) are the model's inputs. With `labels` (batch,), class indices, gradients of the cross-entropy
    are measured too. `layers` limits the result to layers of these names, or to a number of layers spread evenly
    over the depth. `output` selects the logits of a model with several outputs, as for `create_analyzer`. The model is
    used in eval mode and left unchanged, with `.grad` of its weights. Each image counts equally, and batches make no
    difference: a model that mixes the images of a batch receives them one by one.

    Raises `ShapeError` for images or labels that do not fit, `UnknownName` for unknown layers, `ConfigError` for no
    images or layers, and `UnsupportedOperation` for models whose layers cannot be read, or whose batch norms use
    statistics of the batch.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].bias.copy_(torch.tensor([1.0, 1.0, -9.0]))
    >>> statistics = layer_statistics(model, torch.rand(50, 4), torch.arange(50) % 2)
    >>> [row.title for row in statistics.rows], statistics["1"].dead_units
    (['0 (Linear)', '1 (ReLU)', '2 (Linear)'], (2,))
    """
    model = unwrap(model)
    check_is_model(model)
    _check_inputs(images, labels)
    if isinstance(layers, int):
        check_argument("layer_statistics", "layers", layers, Annotated[int, Range(1)])
    check_chooser(output)
    check_model(model, "layer")
    with isolated(), frozen(model) as network:
        kind = dtype_of(network, images.dtype) if images.is_floating_point() else images.dtype
        images = images.detach().to(device_of(network), kind)
        try:
            found = survey(network, images)
        except INPUT_ERRORS as error:
            raise_input_error(error, network, f"{tuple(images.shape)} {images.dtype}", images)
        if labels is not None or output is not None:
            logits = choose_output(found.outputs, output)
            labels = None if labels is None else _checked_labels(labels.to(images.device, torch.int64), logits)
        chosen = _chosen(found, layers)
        tallies = {place.key: LayerTally(place.axis, len(images)) for place in chosen}
        chunk = 1 if _mixes_images(network, images, found.outputs) else images_per_chunk(network, images)
        parts = images.split(min(chunk, IMAGES_AT_ONCE))
        loss, gradients = _measure(network, parts, labels, tallies, output)
    is_whole = {key for key, tally in tallies.items() if tally.seen == len(images)}
    left_out = dict(found.left_out) | {
        place.name: "it does not return one output for each image" for place in chosen if place.key not in is_whole
    }
    rows = tuple(
        _row(place, tallies[place.key], gradients, has_gradients=labels is not None)
        for place in chosen
        if place.key in is_whole
    )
    return LayerStatistics(
        rows, len(images), labels is not None, loss, len(found.places), attention=found.attention, left_out=left_out
    )


Gradients = Mapping[nn.Parameter, Tensor]


def _check_inputs(images: Tensor, labels: Tensor | None) -> None:
    check_tensors(images=images, **({} if labels is None else {"labels": labels}))
    if images.ndim < 1 or not len(images):
        raise ConfigError(f"layer_statistics needs at least one image, got shape {tuple(images.shape)}.")
    if labels is not None and (labels.shape != images.shape[:1] or not holds_integers(labels)):
        raise ShapeError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype} for {len(images)} images; pass one class "
            "index per image, or no labels to leave out the gradients."
        )


def _checked_labels(labels: Tensor, logits: Tensor) -> Tensor:
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ShapeError(
            f"the model returns {tuple(logits.shape)} for one image; gradients need logits (batch, class). Pass no "
            "labels to leave out the gradients, or select the logits with output=."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise ShapeError(
            f"the labels range from {low} to {high}; expected 0 to {logits.shape[1] - 1}, since the model has "
            f"{logits.shape[1]} classes."
        )
    return labels


def _chosen(found: Survey, layers: Sequence[str] | str | int | None) -> list[LayerPlace]:
    if layers is None:
        return list(found.places)
    if isinstance(layers, int):
        count = min(layers, len(found.places))
        return [found.places[round(n * (len(found.places) - 1) / max(count - 1, 1))] for n in range(count)]
    wanted = [layers] if isinstance(layers, str) else list(layers)
    if not wanted:
        raise ConfigError("layers is empty; name at least one layer, or omit the argument for all of them.")
    known = {place.name: place for place in found.places}
    for name in wanted:
        if name not in known:
            raise UnknownName("layer", name, known)
    return [place for place in found.places if place.name in set(wanted)]


def _mixes_images(model: nn.Module, images: Tensor, alone: Any) -> bool:
    """True if the outputs for the first image in a batch of two differ from those for the image `alone`."""
    if len(images) < 2:
        return False
    with torch.no_grad():
        both = _floats(model(images[:2].clone()))
    pairs = [(own[:1], one) for own, one in zip(both, _floats(alone), strict=True) if one.numel() and one.ndim]
    # outputs that cannot be compared may come from a model that mixes images
    return not pairs or any(_differ(own, one) for own, one in pairs)


def _floats(outputs: Any) -> list[Tensor]:
    return [one.detach() for one in tensors_in(outputs) if one.is_floating_point()]


def _differ(own: Tensor, one: Tensor) -> bool:
    if own.shape != one.shape:
        return True
    if not bool(one.isfinite().all()):
        return False
    return not float((own - one).abs().max()) <= torch.finfo(one.dtype).eps ** 0.5 * float(one.abs().max())


def _measure(
    model: nn.Module,
    parts: Sequence[Tensor],
    labels: Tensor | None,
    tallies: Mapping[tuple[str, str, int], LayerTally],
    output: Chooser,
) -> tuple[float, Gradients]:
    """Fill the tallies batch by batch; return the mean loss and the gradients of the weights."""
    images = sum(map(len, parts))
    counts: dict[tuple[str, str], int] = {}

    def note(call: LayerCall) -> None:
        number = counts.get((call.path, call.kind), 0)
        counts[call.path, call.kind] = number + 1
        tally = tallies.get((call.path, call.kind, number))
        value = None if tally is None else layer_output(call, images=size)
        if tally is None or value is None:
            return
        tally.add(value, call.function, call.input)
        if value.requires_grad:
            # registered now, so that it sees the value before a later function changes it in place
            value.register_hook(_adder(tally))

    weights = (
        [one for one in dict.fromkeys(model.parameters()) if one.is_floating_point()] if labels is not None else []
    )
    for weight in weights:  # `frozen` restores it
        weight.requires_grad_(True)
    sums = {weight: torch.zeros_like(weight) for weight in weights}
    loss, start = 0.0, 0
    with torch.set_grad_enabled(labels is not None):
        for part in parts:
            counts.clear()
            size = len(part)
            with watched_layers(model, note):
                # a copy, because the model may work in place
                outputs = model(part.clone())
            if labels is not None:
                logits = choose_output(outputs, output)
                own = F.cross_entropy(logits, labels[start : start + size], reduction="sum")
                loss += float(own.detach())
                for weight, gradient in zip(weights, _gradients(own, weights), strict=True):
                    sums[weight] += 0 if gradient is None else gradient / images
            start += size
    return (loss / images if labels is not None else math.nan), sums


def _gradients(loss: Tensor, weights: Sequence[nn.Parameter]) -> Sequence[Tensor | None]:
    if not loss.requires_grad:  # a model without weights
        return [None] * len(weights)
    try:
        return torch.autograd.grad(loss, weights, allow_unused=True)
    except RuntimeError as error:
        raise missing_derivative(error, "pass no labels, to leave out the gradients.") or error from error


def _adder(tally: LayerTally) -> Callable[[Tensor], None]:
    def add(gradient: Tensor) -> None:
        tally.add_gradient(gradient)

    return add


def _row(place: LayerPlace, tally: LayerTally, gradients: Gradients, *, has_gradients: bool) -> LayerRow:
    outputs = math.prod(place.shape)
    is_finite = tally.nonfinite == 0
    norm = math.nan
    if has_gradients and place.requires_grad:
        norm = math.sqrt(tally.gradient_squares / tally.images)
    samples = torch.cat(tally.samples)
    own = [gradients[one] for one in place.parameters if one in gradients]
    return LayerRow(
        name=place.name,
        kind=place.kind,
        is_activation=place.is_activation,
        shape=place.shape,
        units=place.shape[place.axis - 1],
        mean=tally.mean if is_finite else math.nan,
        std=math.sqrt(tally.squares / max(tally.values, 1)) if is_finite else math.nan,
        quantiles=tally.quantiles,
        minimum=tally.minimum,
        maximum=tally.maximum,
        zeros=tally.zeros / max(tally.values, 1),
        nonfinite=tally.nonfinite,
        dead_units=_indices(None if tally.is_alive is None else ~tally.is_alive) or (),
        saturated_units=_indices(_saturated(tally)),
        without_gradient=_unreached(place, tally) if has_gradients else None,
        effective_rank=effective_rank(samples) if is_finite else math.nan,
        rank_bound=max(min(len(samples) - 1, samples.shape[1]), 0),
        gradient_norm=norm,
        gradient_rms=norm / math.sqrt(outputs) if outputs else math.nan,
        nonfinite_gradients=tally.gradient_nonfinite,
        weight_norm=_norm([one.detach() for one in place.parameters]),
        weight_gradient_norm=_norm(own),
    )


def _saturated(tally: LayerTally) -> Tensor | None:
    if tally.flat is None or tally.is_alive is None:
        return None
    inputs = tally.values / len(tally.is_alive)
    return tally.flat >= SATURATED_SHARE * inputs


def _unreached(place: LayerPlace, tally: LayerTally) -> int | None:
    if not place.requires_grad:
        return None
    if tally.has_gradient is None:  # the loss does not depend on the layer
        return None if tally.is_alive is None else len(tally.is_alive)
    return int((~tally.has_gradient).sum())


def _indices(mask: Tensor | None) -> tuple[int, ...] | None:
    return None if mask is None else tuple(mask.nonzero()[:, 0].tolist())


def _norm(tensors: Sequence[Tensor]) -> float:
    """Return the norm of all entries together; NaN without tensors."""
    if not tensors:
        return math.nan
    return math.sqrt(sum(float(torch.linalg.vector_norm(one.float())) ** 2 for one in tensors))
