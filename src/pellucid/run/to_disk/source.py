"""The images of a data set, shard by shard: chosen, read, converted and matched with the model's classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pellucid.core.checksum import checksum
from pellucid.core.contracts import to_floats
from pellucid.core.errors import DataError
from pellucid.core.preprocessing import Preprocessing
from pellucid.data._each import Read, read_each
from pellucid.data._fingerprint import fingerprint_of
from pellucid.data._items import Converter
from pellucid.data._lazy import LazyImages
from pellucid.data._matching import MatchedClasses, match_classes
from pellucid.data._user_data import as_lazy

__all__ = ["Source", "described_steps", "floats_of", "labels_of"]

PROBED = 50
"""Maximum number of images to try until one is readable."""


@dataclass(frozen=True, eq=False)
class Source:
    """The images to explain."""

    images: LazyImages
    matched: MatchedClasses
    convert: Converter
    count: int
    """Number of images to explain: all, or as many as the limit allows, evenly spaced."""
    image_shape: tuple[int, int, int]
    """(channel, height, width) of every image after preprocessing."""
    first: Read
    """The first readable image."""

    @classmethod
    def of(
        cls, data: Any, preprocessing: Any, classes: Sequence[str] | None, channels: int | None, limit: int | None
    ) -> "Source":
        """Open the data, and read images until one is readable.

        Raises `DataError` for a stream, for data without images, and if none of the first images can be read.
        """
        images = as_lazy(data)
        if images.total is None:
            raise DataError(
                f"{images.name} is a stream of unknown length, which cannot be divided among processes; pass a data "
                "set with a length and items by index, or files (see --dataset)."
            )
        count = min(images.total, limit or images.total)
        if not count:
            raise DataError(f"{images.name} is empty; at least one image is required.")
        matched = match_classes(images, classes)
        convert = Converter(preprocessing, channels, images.is_displayed)
        read: Read | None = None
        for number in range(min(count, PROBED)):
            index = number * images.total // count
            read = next(iter(read_each(images, [index], convert, None, matched.index)))
            if read.pixels is not None:
                shape = tuple(read.pixels.shape)
                return cls(images, matched, convert, count, (shape[0], shape[1], shape[2]), read)
        assert read is not None
        raise DataError(
            f"none of the first {min(count, PROBED)} images of {images.name} can be read; the last one: {read.problem}"
        )

    def candidates(self) -> Iterator[Read]:
        """Yield the first readable images, beginning with `first`."""
        yield self.first
        for number in range(min(self.count, PROBED)):
            index = number * (self.images.total or 0) // self.count
            if index > self.first.index:
                read = self._read_one(index)
                if read.pixels is not None:
                    yield read

    def check_available(self) -> None:
        """Raise `DataError` if not even the first readable image can be read any more, as after the loss of a disk."""
        read = self._read_one(self.first.index)
        if read.pixels is None:
            raise DataError(
                f"{self.images.name} cannot be read any more; even image {read.key}, which was readable at the start, "
                f"is not: {read.problem} Make the data available, and repeat the call to continue."
            )

    def _read_one(self, index: int) -> Read:
        return next(iter(read_each(self.images, [index], self.convert, self.image_shape, self.matched.index)))

    @property
    def has_labels(self) -> bool:
        """False if it is known, without reading images, that none has a label."""
        labels = self.images.labels
        return not self.images.unlabeled and (labels is None or bool((labels >= 0).any()))

    def indices(self, rows: range) -> Sequence[int]:
        """Return the positions in the data set of the images to explain."""
        total = self.images.total or 0
        return rows if self.count == total else [row * total // self.count for row in rows]

    def read(self, rows: range) -> list[Read]:
        """Read images, or the reasons why they cannot be read."""
        chosen = self.indices(rows)
        return list(read_each(self.images, chosen, self.convert, self.image_shape, self.matched.index))

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the images: their names and numbers, and the pixels of the first readable one.

        The pixels distinguish tensors that are equal in everything else.
        """
        assert self.first.pixels is not None
        return {
            "kind": self.images.name.partition(":")[0],
            "images": self.images.total,
            "explained": self.count,
            "image_shape": list(self.image_shape),
            "fingerprint": fingerprint_of(self.images),
            "first_image": checksum(self.first.pixels)[:16],
        }


def floats_of(reads: Sequence[Read], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return readable images as one batch of floats (image, channel, height, width), as input of the model."""
    # one by one: some may be bytes, others floats
    parts = [to_floats(read.pixels[None]) for read in reads if read.pixels is not None]
    return torch.cat(parts).to(device, dtype)


def described_steps(steps: Any) -> dict[str, Any]:
    """Return the preprocessing in a form that JSON can hold."""
    if not isinstance(steps, Preprocessing):
        return {"function": getattr(steps, "__qualname__", type(steps).__qualname__)}
    known = {
        "mean": steps.mean,
        "std": steps.std,
        "resize": steps.resize,
        "crop": steps.crop,
        "interpolation": steps.interpolation if steps.resize else None,
        "function": None if steps.function is None else getattr(steps.function, "__qualname__", "function"),
    }
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def labels_of(reads: Sequence[Read]) -> np.ndarray:
    """Return the class indices; −1 for images without one."""
    return np.array([-1 if read.label is None else read.label for read in reads], np.int64)
