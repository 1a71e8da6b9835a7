"""CAM: the last feature maps, weighted by the linear layer after global average pooling (Zhou et al., 2016)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS, Attribution, Outcome, Subject, Target, for_each_target
from pellucid.attribution._class_activation import check_images, upsampled
from pellucid.attribution._places import Fold, last_tokens
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.axes import BatchMixed
from pellucid.engine.tape import Addition, Affine, Move, Node, Tape


@METHODS.register("cam")
@dataclass(frozen=True)
class Cam(Attribution):
    """R = Σₖ wₖ Aₖ, where score = Σₖ wₖ · mean of Aₖ over its positions + a constant (equation 2 of the paper).

    The network must end in global average pooling and linear operations, in any implementation. The recorded forward
    pass is checked for this: only moves and affine operations follow A, and all positions of a map have the same
    weight; otherwise `UnsupportedOperation` names the operation at fault. The map is upsampled to the image size with
    (bi)linear interpolation and is the same for all channels. An explanation's `details["map"]` holds it at the layer's
    resolution; its mean plus the constant is the logit.
    """

    family: ClassVar[str] = "class_activation"
    takes_several_inputs: ClassVar[bool] = False
    answers: ClassVar[str] = "which regions of the last feature maps are evidence for or against the class"

    relu: bool = False
    """Keep only positive evidence for the class."""

    @for_each_target
    def attribute_each(self, subject: Subject, images: Tensor, target: Target) -> Outcome:
        check_images(images)
        tape = subject.record(images)
        with torch.no_grad():
            values, slope, place = _pooled(tape, target.slope(tape.logits), images, _Tokens(subject, images))
            plain = (values * slope).sum(1)
        relevance = upsampled(plain.clamp(min=0) if self.relu else plain, images)
        notes = (f"feature maps from the input of {place}: {'×'.join(map(str, values.shape[1:]))}",)
        return Outcome(relevance, tape.logits, target.classes(tape.logits), details={"map": plain}, notes=notes)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Folds pooled tokens to the plane."""

    subject: Subject
    images: Tensor

    def fold(self, slope: Tensor) -> Fold | None:
        """Return how to fold the tokens that the network pools, by their slope; None if it uses other tokens."""
        with torch.enable_grad():
            found = last_tokens(self.subject, self.images[:1])
        if found is None or found.shape[1:] != slope.shape[1:]:
            return None
        # a class token has a slope, too, but no position
        is_whole = torch.isclose(found.fold(slope).abs().sum(), slope.abs().sum())
        return found.fold if bool(is_whole) else None


def _pooled(tape: Tape, slope: Tensor, images: Tensor, tokens: _Tokens) -> tuple[Tensor, Tensor, str]:
    """Return the pooled maps, (batch, channel, …), the weight of each map's mean, and the operation that uses them.

    Backpropagates `slope`, the slope of the score, from the logits for as long as the operations are affine.
    """
    producers = {node.output: node for node in tape.nodes}
    slot, consumer = tape.output, "the model's output"
    value: Tensor | None = tape.logits
    while not (_is_spatial(slope, images) and value is not None):
        node = producers.get(slot)
        if node is None:
            raise UnsupportedOperation(f"cam needs pooled feature maps, but the model has none; {WAY_OUT}")
        if len(images) > 1 and node.batch_axis != 0:
            raise BatchMixed
        place = _only_input(node)
        back = node.pullback(slope)[place]
        assert back is not None
        slot, slope, consumer = node.inputs[place] or 0, back, node.place
        # The image is no output of an operation, so it has no producer.
        value = images if slot == tape.image else _output(producers[slot])
        is_row = slope.ndim == 3 < images.ndim and sum(size > 1 for size in slope.shape[1:]) > 1
        if is_row and value is not None and (fold := tokens.fold(slope)) is not None:
            value, slope = fold(value), fold(slope)
    return *_maps_and_weights(value, slope, consumer), consumer


WAY_OUT = "choose 'grad_cam', which works with any head."
"""Remedy at the end of each error."""


def _is_spatial(slope: Tensor, images: Tensor) -> bool:
    return slope.ndim == images.ndim and sum(size > 1 for size in slope.shape[1:]) > 1


def _only_input(node: Node) -> int:
    """Index of a node's only image-dependent input; `UnsupportedOperation` if the node is not affine in it."""
    places = [place for place, slot in enumerate(node.inputs) if slot is not None]
    is_affine = isinstance(node, Move | Addition) or (isinstance(node, Affine) and node.replay is None)
    if not is_affine or len(places) != 1:
        raise UnsupportedOperation(
            "cam needs a network that ends in global average pooling and a linear layer, followed only by moves and "
            f"affine operations; going back from the logits, found {node.place} before any pooling; {WAY_OUT}"
        )
    return places[0]


def _output(node: Node) -> Tensor | None:
    """Output of a node; None for moves, which do not store it, so the search continues at their input."""
    return getattr(node, "z", None) if hasattr(node, "z") else getattr(node, "y", None)


def _maps_and_weights(value: Tensor, slope: Tensor, consumer: str) -> tuple[Tensor, Tensor]:
    """Return maps and weights (batch, channel, …), if all positions of a map have the same slope."""
    for axis in (1, -1):  # channels first or last
        slopes = slope.movedim(axis, 1)
        means = slopes.flatten(2).mean(2).reshape(*slopes.shape[:2], *(1 for _ in slopes.shape[2:]))
        # Pooling gives all positions the same slope up to rounding.
        allowed = slope.abs().max() * (1e-9 if slope.dtype == torch.float64 else 1e-4)
        if bool(((slopes - means).abs() <= allowed).all()):
            # The weight of a map's mean is the sum of the slopes over its positions.
            return value.movedim(axis, 1), means * slopes[0, 0].numel()
    raise UnsupportedOperation(
        "cam needs a network that ends in global average pooling and a linear layer; "
        f"found {consumer}, which weights the positions of a map {tuple(value.shape[1:])} differently; {WAY_OUT}"
    )
