"""Convert any map-style torch data set to one tensor of images."""

from typing import Any

import torch
from PIL import Image

from pellucid.core.contracts import ImageSet, to_floats
from pellucid.core.errors import DataError
from pellucid.core.terminal import track
from pellucid.data._items import dense_tensor, label_of
from pellucid.data._pictures import picture_pixels
from pellucid.data._resize import fitted
from pellucid.data._user_data import of_dataset

__all__ = ["materialise"]

IMAGES_AT_ONCE = 1000
"""Images packed at a time; float images that are really bytes are converted before they use much memory."""
ROUNDING = 1e-6
"""Tolerance for floats outside [0, 1] that is attributed to rounding."""


def materialise(
    dataset: Any, name: str, classes: int, image_size: int | None = None, crop: int | None = None
) -> ImageSet:
    """Read all items of a map-style data set, in order, as uint8 if that is exact, otherwise as float32 in [0, 1].

    An item is (image, label). The image is a PIL image, a uint8 tensor or array, or a float tensor or array in [0, 1],
    of shape (height, width) or (channel, height, width). With `image_size`, each is scaled to a square of that size;
    with `crop`, its shorter side is scaled and the center cropped.
    `name` appears in error messages.

    Raises `DataError` for any other item, a label outside 0…classes - 1, or images of different shapes.

    >>> pairs = [(torch.tensor([[0.0, 1.0], [0.2, 0.4]]), 1), (torch.zeros(2, 2), 0)]
    >>> images = materialise(pairs, "pairs", classes=2)
    >>> images.pixels[0, 0].tolist(), images.labels.tolist()
    ([[0, 255], [51, 102]], [1, 0])
    """
    images = of_dataset(dataset, name)
    count = images.total or 0
    labels, packed, waiting = [], [], []
    shape: torch.Size | None = None
    with track(f"reading {name}", count) as tracker:
        for index, (place, image, label) in enumerate(item[:3] for item in images.read(None)):
            pixels = _pixels(image, place)
            pixels = fitted(pixels.unsqueeze(0), image_size, crop).squeeze(0)
            shape = _same_shape(pixels, shape, place)
            waiting.append(pixels)
            labels.append(_label(label, classes, place))
            # packing as bytes early takes a quarter of the memory of floats
            if len(waiting) == IMAGES_AT_ONCE or index == count - 1:
                packed.append(_packed(waiting))
                waiting = []
            tracker.update(index + 1)
    if not packed:
        raise DataError(f"{name} is empty; at least one image is required.")
    # torch.cat would convert bytes to floats without scaling them to [0, 1]
    if any(part.dtype != torch.uint8 for part in packed):
        packed = [to_floats(part) for part in packed]
    return ImageSet(torch.cat(packed), torch.tensor(labels))


def _pixels(image: Any, place: str) -> torch.Tensor:
    """Return the image as (channel, height, width): uint8, or float32 in [0, 1]."""
    if isinstance(image, Image.Image):
        return picture_pixels(image)
    pixels = dense_tensor(image, place)
    return pixels if pixels.dtype == torch.uint8 else _in_range(pixels, place)


def _in_range(pixels: torch.Tensor, place: str) -> torch.Tensor:
    low, high = pixels.min().item(), pixels.max().item()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # written this way, the test also rejects NaN
        raise DataError(
            f"{place} has values from {low:g} to {high:g}; expected floats in [0, 1]. "
            "Scale them in the data set; normalization by mean and standard deviation belongs in the model."
        )
    return pixels.clamp(0, 1)


def _same_shape(pixels: torch.Tensor, shape: torch.Size | None, place: str) -> torch.Size:
    if shape is None or pixels.shape == shape:
        return pixels.shape
    fix = "give --image-size to scale them" if pixels.shape[0] == shape[0] else "give all the same number of channels"
    raise DataError(
        f"{place} has shape {tuple(pixels.shape)}, earlier items have {tuple(shape)} (channel, height, width); {fix}."
    )


def _label(label: Any, classes: int, place: str) -> int:
    number = label_of(label, None, place)
    if number >= classes:
        raise DataError(f"{place} has the label {number}; expected 0 to {classes - 1}, for {classes} class names.")
    return number


def _packed(images: list[torch.Tensor]) -> torch.Tensor:
    """Stack the images: as uint8 if that is exact, otherwise as floats."""
    if all(image.dtype == torch.uint8 for image in images):
        return torch.stack(images)
    floats = torch.cat([to_floats(image.unsqueeze(0)) for image in images])
    # an exact round trip proves that the floats were bytes
    rounded = floats.mul(255).round_().to(torch.uint8)
    return rounded if torch.equal(to_floats(rounded), floats) else floats
