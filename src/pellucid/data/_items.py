"""Split what a data set or loader yields into images and labels, and convert the images."""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from pellucid.core.errors import DataError, PellucidError
from pellucid.core.files import is_shortage
from pellucid.core.preprocessing import Preprocessing
from pellucid.data._lazy import Item
from pellucid.data._pictures import gray_or_rgb, picture_pixels

__all__ = [
    "IMAGE_KEYS",
    "LABEL_KEYS",
    "Converter",
    "class_index",
    "dense_tensor",
    "label_of",
    "separate",
    "split_batch",
]

IMAGE_KEYS = ("pixel_values", "image", "images", "img", "x", "input", "inputs")
"""Keys of the image in a dictionary, in the order in which they are tried."""
LABEL_KEYS = ("labels", "label", "target", "targets", "y", "fine_label", "class")
"""Keys of the class index in a dictionary, in the order in which they are tried."""


def separate(item: Any, place: str) -> tuple[Any, Any]:
    """Return the image and the label of an item or a batch: a pair, or a dictionary with known keys.

    Raises `DataError` for anything else.

    >>> separate({"pixel_values": "pixels", "labels": 3}, "item 0")
    ('pixels', 3)
    """
    if isinstance(item, Mapping):
        found = [next((key for key in keys if key in item), None) for keys in (IMAGE_KEYS, LABEL_KEYS)]
        if None in found:
            missing, keys = ("image", IMAGE_KEYS) if found[0] is None else ("label", LABEL_KEYS)
            raise DataError(
                f"{place} is a dictionary with the keys {', '.join(map(str, item)) or '(none)'}; "
                f"expected the {missing} under one of {', '.join(keys)}."
            )
        return item[found[0]], item[found[1]]
    if not isinstance(item, tuple | list) or len(item) != 2:
        length = f" of length {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"{place} is a {type(item).__name__}{length}; expected a pair (image, label), or a dictionary with keys "
            "such as image and label."
        )
    return item[0], item[1]


def split_batch(batch: Any, place: str) -> Iterator[Item]:
    """Yield the images of a batch from a loader; an image without a batch axis is a batch of one."""
    images, labels = separate(batch, place)
    if isinstance(images, torch.Tensor | np.ndarray) and images.ndim < 4 and _count(labels) is None:
        yield Item(place, images, labels)
        return
    count = _count(images)
    if count is None or count != _count(labels):
        raise DataError(
            f"{place} has {'no batch of' if count is None else count} images and "
            f"{_count(labels) if _count(labels) is not None else 'no batch of'} labels; expected one label per image."
        )
    for index in range(count):
        yield Item(f"image {index} of {place}", images[index], labels[index])


def _count(values: Any) -> int | None:
    """Return the length along the batch axis; None without such an axis."""
    if isinstance(values, torch.Tensor | np.ndarray):
        return len(values) if values.ndim else None
    return len(values) if isinstance(values, list | tuple) else None


def label_of(label: Any, classes: tuple[str, ...] | None, place: str) -> int:
    """Return a label as a class index; a string is looked up in `classes`.

    Raises `DataError` for floats, one-hot vectors, unknown names and indices outside the range.

    >>> label_of("dog", ("cat", "dog"), "item 0"), label_of(torch.tensor([1]), None, "item 0")
    (1, 1)
    """
    if isinstance(label, str) and classes is not None and label in classes:
        return classes.index(label)
    number = class_index(label)
    if number is None:
        raise DataError(f"{place} has {_description(label)}; expected a class index: an integer from 0 on.")
    if number < 0 or (classes is not None and number >= len(classes)):
        expected = "0 or more" if classes is None else f"0 to {len(classes) - 1}, for {len(classes)} class names"
        raise DataError(f"{place} has the label {number}; expected {expected}.")
    return number


def class_index(label: Any) -> int | None:
    """Return a Python, NumPy or torch integer as an int; None for anything else."""
    try:
        value: Any = label.item() if isinstance(label, torch.Tensor | np.ndarray) else label
        # operator.index accepts integers of every kind, but not floats
        return operator.index(value)
    # `item()` of several values raises RuntimeError for a tensor and ValueError for an array
    except (TypeError, ValueError, RuntimeError):
        return None


def _description(label: Any) -> str:
    """Describe a label that is not a class index."""
    if not isinstance(label, torch.Tensor | np.ndarray):
        return f"the label {label!r}" if len(repr(label)) < 80 else f"a {type(label).__name__} as label"
    if label.ndim and label.size != 1 if isinstance(label, np.ndarray) else label.numel() != 1:
        return f"a label of shape {tuple(label.shape)} (take the index of a one-hot vector: label.argmax())"
    return f"a label of {label.dtype} (convert it: label.long())"


class Converter:
    """Convert images from any source to displayed pixels (channel, height, width).

    PIL images are preprocessed; tensors are the model's input and are only denormalized. With `is_displayed`, tensors
    are preprocessed like PIL images.
    """

    def __init__(
        self,
        preprocessing: Preprocessing | Callable[[Image.Image], Any] | None,
        channels: int | None,
        is_displayed: bool,
    ) -> None:
        self.preprocessing, self.is_displayed = preprocessing, is_displayed
        self.steps = preprocessing if isinstance(preprocessing, Preprocessing) else Preprocessing()
        # a normalization of three channels needs three
        self.channels = channels or (len(self.steps.mean) if self.steps.mean and len(self.steps.mean) > 1 else None)
        self.has_bytes = False
        """True if a tensor of the model's input was uint8."""

    def __call__(self, image: Any, place: str) -> torch.Tensor:
        """Return the displayed image: uint8, or float32, in [0, 1] if the normalization is known.

        Raises `DataError` for images that cannot be converted.
        """
        if isinstance(image, Image.Image):
            return self._picture(image, place)
        pixels = dense_tensor(image, place)
        if self.is_displayed:
            return self._displayed(pixels, place)
        if pixels.dtype == torch.uint8:
            self.has_bytes = True
            return pixels
        return self.steps.displayed(pixels)

    def _displayed(self, pixels: torch.Tensor, place: str) -> torch.Tensor:
        """Preprocess a tensor that holds a displayed image."""
        if pixels.is_floating_point() and not (pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6):
            raise DataError(
                f"{place} has values from {pixels.min():g} to {pixels.max():g}; images of --dataset are floats in "
                "[0, 1] or bytes. Scale them in the data set, and give the normalization with --mean and --std."
            )
        is_unchanged = isinstance(self.preprocessing, Preprocessing | None) and not (
            self.steps.resize or self.steps.crop or self.steps.function or self.channels not in (None, len(pixels))
        )
        if is_unchanged or len(pixels) not in (1, 3):
            return pixels.clamp(0, 1) if pixels.is_floating_point() else pixels
        as_bytes = pixels if pixels.dtype == torch.uint8 else pixels.clamp(0, 1).mul(255).round().to(torch.uint8)
        array = as_bytes.movedim(0, -1).numpy()
        return self._picture(Image.fromarray(array[..., 0] if len(pixels) == 1 else array), place)

    def _picture(self, image: Image.Image, place: str) -> torch.Tensor:
        picture = gray_or_rgb(image)
        if self.channels in (1, 3):
            picture = picture.convert("L" if self.channels == 1 else "RGB")
        if isinstance(self.preprocessing, Preprocessing | None):
            return picture_pixels(self._prepared(picture, place))
        result = self._transformed(picture, place)
        return (
            picture_pixels(result) if isinstance(result, Image.Image) else dense_tensor(result, f"preprocessed {place}")
        )

    def _prepared(self, picture: Image.Image, place: str) -> Image.Image:
        """Apply the steps of the model's preprocessing."""
        try:
            return self.steps.picture(picture)
        except PellucidError as error:
            raise DataError(f"{place} cannot be preprocessed: {error}") from error
        except Exception as error:
            if is_shortage(error):
                raise
            raise DataError(f"{place} cannot be preprocessed: {type(error).__name__}: {error}.") from error

    def _transformed(self, picture: Image.Image, place: str) -> Any:
        """Apply the user's own preprocessing."""
        assert callable(self.preprocessing)
        try:
            try:
                return self.preprocessing(picture)
            except Exception:
                if picture.mode == "RGB" or self.channels is not None:
                    raise
                # a transform for color images, which normalizes three channels, fails for a gray one
                return self.preprocessing(picture.convert("RGB"))
        except PellucidError:
            raise
        except Exception as error:
            if is_shortage(error):
                raise
            raise DataError(f"preprocess failed for {place} with {type(error).__name__}: {error}.") from error


def dense_tensor(image: Any, place: str) -> torch.Tensor:
    """Return a tensor or array as (channel, height, width): uint8 or finite float32 values, on the CPU.

    Raises `DataError` for other types, shapes and values.
    """
    if not isinstance(image, torch.Tensor | np.ndarray):
        raise DataError(f"{place} has a {type(image).__name__} as image; expected a PIL image, a tensor or an array.")
    if isinstance(image, torch.Tensor) and (image.is_meta or image.layout != torch.strided):
        kind = "meta" if image.is_meta else str(image.layout).removeprefix("torch.")
        raise DataError(f"{place} has a {kind} tensor as image; expected a dense tensor with values.")
    try:
        # copied, because memory-mapped arrays are read-only
        pixels = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else image.detach().cpu()
    except (TypeError, ValueError) as error:  # torch lacks some of NumPy's types, such as object and string
        raise DataError(f"{place} has an image of {image.dtype}; expected uint8 or floats.") from error
    if not pixels.numel():
        raise DataError(f"{place} has an image of shape {tuple(pixels.shape)}, without any pixel.")
    pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels
    # more than four channels with 1, 3 or 4 in the last axis is almost certainly a channels-last image
    if pixels.ndim != 3 or (pixels.shape[0] > 4 and pixels.shape[2] in (1, 3, 4)):
        move = "transpose" if isinstance(image, np.ndarray) else "permute"
        hint = f" Move the channels to the front: image.{move}(2, 0, 1)." if pixels.ndim == 3 else ""
        raise DataError(
            f"{place} has an image of shape {tuple(image.shape)}; expected (channel, height, width) or "
            f"(height, width).{hint}"
        )
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise DataError(f"{place} has an image of {pixels.dtype}; expected uint8 in 0…255 or floats.")
    pixels = pixels.to(torch.float32)
    if not pixels.isfinite().all():
        raise DataError(f"{place} has an image with NaN or infinite values; expected finite pixels.")
    return pixels
