"""What class activation maps have in common: the maps of one layer, weighted and summed, drawn up to the image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from pellucid.attribution._explanation import Outcome
from pellucid.attribution._layers import Layer, find_layer, read_layer
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Target
from pellucid.core.errors import ModelError, ShapeError

__all__ = ["ClassActivation", "check_images", "drawn_up", "per_channel"]


@dataclass(frozen=True)
class ClassActivation(Attribution):
    """A map made of a layer's output A and the gradient g = ∂ score / ∂ A, both (batch, channel, …).

    The map, of one number for each place of the layer, is drawn up to the image's size with (bi)linear interpolation
    and given to all channels of the image alike. `details["map"]` of an explanation holds it as it is, before ReLU and
    interpolation, and `notes` tells which layer it is of.
    """

    family: ClassVar[str] = "class_activation"

    layer: str | None = None
    """The module whose output is taken, such as `features.28`; None: the last operation that puts out maps, poolings
    apart."""
    relu: bool = True
    """Keep only what speaks for the class."""
    reshape: Callable[[Tensor], Tensor] | None = None
    """From the layer's output to maps (batch, channel, …), for token models; it must only move values."""
    channels: Literal["auto", "first", "last"] = "auto"
    """Where the layer's output has its channels: behind the batch, or at the end."""

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        """(batch, …): the map, from the layer's output and its gradient."""
        raise NotImplementedError

    def warn(self, values: Tensor, gradient: Tensor) -> tuple[str, ...]:
        """What a reader must know of these maps."""
        return ()

    def attribute(self, subject: Subject, images: Tensor, target: Target, *, is_certified: bool) -> Outcome:
        check_images(images)
        layer = find_layer(subject, images, self.layer)
        read = read_layer(subject, images, target, layer)
        values, gradient = (self._arranged(tensor, layer, images) for tensor in (read.values, read.gradient))
        plain = self.weigh(values, gradient)
        relevance = drawn_up(plain.clamp(min=0) if self.relu else plain, images)
        notes: tuple[str, ...] = (f"the maps are the output of {layer.name}: {'×'.join(map(str, values.shape[1:]))}",)
        notes += self.warn(values, gradient)
        if self.relu and bool((plain.flatten(1).amax(1) <= 0).any()):
            notes += ("nowhere does the map of some images speak for the class, so that ReLU left nothing; relu=False",)
        return Outcome(relevance, read.logits, read.classes, details={"map": plain}, notes=notes)

    def _arranged(self, output: Tensor, layer: Layer, images: Tensor) -> Tensor:
        """A layer's output as (batch, channel, …)."""
        maps = output if self.reshape is None else self.reshape(output)
        if maps.ndim != images.ndim or len(maps) != len(images):
            came = f"{tuple(output.shape)}" + ("" if self.reshape is None else f", reshaped to {tuple(maps.shape)},")
            raise ModelError(
                f"the output of {layer.name!r} is {came} for {len(images)} images; expected maps with {images.ndim} "
                "axes, (batch, channel, …). Name a layer that puts out maps, or, for tokens, pass reshape=function, "
                "such as lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))."
            )
        if self.reshape is not None or self.channels == "first":
            return maps
        axis = -1 if self.channels == "last" else layer.axis
        if axis is None:
            raise ModelError(
                f"which axis of the output of {layer.name!r}, {tuple(output.shape)}, holds its channels "
                "cannot be told; pass channels='first' or channels='last'."
            )
        return maps.movedim(axis, 1)


def check_images(images: Tensor) -> None:
    """`ShapeError` unless images have one to three spatial axes."""
    if not 3 <= images.ndim <= 5:
        raise ShapeError(
            f"the images are {tuple(images.shape)}; class activation maps need one to three spatial axes, "
            "(batch, channel, height, width)."
        )


def drawn_up(plain: Tensor, images: Tensor) -> Tensor:
    """A map of a layer in the shape of the images, by (bi)linear interpolation, the same for all channels.

    >>> import torch
    >>> drawn_up(torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 3, 1, 4))[0, 2]
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    mode = ("linear", "bilinear", "trilinear")[images.ndim - 3]
    large = F.interpolate(plain[:, None], size=images.shape[2:], mode=mode, align_corners=False)
    return large.expand_as(images).clone()


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """(batch, channel) in a shape that broadcasts to (batch, channel, …)."""
    return values.reshape(*values.shape, *(1 for _ in like.shape[2:]))
