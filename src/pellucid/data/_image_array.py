"""One array of images with one of labels, in files of any kind."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.data._lazy import Item, LazyImages

__all__ = ["check_images", "choose_arrays", "class_labels", "images_of"]

PAIRS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images_train", "labels_train", "images_test", "labels_test"),
)
"""Names of the arrays in a file with training and test images."""
SINGLES = (("images", "labels"), ("x", "y"), ("X", "y"), ("images", "targets"), ("data", "labels"), ("data", "target"))
"""Names of the arrays in a file without splits."""
Rows = Callable[[Sequence[int]], Iterator[np.ndarray | DataError]]
"""Function from ascending indices to the images, or the errors of those that cannot be read."""


ArrayT = TypeVar("ArrayT")


def choose_arrays(
    arrays: Mapping[str, ArrayT], name: str, ignored: str, advice: str
) -> list[tuple[ArrayT, ArrayT | str]]:
    """Return images and labels of the test set, and those of the training set if there is one, by their usual names.

    Labels that are not read are replaced by a reason: `ignored` if it is not empty, or `advice` if there are none.
    Raises `DataError` if there are no images, or several arrays that could hold them.

    >>> choose_arrays({"x": "pixels", "y": "numbers"}, "a.npz", "", "no labels")
    [('pixels', 'numbers')]
    """
    for x_train, y_train, x_test, y_test in PAIRS:
        needed = (x_train, x_test) if ignored else (x_train, y_train, x_test, y_test)
        if all(each in arrays for each in needed):
            return [(arrays[x], ignored or arrays[y]) for x, y in ((x_test, y_test), (x_train, y_train))]
    for images, labels in SINGLES:
        if images in arrays and labels in arrays:
            return [(arrays[images], ignored or arrays[labels])]
    found = [images for images in dict(SINGLES) if images in arrays]
    if len(found) == 1:
        return [(arrays[found[0]], ignored or advice)]
    raise DataError(
        f"{name} has the arrays {', '.join(arrays) or '(none)'}; expected {', '.join(PAIRS[0])}, or images and labels."
    )


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
    """Return the images in an array with three or four axes.

    `name` holds the name and the title of the data set and the name of the array. `labels` may be the reason why there
    are none.
    """
    data_set, title, array = name
    is_last = len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)

    def items(indices: Sequence[int] | None) -> Iterator[Item]:
        chosen = range(shape[0]) if indices is None else indices
        for index, row in zip(chosen, rows(chosen), strict=True):
            pixels: Any = row
            if isinstance(row, np.ndarray):
                # torch needs the byte order of the machine
                pixels = row.astype(row.dtype.newbyteorder("="), copy=False)
                pixels = np.moveaxis(pixels, -1, 0) if is_last else pixels
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
