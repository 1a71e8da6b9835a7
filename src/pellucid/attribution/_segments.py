"""Segments: the parts of an input that are shown or hidden together, and the base class of methods that use them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pellucid.attribution._baselines import is_per_image
from pellucid.attribution._explanation import Outcome
from pellucid.attribution._function import ArrayFunction
from pellucid.attribution._hidden import FromLayer, from_layers
from pellucid.attribution._local import CHECKED_MASKS, hidden, local_part
from pellucid.attribution._method import Attribution
from pellucid.attribution._subject import Subject
from pellucid.attribution._target import Question
from pellucid.attribution._trials import Sizes, Trials, sizes_of
from pellucid.attribution._upper import agree
from pellucid.core.errors import ConfigError, ShapeError, UnsupportedOperation
from pellucid.core.importing import import_optional
from pellucid.core.options import Count
from pellucid.engine.arrays import converted

__all__ = ["Segmented", "Shown", "patches_of", "shared_evenly", "superpixels_of"]

COMPACTNESS = 10.0
"""Weight of distance in the image against distance in CIELAB color, scikit-image's default."""


@dataclass(frozen=True)
class Segmented(Attribution):
    """A method that explains segments of an input: patches, superpixels, regions of a mask, or tokens.

    All channels of a pixel belong to the same segment, unless a mask or the patch size includes the channels. For token
    ids, each token is a segment. For several inputs, each input is divided into patches. At a hidden layer, for methods
    that reach layers, each channel is a segment.
    """

    family: ClassVar[str] = "perturbation"
    unit: ClassVar[str] = "logits"
    takes_tokens: ClassVar[bool] = True
    is_model_agnostic: ClassVar[bool] = True
    remedy: ClassVar[str] = "Compute in float64 (model.double() and images.double()), where rounding is far smaller."
    patches_along_axis: ClassVar[int] = 14
    """Maximum number of patches along the longest axis if no patch size is given."""

    segments: Literal["grid", "slic"] | Tensor | np.ndarray = "grid"
    """`"grid"`: patches of size `patch`. `"slic"`: superpixels of each image by scikit-image, `pellucid[superpixels]`.
    Or a mask of integers, a tensor or an array, with one label per segment, (height, width) or in the shape of an
    image."""
    patch: Sizes = None
    """Patch size in pixels for `"grid"`: one number, one per spatial axis, or one per axis with channels first. None:
    at most 14 patches (7 for `kernel_shap` and `lime`) along the longest axis, or the channels of a hidden layer."""
    superpixels: Count = 50
    """Approximate number of superpixels for `"slic"`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.segments, np.ndarray):  # such as the labels of scikit-image
            object.__setattr__(self, "segments", converted(self.segments, None, "segments"))

    def attribute_segments(self, subject: Subject, images: Tensor, question: Question, index: Tensor) -> list[Outcome]:
        """Compute the relevance of images with the same segments; `index` is the segment of each value of an image."""
        raise NotImplementedError

    @from_layers
    def attribute_each(self, subject: Subject, images: Tensor, question: Question) -> list[Outcome]:
        if not (isinstance(self.segments, str) and self.segments == "slic" and _is_image(subject)):
            return self.attribute_segments(subject, images, question, self._index(subject, images.shape[1:]))
        first, parts = subject.first, []
        for number, image in enumerate(images):
            subject.first = first + number  # errors name images by their place in the call
            which, own = slice(number, number + 1), self
            if is_per_image(baseline := getattr(self, "baseline", None), images):
                own = replace(self, baseline=baseline[which])  # type: ignore[call-arg, index]
            index = superpixels_of(image, self.superpixels)
            parts.append(own.attribute_segments(subject, images[which], question.part(which), index))
        subject.first = first
        return [Outcome.join(outcomes) for outcomes in zip(*parts, strict=True)]

    def _index(self, subject: Subject, shape: Sequence[int]) -> Tensor:
        """Return the segment of each value, counted from 0, in the shape of an image or of a row of several inputs."""
        if not _is_image(subject) and not (isinstance(self.segments, str) and self.segments == "grid"):
            raise UnsupportedOperation(
                f"segments is {_received(self.segments)}, but superpixels and masks are for a single input of floats; "
                "use segments='grid', which divides each of several inputs into patches, token ids into tokens, and a "
                "hidden layer into channels."
            )
        if isinstance(self.segments, Tensor):
            return _mask_index(self.segments, shape)
        if isinstance(layer := subject.model, FromLayer):
            return self._channels(layer)
        if (packing := subject.packing) is not None:
            rows, count = [], 0
            for part, patch in zip(packing.parts, packing.per_part(self.patch, "patch"), strict=True):
                rows.append(self._patches(part.shape or (1,), patch).flatten() + count)
                count = int(rows[-1].max()) + 1
            return torch.cat(rows)
        if _is_image(subject):
            return self._patches(shape, self.patch)
        if self.patch is not None:
            raise ConfigError(f"patch is {self.patch!r}, but each token is one segment; omit it.")
        return patches_of(shape, (1, shape[1]))

    def _channels(self, layer: FromLayer) -> Tensor:
        """Return the channel, or patch if a size is given, of each value of a layer's output and of the image."""
        channel = (1, *layer.shape[1:])
        own = patches_of(layer.shape, channel) if self.patch is None else self._patches(layer.shape, self.patch)
        # The columns of the image, which is held and so is its own baseline, are a segment that adds nothing.
        held = torch.full((layer.image_shape.numel(),), int(own.max()) + 1, device="cpu")
        return torch.cat([own.flatten(), held])

    def _patches(self, shape: Sequence[int], patch: Sizes) -> Tensor:
        """Return the patch of each value, in the shape of an image."""
        places = shape[1:] or shape  # an input without channels has only its one axis
        default = [-(-max(places) // self.patches_along_axis)] * len(places)
        return patches_of(shape, sizes_of("patch", patch, default, shape, whole=shape[0]))


def _is_image(subject: Subject) -> bool:
    """True for a single input of floats, rather than several inputs, token ids or the output of a hidden layer."""
    return subject.packing is None and subject.what != "sequence" and not isinstance(subject.model, FromLayer)


def _received(segments: str | Tensor | np.ndarray) -> str:
    return repr(segments) if isinstance(segments, str) else f"a mask of shape {tuple(segments.shape)}"


def patches_of(shape: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Return the patch of each value of an image, counted row by row.

    >>> patches_of((2, 3), (2, 2))
    tensor([[0, 0, 1],
            [0, 0, 1]])
    """
    numbers = torch.zeros(tuple(shape), dtype=torch.int64, device="cpu")
    for axis, (size, side) in enumerate(zip(shape, sides, strict=True)):
        along = (torch.arange(size, device="cpu") // side).reshape(-1, *(1 for _ in shape[axis + 1 :]))
        numbers = numbers * -(-size // side) + along
    return numbers


def _mask_index(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the labels of a mask, renumbered from 0, in the shape of an image."""
    places = tuple(shape[1:]) or tuple(shape)
    if mask.is_floating_point() or tuple(mask.shape) not in (places, (1, *places), tuple(shape)):
        raise ShapeError(
            f"segments is a mask of shape {tuple(mask.shape)} and dtype {mask.dtype} for images of shape "
            f"{tuple(shape)}; expected integer labels of shape {places}, or {tuple(shape)} for segments that do not "
            "contain all channels."
        )
    labels = mask.detach().to("cpu").unique(return_inverse=True)[1]
    return labels.expand(tuple(shape)).contiguous()


def superpixels_of(image: Tensor, count: int) -> Tensor:
    """Divide an image, (channel, height, width), into about `count` superpixels by SLIC (Achanta et al., 2012).

    The image is scaled to [0, 1] and compared in CIELAB color. Returns the superpixel of each value. Raises
    `ShapeError` for other images than gray or RGB ones, and `ConfigError` without scikit-image.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ShapeError(
            f"the images are {tuple(image.shape)}; SLIC needs (1, height, width) or (3, height, width). Pass a mask of "
            "your own as segments, or use segments='grid'."
        )
    slic = import_optional("skimage.segmentation", "segments='slic'", "superpixels").slic
    values = image.detach().to("cpu", torch.float64)
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) / (high - low if high > low else 1.0)).expand(3, -1, -1)
    labels = slic(scaled.numpy(), n_segments=count, compactness=COMPACTNESS, start_label=0, channel_axis=0)
    return _mask_index(torch.as_tensor(labels, dtype=torch.int64, device="cpu"), image.shape)


class Shown:
    """Scores of images with only some of their segments shown; hidden segments take the values of the baseline."""

    def __init__(self, trials: Trials, index: Tensor, total: int) -> None:
        """`index` is the segment of each value of an image, and `total` the number of masks to run."""
        self._trials, self._index = trials, index
        subject = trials.subject
        # The other models have no layers, or inputs without places.
        is_local = _is_image(subject) and not subject.is_mixed and not isinstance(subject.model, ArrayFunction)
        self._local = local_part(trials, index, total) if is_local else None

    def scores(self, is_shown: Tensor, update: Callable[[int], None], done: int = 0) -> Tensor:
        """Compute the scores, (target, mask, batch), of masks, (mask, segment).

        `update` receives the number of finished masks, counted from `done`.
        """
        scores = self._scores(is_shown, update, done)
        if scores is None:  # this network does something that the local part leaves out
            self._local = None
            scores = self._scores(is_shown, update, done)
        assert scores is not None
        return scores

    def _scores(self, is_shown: Tensor, update: Callable[[int], None], done: int) -> Tensor | None:
        """Compute the scores; None if those of the local part differ from those of complete passes."""
        scores, at_once = [], self._trials.at_once
        for start in range(0, len(is_shown), at_once):
            masks = is_shown[start : start + at_once]
            try:
                logits = self._complete(masks) if self._local is None else self._local.logits(masks)
            except (RuntimeError, IndexError, ValueError):
                if self._local is None:
                    raise
                return None  # the size of a recorded value depends on the image
            # Checked at the start, and again at the end: an earlier pass may have changed a recorded value.
            if self._local is not None and (start == 0 or start + at_once >= len(is_shown)):
                own = slice(-CHECKED_MASKS, None)
                if not agree(logits[own], self._complete(masks[own])):
                    return None
            scores.append(self._trials.scores_of(logits))
            update(done + start + len(masks))
        return torch.cat(scores, 1)

    def _complete(self, masks: Tensor) -> Tensor:
        return self._trials.logits_of(hidden(self._trials, masks, self._index))


def shared_evenly(values: Tensor, index: Tensor) -> Tensor:
    """Divide the value of each segment, (…, segment), evenly among its places: (…, *index.shape).

    >>> shared_evenly(torch.tensor([6.0, 1.0]), torch.tensor([[0, 0, 1]]))
    tensor([[3., 3., 1.]])
    """
    index = index.to(values.device)
    return (values / index.flatten().bincount().to(values))[..., index]
