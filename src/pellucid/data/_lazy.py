"""Images that are read on demand: labels and class names up front, pixels only for selected images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

__all__ = ["Item", "LazyImages", "OpenData"]


class Item(NamedTuple):
    """One image as its source returns it, before any conversion."""

    place: str
    """Its position, for error messages: "item 17 of CIFAR10"."""
    image: Any
    """A PIL image, or a tensor or array of shape (height, width) or (channel, height, width)."""
    label: Any
    """A class index."""


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
    read: Callable[[Sequence[int] | None], Iterator[Item]]
    """Function that reads the images at ascending indices; None reads all, the only choice for a stream."""
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


@dataclass(frozen=True, eq=False)
class OpenData:
    """A data set whose images have not been read yet."""

    test: LazyImages
    train: LazyImages | None = None
    """Training images, if the data set provides them."""
