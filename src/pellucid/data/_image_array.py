"""One array of images with one of labels, in files of any kind."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.data._lazy import Item, LazyImages

__all__ = ["check_images", "class_labels", "images_of"]

Rows = Callable[[Sequence[int]], Iterator[np.ndarray | DataError]]
"""Function from ascending indices to the images, or the errors of those that cannot be read."""


def check_images(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise `DataError` unless an array can hold images."""
    if len(shape) not in (3, 4) or not (dtype == np.uint8 or dtype.kind == "f"):
        raise DataError(
            f"{name} holds {dtype} of shape {shape}; expected images (image, height, width), (image, channel, "
            "height, width) or (image, height, width, channel), as uint8 or floats in [0, 1]."
        )


def class_labels(name: str, numbers: np.ndarray, count: int) -> torch.Tensor:
    """Return the labels of `count` images, (image,); raises `DataError` for anything but one integer per image."""
    # some data sets keep a second axis of length 1
    numbers = numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers
    if numbers.dtype.kind not in "iu" or numbers.shape != (count,):
        raise DataError(
            f"{name} holds {numbers.dtype} of shape {numbers.shape} for {count} images; expected one class "
            "index per image."
        )
    return torch.from_numpy(numbers.astype(np.int64))


def images_of(
    name: tuple[str, str, str],
    shape: tuple[int, ...],
    rows: Rows,
    labels: torch.Tensor | str,
    contents: Callable[[], Iterable[bytes]],
    classes: tuple[str, ...] | None = None,
) -> LazyImages:
    """Return the images of an array of a shape with three or four axes.

    `name` are the names of the data set, its title and the array, and `labels` may be the reason why there are none.
    """
    data_set, title, array = name
    is_last = len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)

    def items(indices: Sequence[int] | None) -> Iterator[Item]:
        chosen = range(shape[0]) if indices is None else indices
        for index, row in zip(chosen, rows(chosen), strict=True):
            pixels = np.moveaxis(row, -1, 0) if is_last and isinstance(row, np.ndarray) else row
            label = None if isinstance(labels, str) else int(labels[index])
            yield Item(f"image {index} of {array}", pixels, label, str(index))

    return LazyImages(
        data_set,
        title,
        shape[0],
        items,
        None if isinstance(labels, str) else labels,
        classes,
        is_displayed=True,
        remark="arrays are read as (image, height, width, channel)" if is_last else "",
        unlabeled=labels if isinstance(labels, str) else "",
        contents=contents,
    )
