"""Images that are read on demand: labels and class names up front, pixels only for selected images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pellucid.core.errors import DataError

__all__ = ["Item", "LazyImages", "OpenData", "attempt"]


class Item(NamedTuple):
    """One image as its source returns it, before any conversion."""

    place: str
    """Its position, for error messages: "item 17 of CIFAR10"."""
    image: Any
    """A PIL image, or a tensor or array of shape (height, width) or (channel, height, width); from `LazyImages.items`,
    also the `DataError` that says why the image cannot be read."""
    label: Any
    """A class index; None or negative for an unlabeled image."""
    key: str = ""
    """The image's identifier in its data set, equal on all machines: its path in a folder, `FILE.parquet:ROW`,
    `SHARD.tar/KEY`, or its index in an array; empty for the items of a stream."""


def attempt(read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the `DataError` that it raises, as the image of an `Item`.

    >>> attempt(int, "3")
    3
    """
    try:
        return read(*arguments)
    except DataError as error:
        return error


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Labeled images that are read on demand, in any selection; a stream can only be read from beginning to end.

    >>> pairs = [(torch.zeros(1, 2, 2), 0), (torch.ones(1, 2, 2), 1)]
    >>> images = LazyImages(
    ...     "pairs", "Pairs", 2, lambda chosen: (Item(f"item {one}", *pairs[one]) for one in chosen or range(2))
    ... )
    >>> [item.label for item in images.read([1])]
    [1]
    """

    name: str
    """For `run.json` and error messages."""
    title: str
    """Display name for figures."""
    total: int | None
    """Number of images; None for a stream, whose length is known only at its end."""
    items: Callable[[Sequence[int] | None], Iterator[Item]]
    """Function that reads the images at ascending indices; None reads all, the only choice for a stream. An image that
    cannot be read is an item that holds the error; the function only raises if the data set as a whole is unusable."""
    labels: torch.Tensor | None = None
    """One integer per image, (image,), equal for images of one class; None if unknown before reading."""
    classes: tuple[str, ...] | None = None
    """Class names, by index."""
    is_displayed: bool = False
    """True if tensors hold displayed images (uint8, or floats in [0, 1]), to be preprocessed like pictures; False if
    they are what the model expects."""
    files: Sequence[Path] | None = None
    """File of each image, if each has its own."""
    remark: str = ""
    """Notice for the user about the images; empty if there is nothing to report."""
    unlabeled: str = ""
    """Reason why the images have no labels, and how to add them; empty if they have labels. Explaining needs none."""
    contents: Callable[[], Iterable[bytes]] | None = None
    """Function that returns what identifies the images besides their number, labels and classes, such as file names and
    sizes, without absolute paths; None if the name does. See `fingerprint_of`."""

    def read(self, indices: Sequence[int] | None) -> Iterator[Item]:
        """Read the images at ascending indices, or all; raises the `DataError` of the first one that is unreadable."""
        for item in self.items(indices):
            if isinstance(item.image, DataError):
                raise item.image
            yield item

    def check_labeled(self) -> None:
        """Raise `DataError` if images are known to have no labels, which training and inspecting need."""
        if self.unlabeled:
            raise DataError(f"{self.unlabeled} Only pellucid explain works without labels.")


@dataclass(frozen=True, eq=False)
class OpenData:
    """A data set whose images have not been read yet."""

    test: LazyImages
    train: LazyImages | None = None
    """Training images, if the data set provides them."""
