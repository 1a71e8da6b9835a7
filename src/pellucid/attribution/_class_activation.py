"""Base classes of class activation maps: a sum of one layer's feature maps, upsampled to the image."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.attribution import Attribution, Outcome, Subject, Target, for_each_target
from pellucid.attribution._layer_values import read_layer
from pellucid.attribution._layers import Layer
from pellucid.attribution._trials import Trials
from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.engine.input_errors import INPUT_ERRORS

__all__ = ["ClassActivation", "FeatureMaps", "check_images", "per_channel", "upsampled"]


@dataclass(frozen=True)
class FeatureMaps(Attribution):
    """A map computed from the output A of one layer, (batch, channel, …).

    The map has one value per position of the layer. It is upsampled to the image size with (bi)linear interpolation and
    is the same for all channels of the image. An explanation's `details["map"]` holds it before ReLU and interpolation;
    its `notes` name the layer.
    """

    family: ClassVar[str] = "class_activation"
    takes_several_inputs: ClassVar[bool] = False

    layer: str | None = None
    """Module whose output is used, such as `features.28`; None: the last operation with feature maps that is not
    pooling. For tokens, the last norm or sum whose tokens of the image, rather than the class token alone, reach the
    score."""
    relu: bool = True
    """Keep only positive evidence for the class."""
    reshape: Callable[[Tensor], Tensor] | None = None
    """Function from the layer's output to maps (batch, channel, …); it may only move values. None: tokens are folded to
    the plane by their positions in the image."""
    channels: Literal["auto", "first", "last"] = "auto"
    """Position of the channel axis in the layer's output: after the batch axis, or last."""

    def shown(self, plain: Tensor, images: Tensor) -> Tensor:
        """Upsample a layer's map, (batch, …), to the images, after ReLU if requested."""
        return upsampled(plain.clamp(min=0) if self.relu else plain, images)

    def notes(self, layer: Layer, values: Tensor, plain: Tensor) -> tuple[str, ...]:
        """Return notes that name the layer and the size of its maps, and mention maps that ReLU set to zero."""
        shape = "×".join(map(str, values.shape[1:]))
        notes: tuple[str, ...] = (f"feature maps from the output of {layer.name}: {shape}",)
        if self.relu and bool((plain.flatten(1).amax(1) <= 0).any()):
            notes += ("some images have no evidence for the class, so ReLU set their map to zero; try relu=False",)
        return notes

    def outcomes(self, trials: Trials, plain: Tensor, layer: Layer, values: Tensor, passes: int) -> list[Outcome]:
        """Return one outcome per target from maps, (target, batch, …), that took this many passes per image."""
        maps = torch.stack([self.shown(one, trials.images) for one in plain])
        return [
            replace(outcome, details={"map": one}, notes=self.notes(layer, values, one))
            for outcome, one in zip(trials.outcomes(maps, passes), plain, strict=True)
        ]

    def arranged(self, output: Tensor, layer: Layer, images: Tensor) -> Tensor:
        """Return a layer's output as (batch, channel, …)."""
        if self.reshape is None and layer.fold is not None:
            return layer.fold(output)
        maps = output if self.reshape is None else self._reshaped(self.reshape, output)
        if maps.ndim != images.ndim or len(maps) != len(images):
            reshaped = "" if self.reshape is None else f", reshaped to {tuple(maps.shape)},"
            raise ModelError(
                f"the output of {layer.name!r} is {tuple(output.shape)}{reshaped} for {len(images)} images; "
                f"expected maps with {images.ndim} axes, (batch, channel, …), or one token for each position of a "
                "regular grid over the image. Name another layer, or pass reshape=function, such as "
                "lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))."
            )
        if self.reshape is not None or self.channels == "first":
            return maps
        axis = -1 if self.channels == "last" else layer.axis
        if axis is None:
            raise ModelError(
                f"the channel axis of the output of {layer.name!r}, {tuple(output.shape)}, is ambiguous; "
                "pass channels='first' or channels='last'."
            )
        # Everything after this expects channels first, whatever the layer's layout.
        return maps.movedim(axis, 1)

    @staticmethod
    def _reshaped(reshape: Callable[[Tensor], object], output: Tensor) -> Tensor:
        try:
            maps = reshape(output)
        except INPUT_ERRORS as error:
            raise ConfigError(
                f"the function passed as reshape raised {type(error).__name__} for the layer's output, "
                f"{tuple(output.shape)}: {error}."
            ) from error
        if not isinstance(maps, Tensor):
            raise ConfigError(f"the function passed as reshape returned a {type(maps).__name__}; return a tensor.")
        return maps


@dataclass(frozen=True)
class ClassActivation(FeatureMaps):
    """A map computed from a layer's output A and the gradient g = ∂ score / ∂ A, both (batch, channel, …)."""

    def weigh(self, values: Tensor, gradient: Tensor) -> Tensor:
        """Compute the map, (batch, …), from the layer's output and its gradient."""
        raise NotImplementedError

    def warn(self, values: Tensor, gradient: Tensor) -> tuple[str, ...]:
        """Return caveats about these maps."""
        return ()

    @for_each_target
    def attribute_each(self, subject: Subject, images: Tensor, target: Target) -> Outcome:
        check_images(images)
        layer, read = read_layer(subject, images, target, self.layer)
        # The gradient has the layout of the values, so one reordering fits both.
        values, gradient = (self.arranged(tensor, layer, images) for tensor in (read.values, read.gradient))
        plain = self.weigh(values, gradient)
        notes = self.notes(layer, values, plain) + self.warn(values, gradient)
        return Outcome(self.shown(plain, images), read.logits, read.classes, details={"map": plain}, notes=notes)


def check_images(images: Tensor) -> None:
    """Raise `ShapeError` unless images have one to three spatial axes."""
    if not 3 <= images.ndim <= 5:
        raise ShapeError(
            f"the images are {tuple(images.shape)}; class activation maps need one to three spatial axes, "
            "(batch, channel, height, width)."
        )


def upsampled(plain: Tensor, images: Tensor) -> Tensor:
    """Upsample a layer's map to the shape of the images by (bi)linear interpolation, the same for all channels.

    >>> import torch
    >>> upsampled(torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 3, 1, 4))[0, 2]
    tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    mode = ("linear", "bilinear", "trilinear")[images.ndim - 3]
    large = F.interpolate(plain[:, None], size=images.shape[2:], mode=mode, align_corners=False)
    return large.expand_as(images).clone()  # expanded channels would share memory


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (batch, channel) so that it broadcasts to (batch, channel, …)."""
    return values.reshape(*values.shape, *(1 for _ in like.shape[2:]))
