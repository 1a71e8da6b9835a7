"""Images in Zarr arrays."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.core.errors import DataError, UnknownName
from pellucid.core.files import is_shortage
from pellucid.data import DATASETS, Request
from pellucid.data._columns import check_options, ignores_labels
from pellucid.data._image_array import check_images, choose_arrays, class_labels, images_of
from pellucid.data._lazy import LazyImages, OpenData
from pellucid.data._read_all import LazySource
from pellucid.data._spec import split_options

__all__ = ["zarr"]

METADATA = ("zarr.json", ".zarray", ".zgroup")
PROBES = 1000
"""Number of chunks whose sizes are part of the fingerprint."""


@DATASETS.register("zarr")
@LazySource
def zarr(request: Request) -> OpenData:
    """Open the Zarr array or group (format 2 or 3) in the folder `request.argument`.

    A group holds `images` and `labels`, `x` and `y`, or the other names that .npz files have, and optionally the class
    names in its attribute `classes`. Images are (image, height, width), (image, channel, height, width) or (image,
    height, width, channel), as uint8 or floats in [0, 1]. An array, a group without labels, and either with
    `?label=none`, is unlabeled. One row of chunks is in memory at a time. Images of a chunk that is missing are
    unreadable, because an incomplete copy looks the same as an empty chunk; `?missing=fill` reads the fill value.

    Raises `DataError` if the folder is not a Zarr array or group, or if an array has another shape or type.
    """
    argument, options = split_options(request.argument)
    is_unlabeled = ignores_labels(options)
    fills = _fills(options)
    check_options(options, ())
    path = Path(argument).expanduser()
    arrays, attributes = _opened(path, fills)
    reason = f"{path} was opened without labels (label=none)." if is_unlabeled else ""
    advice = (
        f"there are no labels for {path}; save a group with the arrays images and labels, one class index per image."
    )
    classes = attributes.get("classes")
    is_named = isinstance(classes, list) and all(isinstance(each, str) for each in classes)
    names = tuple(classes or ()) or None if is_named else None
    sets = [_images(path, images, labels, names) for images, labels in choose_arrays(arrays, str(path), reason, advice)]
    return OpenData(sets[0], sets[1] if len(sets) == 2 else None)


def _fills(options: dict[str, str]) -> bool:
    """Remove the option `missing=fill`, and return True if it was given."""
    missing = options.pop("missing", None)
    if missing not in (None, "fill"):
        raise UnknownName("option of this data set", f"missing={missing}", ("missing=fill",))
    return missing == "fill"


def _opened(path: Path, fills: bool) -> tuple[dict[str, "Array"], dict[str, Any]]:
    """Return the arrays in a folder by name, and the attributes of the group; a lone array holds images."""
    import zarr

    if not path.is_dir() or not any((path / name).is_file() for name in METADATA):
        raise DataError(f"there is no Zarr array or group {path}; --dataset zarr:PATH expects a folder with zarr.json.")
    try:
        found = zarr.open(str(path), mode="r")
        if isinstance(found, zarr.Array):
            return {"images": Array(path, found, str(path), fills)}, {}
        arrays = {name: Array(path / name, each, f"{name} in {path}", fills) for name, each in sorted(found.arrays())}
        return arrays, dict(found.attrs)
    except Exception as error:
        raise DataError(f"{path} cannot be opened as Zarr: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class Array:
    """A Zarr array, read chunk by chunk."""

    path: Path
    stored: Any
    name: str
    fills: bool
    """True if missing chunks hold the fill value."""

    def rows(self, indices: Sequence[int]) -> Iterator[np.ndarray | DataError]:
        """Yield the rows at ascending indices, or the error of one in a chunk that cannot be read.

        Raises `DataError` if the array is gone.
        """
        length = self.stored.chunks[0]
        position = 0
        while position < len(indices):
            first = int(indices[position])
            # the indices in the same chunk, which is decoded once
            stop = position
            while stop < len(indices) and indices[stop] // length == first // length:
                stop += 1
            block = self._block(first, int(indices[stop - 1]) + 1)
            for index in indices[position:stop]:
                if isinstance(block, str):
                    yield DataError(f"image {index} of {self.name} {block}.")
                else:
                    yield block[index - first]
            position = stop

    def _block(self, start: int, stop: int) -> np.ndarray | str:
        """Read rows that are in one chunk; returns the reason if that fails."""
        missing = None if self.fills else self._missing(start)
        if missing is None:
            try:
                return np.asarray(self.stored[start:stop])
            except Exception as error:  # each codec raises its own kinds
                if is_shortage(error):
                    raise
                problem = f"cannot be read: {_reason(error)}"
        else:
            problem = (
                f"is in the chunk {missing}, which is missing; copy it again, or pass ?missing=fill if its pixels are "
                f"all {self.stored.fill_value}"
            )
        if not any((self.path / name).is_file() for name in METADATA):
            raise DataError(f"the array {self.path} is gone; restore it, or start again.")
        return problem

    def _missing(self, row: int) -> str | None:
        """Return the first chunk of a row that has no file."""
        grid = self._grid
        for place in product((row // grid[0],), *map(range, self._counts[1:])):
            key = self.stored.metadata.encode_chunk_key(place)
            if not (self.path / key).is_file():
                return str(key)
        return None

    @property
    def _grid(self) -> tuple[int, ...]:
        """Shape of what a file holds: a chunk, or a shard of several."""
        return tuple(self.stored.shards or self.stored.chunks)

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        """Number of files along each axis."""
        return tuple(-(-size // each) for size, each in zip(self.stored.shape, self._grid, strict=True))

    def check_codecs(self) -> None:
        """Raise `DataError` for chunks that would be unpickled, which can run any code."""
        content = self.stored.metadata.to_dict()
        if "pickle" in json.dumps({**content, "attributes": {}}, default=str).lower():
            raise DataError(f"{self.name} holds pickled objects, which are never loaded; save numbers.")

    def contents(self) -> Iterator[bytes]:
        """Yield what identifies the array: its metadata without attributes, and the sizes of some of its files."""
        content = {**self.stored.metadata.to_dict(), "attributes": {}}
        yield json.dumps(content, default=str, sort_keys=True).encode()
        total = int(np.prod(self._counts))
        for number in np.linspace(0, max(total - 1, 0), min(total, PROBES)).round().astype(int).tolist():
            key = self.stored.metadata.encode_chunk_key(tuple(map(int, np.unravel_index(number, self._counts))))
            file = self.path / key
            yield str(file.stat().st_size if file.is_file() else -1).encode()


def _images(path: Path, images: Array, labels: Array | str, classes: tuple[str, ...] | None) -> LazyImages:
    """Return the images of an array, with the labels of another, or with the reason why there are none."""
    images.check_codecs()
    shape, dtype = tuple(images.stored.shape), np.dtype(images.stored.dtype)
    check_images(images.name, shape, dtype)
    name = (f"zarr:{path}", path.resolve().stem, images.name)
    if isinstance(labels, str):
        return images_of(name, shape, images.rows, labels, images.contents, classes)
    labels.check_codecs()
    if labels.stored.ndim > 2 or labels.stored.shape[:1] != shape[:1]:
        raise DataError(f"{labels.name} has the shape {labels.stored.shape}; expected one class index per image.")
    if not labels.fills:
        for row in range(0, labels.stored.shape[0], labels._grid[0]):
            if (key := labels._missing(row)) is not None:
                raise DataError(
                    f"{labels.name} has no chunk {key}; copy it again, or pass ?missing=fill if its labels are all "
                    f"{labels.stored.fill_value}."
                )
    try:
        numbers = np.asarray(labels.stored[:])
    except Exception as error:
        raise DataError(f"{labels.name} cannot be read: {_reason(error)}.") from error
    return images_of(name, shape, images.rows, class_labels(labels.name, numbers, shape[0]), images.contents, classes)
