"""Images in NumPy's .npy and .npz files."""

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from pellucid.core.errors import DataError
from pellucid.data import DATASETS, Request
from pellucid.data._columns import check_options
from pellucid.data._lazy import Item, LazyImages, OpenData
from pellucid.data._read_all import LazySource
from pellucid.data._spec import split_options

__all__ = ["numpy"]

PAIRS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "y_train", "X_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("images_train", "labels_train", "images_test", "labels_test"),
)
"""Names of the arrays in an .npz file with training and test images."""
SINGLES = (("images", "labels"), ("x", "y"), ("X", "y"), ("images", "targets"), ("data", "labels"), ("data", "target"))
"""Names of the arrays in an .npz file without splits."""
CLASS_NAMES = ("classes", "class_names", "label_names")
MOST_LABELS = 1_000_000_000
"""Largest size of an array of labels, in bytes."""


@DATASETS.register("numpy")
@LazySource
def numpy(request: Request) -> OpenData:
    """Open an .npy or .npz file at `request.argument`.

    An .npz file holds x_train, y_train, x_test and y_test, or images and labels (other usual names are known, too), and
    optionally class names as `classes`. NAME.npy needs its labels in NAME_labels.npy, in the same folder. Images are
    (image, height, width), (image, channel, height, width) or (image, height, width, channel), as bytes or as floats in
    [0, 1]. Only the images that are used are kept in memory. Nothing is unpickled.

    Raises `DataError` if a file or an array is missing, damaged or of another shape.
    """
    argument, options = split_options(request.argument)
    check_options(options, ())
    path = Path(argument).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file {path}; --dataset expects an .npy or .npz file.")
    arrays = _arrays(path)
    if path.suffix.lower() == ".npy":
        return OpenData(_images(path, arrays["images"], arrays["labels"], None))
    classes = _class_names(arrays)
    for names in PAIRS:
        if all(name in arrays for name in names):
            x_train, y_train, x_test, y_test = (arrays[name] for name in names)
            return OpenData(_images(path, x_test, y_test, classes), _images(path, x_train, y_train, classes))
    for images, labels in SINGLES:
        if images in arrays and labels in arrays:
            return OpenData(_images(path, arrays[images], arrays[labels], classes))
    raise DataError(
        f"{path} has the arrays {', '.join(arrays) or '(none)'}; expected {', '.join(PAIRS[0])}, or images and labels."
    )


@dataclass(frozen=True)
class Array:
    """An array in a file, read row by row."""

    path: Path
    member: str | None
    """Name in the .npz archive; None for an .npy file."""

    @property
    def name(self) -> str:
        """The array's name in messages."""
        return str(self.path) if self.member is None else f"{self.member.removesuffix('.npy')} in {self.path}"

    @cached_property
    def header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype."""
        with self._opened() as file:
            return self._read_header(file)

    def rows(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the rows at ascending indices; of an archive, everything before them is decompressed, but not kept."""
        shape, dtype = self.header
        size = math.prod(shape[1:]) * dtype.itemsize
        with self._opened() as file:
            self._read_header(file)
            position = 0
            for index in indices:
                self._skip(file, (index - position) * size)
                content = file.read(size)
                if len(content) != size:
                    raise DataError(f"{self.name} ends within row {index} of {shape[0]}; write the file again.")
                position = index + 1
                yield np.frombuffer(content, dtype).reshape(shape[1:])

    def whole(self) -> np.ndarray:
        """Return a small array, such as labels. Raises `DataError` for a large one."""
        shape, dtype = self.header
        if math.prod(shape) * dtype.itemsize > MOST_LABELS:
            raise DataError(f"{self.name} has the shape {shape}; expected one label per image.")
        with self._opened() as file:
            self._read_header(file)
            content = file.read(math.prod(shape) * dtype.itemsize)
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise DataError(f"{self.name} is cut off; write the file again.")
        return np.frombuffer(content, dtype).reshape(shape)

    def _opened(self) -> Any:
        try:
            if self.member is None:
                return self.path.open("rb")
            return zipfile.ZipFile(self.path).open(self.member)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{self.name} cannot be read: {error}.") from error

    def _read_header(self, file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        try:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, is_fortran, dtype = read(file)
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{self.name} is not an array: {error}.") from error
        if dtype.hasobject:
            raise DataError(f"{self.name} holds Python objects, which are never loaded; save numbers or strings.")
        if is_fortran and len(shape) > 1:
            raise DataError(f"{self.name} is in Fortran order; save np.ascontiguousarray(…).")
        return shape, dtype

    def _skip(self, file: Any, size: int) -> None:
        """Skip `size` bytes."""
        if self.member is None:
            file.seek(size, 1)
            return
        # an archive is decompressed on the way; in parts, to hold little at a time
        while size > 0:
            part = file.read(min(size, 1 << 22))
            if not part:
                return
            size -= len(part)


def _arrays(path: Path) -> dict[str, Array]:
    """Return the arrays in a file by name."""
    if path.suffix.lower() == ".npy":
        labels = path.with_name(f"{path.stem}_labels.npy")
        if not labels.is_file():
            raise DataError(f"there are no labels for {path}; save them as {labels}, one class index per image.")
        return {"images": Array(path, None), "labels": Array(labels, None)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}.") from error
    return {name.removesuffix(".npy"): Array(path, name) for name in members}


def _class_names(arrays: dict[str, Array]) -> tuple[str, ...] | None:
    name = next((name for name in CLASS_NAMES if name in arrays), None)
    if name is None:
        return None
    values = arrays[name].whole()
    if values.ndim != 1 or values.dtype.kind not in "US":
        raise DataError(f"{arrays[name].name} holds {values.dtype} of shape {values.shape}; expected strings.")
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)


def _images(path: Path, images: Array, labels: Array, classes: tuple[str, ...] | None) -> LazyImages:
    shape, dtype = images.header
    if len(shape) not in (3, 4) or not (dtype == np.uint8 or dtype.kind == "f"):
        raise DataError(
            f"{images.name} holds {dtype} of shape {shape}; expected images (image, height, width), (image, channel, "
            "height, width) or (image, height, width, channel), as uint8 or floats in [0, 1]."
        )
    numbers = labels.whole()
    # some data sets keep a second axis of length 1
    numbers = numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers
    if numbers.dtype.kind not in "iu" or numbers.shape != shape[:1]:
        raise DataError(
            f"{labels.name} holds {numbers.dtype} of shape {numbers.shape} for {shape[0]} images; expected one class "
            "index per image."
        )
    is_last = len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)

    def read(indices: Sequence[int] | None) -> Iterator[Item]:
        chosen = range(shape[0]) if indices is None else indices
        for index, row in zip(chosen, images.rows(chosen), strict=True):
            pixels = np.moveaxis(row, -1, 0) if is_last else row
            yield Item(f"image {index} of {images.name}", pixels, int(numbers[index]), str(index))

    return LazyImages(
        str(path),
        path.stem,
        shape[0],
        read,
        torch.from_numpy(numbers.astype(np.int64)),
        classes,
        is_displayed=True,
        remark="arrays are read as (image, height, width, channel)" if is_last else "",
    )
