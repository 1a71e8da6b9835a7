"""Convert the inputs that users pass: files, PIL images, arrays, tensors, token ids, or several of these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from pellucid.attribution import Display
from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.core.files import check_files
from pellucid.core.origin import origin_of
from pellucid.core.preprocessing import Preprocessing
from pellucid.core.raster import open_raster
from pellucid.data._items import Converter
from pellucid.engine.inputs import as_inputs
from pellucid.engine.model import device_of, dtype_of
from pellucid.models._adapted import Adapted

__all__ = ["Given", "Steps", "channels_of", "receive"]

Steps = Preprocessing | Callable[[Image.Image], Any]
"""Preprocessing, or a function from a PIL image to the model's input, whose normalization is unknown."""
ROUNDING = 1e-4
"""Tolerance for values outside [0, 1] due to rounding when a normalization is undone."""
RANKS: tuple[tuple[type[nn.Module], int], ...] = ((nn.Conv1d, 3), (nn.Conv2d, 4), (nn.Conv3d, 5))


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs ready to be explained, with the model as a function of them."""

    inputs: Any
    """Displayed images (batch, channel, height, width), or other inputs as the model takes them."""
    model: nn.Module
    display: Display
    notes: tuple[str, ...]


def receive(
    model: nn.Module, images: Any, steps: Steps, *, is_explicit: bool = False, reads_logits: bool = True
) -> Given:
    """Convert what a user passes as images.

    Files and PIL images are preprocessed by `steps`. Arrays and tensors are the model's input, which `steps`
    denormalizes for display. `is_explicit` is True if the user gave the normalization. With `reads_logits`, the logits
    of outputs with that attribute are read.

    Raises `DataError` for files that cannot be read, and `ShapeError` for other invalid inputs.
    """
    if (pictures := _pictures_in(images)) is not None:
        tensors, titles = _read(pictures, steps, channels_of(model, steps))
        inputs = tensors.to(device_of(model), dtype_of(model))
        return _of_pictures(model, inputs, titles, steps, reads_logits)
    inputs = _arrays(model, images)
    is_images = isinstance(inputs, Tensor) and inputs.is_floating_point() and inputs.ndim == 4
    if not is_images or not inputs.numel():  # the analyzer refuses empty batches
        if is_explicit and not is_images:
            raise ConfigError(
                "mean, std and preprocess are for images, (batch, channel, height, width); leave them out."
            )
        return Given(inputs, model, Display(), ())
    if not isinstance(steps, Preprocessing):
        raise ConfigError(
            "preprocess is for files and PIL images; tensors are passed to the model as they are, so leave it out."
        )
    return _of_tensor(model, inputs, steps, reads_logits)


def _of_pictures(model: nn.Module, inputs: Tensor, titles: tuple[str, ...], steps: Steps, reads_logits: bool) -> Given:
    if not isinstance(steps, Preprocessing):
        name = getattr(steps, "__name__", type(steps).__name__)
        note = f"The normalization in {name} is unknown, so relevance is per value of the model's input"
        own = Adapted(model, Preprocessing(), reads_logits=reads_logits)
        return Given(inputs, own, Display(titles), (note,))
    is_unknown = steps.mean is None and not steps.source and not _takes_pixels(model)
    note = (
        "The model's normalization is unknown, so it receives pixels from 0 to 1; pass mean and std if it was "
        "trained on normalized images"
    )
    own = Adapted(model, steps, reads_logits=reads_logits)
    return Given(inputs, own, Display(titles, (0.0, 1.0)), (note,) if is_unknown else ())


def _of_tensor(model: nn.Module, inputs: Tensor, steps: Preprocessing, reads_logits: bool) -> Given:
    shown = steps.displayed(inputs)
    own = Adapted(model, steps, reads_logits=reads_logits)
    low, high = float(shown.min()), float(shown.max())
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return Given(shown if steps.mean is None else shown.clamp(0, 1), own, Display(scale=(0.0, 1.0)), ())
    note = "The normalization of these images is unknown; pass mean and std to display them correctly"
    if steps.mean is not None:
        note = f"After undoing the normalization, pixels range from {low:.3g} to {high:.3g}, not from 0 to 1"
    # the analyzer reports NaN and infinities
    return Given(shown, own, Display(), (note,))


def _takes_pixels(model: nn.Module) -> bool:
    """Return True for models that pellucid has trained or built, which take pixels from 0 to 1."""
    return isinstance(model, Adapted) or origin_of(model) is not None


# --- pictures --------------------------------------------------------------------------------------------------


def _pictures_in(images: Any) -> "list[Path | Image.Image] | None":
    """Return the files and PIL images in the user's input; None if it holds arrays.

    Raises `DataError` for a mixture, and for an empty list.
    """
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    if not isinstance(images, list | tuple):
        return None
    if not images:
        raise DataError("got an empty list of images; pass at least one.")
    are = [isinstance(image, str | Path | Image.Image) for image in images]
    if not any(are):
        return None
    if not all(are):
        other = type(images[are.index(False)]).__name__
        raise DataError(f"got a list of pictures and {other}s; pass files and PIL images, or tensors, but not both.")
    return [Path(image).expanduser() if isinstance(image, str | Path) else image for image in images]


def _read(
    pictures: "Sequence[Path | Image.Image]", steps: Steps, channels: int | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return preprocessed images (batch, channel, height, width) and their titles."""
    check_files([picture for picture in pictures if isinstance(picture, Path)])
    if channels not in (None, 1, 3):
        raise DataError(f"the model takes {channels} channels, but image files have 1 or 3; pass a tensor.")
    convert = Converter(steps, channels, False)
    titles = tuple(
        picture.name if isinstance(picture, Path) else f"image {number}" for number, picture in enumerate(pictures)
    )
    tensors = []
    for picture, title in zip(pictures, titles, strict=True):
        pixels = convert(_opened(picture) if isinstance(picture, Path) else picture, title)
        tensors.append(pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels)
    sizes = {title: tuple(tensor.shape) for title, tensor in zip(titles, tensors, strict=True)}
    if len({tensor.shape for tensor in tensors}) > 1:
        listed = ", ".join(f"{title} {size}" for title, size in sizes.items())
        raise DataError(
            f"the images differ in shape: {listed}; pass preprocess= with a crop, or explain them one by one."
        )
    is_single = len(titles) == 1 and not isinstance(pictures[0], Path)
    return torch.stack(tensors), () if is_single else titles


def _opened(path: Path) -> Image.Image:
    try:
        picture = open_raster(path)
        picture.load()
    except (UnidentifiedImageError, DataError, OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise DataError(f"{path} cannot be read as an image: {reason}.") from error
    return picture


def channels_of(model: nn.Module, steps: Steps) -> int | None:
    """Return the number of channels that the model takes; None if it is unknown.

    >>> channels_of(nn.Sequential(nn.Conv2d(1, 8, 3)), Preprocessing())
    1
    """
    first = _first_layer(model)
    if isinstance(first, nn.Conv2d):
        return first.in_channels
    if (origin := origin_of(model)) is not None:
        return origin.image_shape[0]
    if isinstance(first, nn.Linear) and isinstance(steps, Preprocessing):
        size = steps.crop or (steps.resize if isinstance(steps.resize, tuple) else None)
        counts = [count for count in (1, 3) if size and first.in_features == count * size[0] * size[1]]
        return counts[0] if counts else None
    return None


def _first_layer(model: nn.Module) -> nn.Module | None:
    """Return the first layer that fixes the shape of its input, in the order of registration."""
    kinds = (*(kind for kind, _ in RANKS), nn.Linear)
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


# --- arrays ----------------------------------------------------------------------------------------------------


def _arrays(model: nn.Module, images: Any) -> Any:
    """Return arrays and tensors as the model takes them: with a batch axis, on its device."""
    if isinstance(images, list) and images and all(isinstance(image, Tensor | np.ndarray) for image in images):
        images = _stacked(model, images)
    if isinstance(images, Mapping | tuple):
        return images
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        raise ShapeError(
            f"got an array of bytes, {images.shape}; pass PIL.Image.fromarray(array) for an image, or the model's "
            "input as floats."
        )
    if isinstance(images, Tensor) and images.dtype == torch.uint8 and images.ndim > 2:
        raise ShapeError(
            f"got a tensor of bytes, {tuple(images.shape)}; pass a PIL image for a picture, or the model's input as "
            "floats, such as images.float() / 255, normalized if the model expects it."
        )
    inputs = as_inputs(images, model)
    if not isinstance(inputs, Tensor):
        return images
    return _with_batch_axis(model, inputs).to(device_of(model))


def _stacked(model: nn.Module, images: Sequence[Any]) -> Tensor:
    """Return a batch of examples, each with or without a batch axis."""
    tensors = [as_inputs(image, model) for image in images]
    rank = _rank(model)
    # an example with a batch axis is accepted as well
    parts = [one if rank is not None and one.ndim == rank else one[None] for one in tensors if isinstance(one, Tensor)]
    if len({part.shape[1:] for part in parts}) > 1:
        listed = ", ".join(str(tuple(part.shape[1:])) for part in parts)
        raise ShapeError(f"the images differ in shape: {listed}; explain them one by one.")
    return torch.cat(parts)


def _rank(model: nn.Module) -> int | None:
    """Return the number of axes of the model's input, with the batch axis; None if it is unknown."""
    first = _first_layer(model)
    return next((rank for kind, rank in RANKS if isinstance(first, kind)), None)


def _with_batch_axis(model: nn.Module, x: Tensor) -> Tensor:
    """Add the batch axis, and the channel axis of a gray image, where the first layer shows that they are missing."""
    if not x.is_floating_point():
        return x[None] if x.ndim == 1 else x
    rank, first = _rank(model), _first_layer(model)
    channels = getattr(first, "in_channels", None)
    if rank == 4 and channels in (1, 3) and x.ndim in (3, 4) and x.shape[-1] == channels != x.shape[-3]:
        order = "(2, 0, 1)" if x.ndim == 3 else "(0, 3, 1, 2)"
        raise ShapeError(
            f"got images of shape {tuple(x.shape)} with the channels last; the model takes {channels} along axis 1. "
            f"Move them with torch.as_tensor(images).permute{order}."
        )
    if rank is not None and x.ndim == rank - 1:
        return x[None]
    if rank is not None and x.ndim == rank - 2 and channels == 1:
        return x[None, None]
    if rank is None and isinstance(first, nn.Linear) and x.numel() == first.in_features and x.ndim in (1, 2, 3):
        return x if x.ndim > 1 and len(x) == 1 else x[None]
    return x
