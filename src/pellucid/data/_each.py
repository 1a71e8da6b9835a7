"""Read images one by one; an unreadable image is a result, not an error."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from pellucid.core.errors import ConfigError, DataError, ShapeError
from pellucid.data._items import class_index, label_of
from pellucid.data._lazy import Item, LazyImages

__all__ = ["Read", "read_each"]


@dataclass(frozen=True, eq=False)
class Read:
    """An image that was read, or the reason why it could not be."""

    index: int
    """Position in the data set."""
    key: str
    """Identifier in the data set, equal on all machines: see `Item.key`."""
    pixels: Tensor | None
    """(channel, height, width): uint8 or float32, as the converter returned it; None for an unreadable image."""
    label: int | None
    """Class index; None for an unlabeled or unreadable image."""
    problem: str = ""
    """Reason why the image cannot be read, in one line; empty for a readable image."""


def read_each(
    images: LazyImages,
    indices: Sequence[int],
    convert: Callable[[Any, str], Tensor],
    image_shape: Sequence[int] | None = None,
    label: Callable[[Any, str], int] | None = None,
) -> Iterator[Read]:
    """Yield the images at ascending indices, in order, or the reason why one cannot be read.

    `convert` is a `Converter`: `Converter(preprocessing, channels, images.is_displayed)`. An image whose converted
    shape is not `image_shape` (channel, height, width) is unreadable, and so is one with an invalid label. `label` is a
    function from a label and the image's place to a class index, such as `match_classes(images, names).index`; by
    default, labels are indices or names of `images.classes`. Labels that are None or negative mean unlabeled.

    Raises `ConfigError` for indices that are not ascending or outside the data set, and `DataError` if the whole
    data set can no longer be read, for example because its file is gone.

    >>> import torch
    >>> from pellucid.data._items import Converter
    >>> pixels = [torch.zeros(1, 2, 2), torch.full((1, 2, 2), torch.nan)]
    >>> items = lambda chosen: (Item(f"image {one}", pixels[one], one, str(one)) for one in chosen)
    >>> pair = LazyImages("pair", "Pair", 2, items, is_displayed=True)
    >>> for read in read_each(pair, range(2), Converter(None, 1, True), (1, 2, 2)):
    ...     print(read.key, read.label, read.problem or read.pixels.shape)
    0 0 torch.Size([1, 2, 2])
    1 None image 1 has an image with NaN or infinite values; expected finite pixels.
    """
    _check(images, indices)
    items = images.items(indices)
    for index in indices:
        item = next(items, None)
        if item is None:
            raise DataError(f"{images.name} ended before image {index} of {images.total}; open it again.")
        yield _read(int(index), item, convert, image_shape, label or _labels_of(images))


def _check(images: LazyImages, indices: Sequence[int]) -> None:
    """Raise an error for a stream, and for indices that are not ascending or out of range."""
    if images.total is None:
        raise DataError(f"{images.name} is a stream, whose images cannot be read by their positions.")
    is_ascending = (
        indices.step > 0 if isinstance(indices, range) else all(one < next_one for one, next_one in pairwise(indices))
    )
    if len(indices) and not (is_ascending and indices[0] >= 0 and indices[-1] < images.total):
        raise ConfigError(
            f"cannot read the images {_shortened(indices)} of {images.name}; expected ascending indices from 0 to "
            f"{images.total - 1}."
        )


def _shortened(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:8])) + (", …" if len(indices) > 8 else "")


def _labels_of(images: LazyImages) -> Callable[[Any, str], int]:
    return lambda label, place: label_of(label, images.classes, place)


def _read(
    index: int,
    item: Item,
    convert: Callable[[Any, str], Tensor],
    image_shape: Sequence[int] | None,
    label: Callable[[Any, str], int],
) -> Read:
    key = item.key or str(index)
    try:
        if isinstance(item.image, DataError):
            raise item.image
        pixels = convert(item.image, item.place)
        if image_shape is not None and tuple(pixels.shape) != tuple(image_shape):
            raise DataError(
                f"{item.place} has the shape {tuple(pixels.shape)}, expected {tuple(image_shape)} (channels, height, "
                "width); resize and crop the images to one size."
            )
        return Read(index, key, pixels, None if _is_unlabeled(item.label) else label(item.label, item.place))
    except (DataError, ShapeError) as error:
        return Read(index, key, None, None, _one_line(error))


def _is_unlabeled(label: Any) -> bool:
    """Return True for None and for negative integers of any kind."""
    number = class_index(label)
    return label is None or (number is not None and number < 0)


def _one_line(error: Exception) -> str:
    """Return the message of an error without line breaks and characters that are not UTF-8."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())
