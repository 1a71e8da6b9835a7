"""CAM: the last maps, weighted by the linear layer behind their mean (Zhou et al., 2016)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pellucid.attribution import METHODS
from pellucid.attribution._class_activation import check_images, drawn_up
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import UnsupportedOperation
from pellucid.engine.recorder import BatchMixed
from pellucid.engine.relevance import record
from pellucid.engine.tape import Addition, Affine, Move, Node, Tape


@METHODS.register("cam")
@dataclass(frozen=True)
class Cam(Attribution):
    """R = Σₖ wₖ Aₖ, where score = Σₖ wₖ · mean of Aₖ over its places + a constant (equation 2 of the paper).

    The network must end so: in global average pooling and linear operations, however they are written. That is proven
    by its recording (nothing but moves and affine operations stands behind A, and all places of a map weigh the same);
    `UnsupportedOperation` says what was found instead. The map is drawn up to the image's size with (bi)linear
    interpolation and given to all channels alike. `details["map"]` of an explanation holds it at the layer's own size;
    its mean and the constant make the logit.
    """

    family: ClassVar[str] = "class_activation"
    answers: ClassVar[str] = "which regions of the last maps speak for and against the class"

    relu: bool = False
    """Keep only what speaks for the class."""

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        check_images(images)
        subject.guard(images)
        tape = record(subject.model, images, output=subject.output, unwrap_softmax=subject.unwrap_softmax)
        subject.compare(images, tape.logits)
        with torch.no_grad():
            values, slope, place = _pooled(tape, target.slope(tape.logits), images)
            plain = (values * slope).sum(1)
        relevance = drawn_up(plain.clamp(min=0) if self.relu else plain, images)
        notes = (f"the maps are those that {place} takes: {'×'.join(map(str, values.shape[1:]))}",)
        return Outcome(relevance, tape.logits, target.classes(tape.logits), details={"map": plain}, notes=notes)


def _pooled(tape: Tape, slope: Tensor, images: Tensor) -> tuple[Tensor, Tensor, str]:
    """The maps that are pooled, (batch, channel, …), the weight of each one's mean, and the operation that takes them.

    Walks back from the logits with `slope`, the slope of the score, as long as the way is affine.
    """
    makers = {node.output: node for node in tape.nodes}
    slot, taker = tape.output, "the model's end"
    value: Tensor | None = tape.logits
    while not (_has_places(slope, images) and value is not None):
        node = makers.get(slot)
        if node is None:
            raise UnsupportedOperation(f"cam needs maps that are pooled, and the model has none; {WAY_OUT}")
        if len(images) > 1 and node.batch_axis != 0:
            raise BatchMixed
        place = _only_input(node)
        back = node.pullback(slope)[place]
        assert back is not None
        slot, slope, taker = node.inputs[place] or 0, back, node.place
        value = images if slot == tape.image else _output(makers[slot])
    return *_weighed(value, slope, taker), taker


WAY_OUT = "choose 'grad_cam', which needs no such end."
"""What a refusal advises."""


def _has_places(slope: Tensor, images: Tensor) -> bool:
    return slope.ndim == images.ndim and sum(size > 1 for size in slope.shape[1:]) > 1


def _only_input(node: Node) -> int:
    """The place of a node's only input that depends on the image; `UnsupportedOperation` where it is not affine."""
    places = [place for place, slot in enumerate(node.inputs) if slot is not None]
    is_affine = isinstance(node, Move | Addition) or (isinstance(node, Affine) and node.replay is None)
    if not is_affine or len(places) != 1:
        raise UnsupportedOperation(
            "cam needs a network that ends in global average pooling and a linear layer, with nothing but moves and "
            f"affine operations from there on; found {node.place} before any pooling, seen from the logits; {WAY_OUT}"
        )
    return places[0]


def _output(node: Node) -> Tensor | None:
    """What a node puts out; None for moves, behind whose input to look."""
    return getattr(node, "z", None) if hasattr(node, "z") else getattr(node, "y", None)


def _weighed(value: Tensor, slope: Tensor, taker: str) -> tuple[Tensor, Tensor]:
    """Maps and weights (batch, channel, …), where all places of a map have the same slope."""
    for axis in (1, -1):
        slopes = slope.movedim(axis, 1)
        means = slopes.flatten(2).mean(2).reshape(*slopes.shape[:2], *(1 for _ in slopes.shape[2:]))
        allowed = slope.abs().max() * (1e-9 if slope.dtype == torch.float64 else 1e-4)
        if bool(((slopes - means).abs() <= allowed).all()):
            return value.movedim(axis, 1), means * slopes[0, 0].numel()
    raise UnsupportedOperation(
        "cam needs a network that ends in global average pooling and a linear layer; "
        f"found {taker}, which weighs the places of a map {tuple(value.shape[1:])} differently; {WAY_OUT}"
    )
