"""Read all images of a data set opened on demand, for training."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pellucid.core.errors import DataError
from pellucid.core.preprocessing import Preprocessing
from pellucid.core.seeding import generator
from pellucid.core.terminal import track
from pellucid.data._collector import Collector
from pellucid.data._items import Converter, label_of
from pellucid.data._lazy import LazyImages, OpenData
from pellucid.data._source import RawData, Request
from pellucid.data._splitting import chosen_by_limit, mask_of_test

__all__ = ["LazySource", "chosen_for_testing", "read_all"]


@dataclass(frozen=True)
class LazySource:
    """A data set that can be opened on demand; calling it reads all images.

    >>> from pathlib import Path
    >>> from pellucid.data._lazy import Item
    >>> def noise(request: Request) -> OpenData:
    ...     read = lambda chosen: (Item("noise", torch.rand(1, 2, 2), index % 2) for index in chosen or range(10))
    ...     return OpenData(LazyImages("noise", "Noise", 10, read, torch.arange(10) % 2, is_displayed=True))
    >>> raw = LazySource(noise)(Request(Path("unused")))
    >>> len(raw.train), len(raw.test), raw.classes
    (8, 2, ('0', '1'))
    """

    open: Callable[[Request], OpenData]
    """Open the data set that a request names, without reading images."""

    def __call__(self, request: Request) -> RawData:
        """Read all images."""
        return read_all(self.open(request), request)


def read_all(
    opened: OpenData, request: Request, limit_train: int | None = None, limit_test: int | None = None
) -> RawData:
    """Read the training and test images, or stratified subsets of at most the given sizes.

    Without a training split, a stratified 20% becomes the test set, drawn from `request.seed`. Images are scaled to
    squares with `request.image_size`; otherwise all must have one size. If any has color, all are RGB.

    Raises `DataError` for images that cannot be used, or that don't fit in memory.
    """
    for part in filter(None, (opened.train, opened.test)):
        _check_labels(part)
    parts, chosen = _chosen_parts(opened, request.seed, (limit_train, limit_test))
    collector = Collector()
    for images, indices in zip(parts, chosen, strict=True):
        _read(images, indices, collector, request, sum(map(len, chosen)))
    both = collector.images(opened.test.name)
    if len(parts) == 2:
        train, test = both[: len(chosen[0])], both[len(chosen[0]) :]
        positions = torch.tensor(chosen[1], dtype=torch.int64)
    else:
        mask = mask_of_test(both.labels, generator(request.seed, *SPLIT))
        train, test, positions = both[~mask], both[mask], mask.nonzero().flatten()
    classes = opened.test.classes or tuple(str(index) for index in range(int(both.labels.max()) + 1))
    return RawData(
        train, test, classes, title=opened.test.title, test_positions=positions, test_total=opened.test.total
    )


def _check_labels(images: LazyImages) -> None:
    """Raise `DataError` if some images are known to have no labels."""
    images.check_labeled()
    missing = 0 if images.labels is None else int((images.labels < 0).sum())
    if missing and images.labels is not None:
        raise DataError(
            f"{missing:,} of {len(images.labels):,} images of {images.name} have no label or a negative one, the first "
            f"at index {int((images.labels < 0).int().argmax())}; label or remove them."
        )


def chosen_for_testing(opened: OpenData, request: Request, limit_test: int | None) -> list[int] | None:
    """Return the indices of the test images of `read_all` in `opened.test`; None if that takes reading all images."""
    parts, chosen = _chosen_parts(opened, request.seed, (None, limit_test))
    return chosen[1] if len(parts) == 2 else None


def _chosen_parts(
    opened: OpenData, seed: int, limits: tuple[int | None, int | None]
) -> tuple[list[LazyImages], list[list[int]]]:
    """Return the parts to read, training images first, and the indices in each; one part if its labels are unknown."""
    test, train = opened.test, opened.train
    if train is not None:
        each = zip((train, test), limits, KINDS, strict=True)
        return [train, test], [_limited(images, limit, seed, kind) for images, limit, kind in each]
    if test.labels is None:
        return [test], [_limited(test, None, seed, "test")]
    return [test, test], _split(test.labels, seed, limits)


KINDS = ("train", "test")
SPLIT = ("folder", "test")
"""Key of the random numbers that split off the test set."""


def _split(labels: torch.Tensor, seed: int, limits: tuple[int | None, int | None]) -> list[list[int]]:
    """Return the indices of the training and test images of a data set without a test split."""
    mask = mask_of_test(labels, generator(seed, *SPLIT))
    parts = [(~mask).nonzero().flatten(), mask.nonzero().flatten()]
    return [
        indices[_chosen(labels[indices], limit, seed, kind)].tolist()
        for indices, limit, kind in zip(parts, limits, KINDS, strict=True)
    ]


def _limited(images: LazyImages, limit: int | None, seed: int, kind: str) -> list[int]:
    """Return the indices of the images to read: all, if their labels are unknown before reading."""
    total = images.total
    if total is None:
        raise DataError(f"{images.name} is a stream of unknown length, which cannot be trained on.")
    return list(range(total)) if images.labels is None else _chosen(images.labels, limit, seed, kind).tolist()


def _chosen(labels: torch.Tensor, limit: int | None, seed: int, kind: str) -> torch.Tensor:
    """Return the same indices as limiting the images after reading them."""
    return chosen_by_limit(labels, limit, generator(seed, "limit", kind))


def _read(images: LazyImages, indices: list[int], collector: Collector, request: Request, total: int) -> None:
    steps = _steps(request.image_size, request.crop)
    convert = Converter(steps, channels=None, is_displayed=images.is_displayed)
    with track(f"reading {images.title}", len(indices)) as tracker:
        for done, item in enumerate(images.read(indices)):
            pixels = convert(item.image, item.place)
            if not done:
                _check_memory(pixels, total, images.name)
            collector.add(pixels, label_of(item.label, images.classes, item.place), item.place)
            tracker.update(done + 1)


def _steps(size: int | None, crop: int | None) -> Preprocessing | None:
    if crop is None:
        return None if size is None else Preprocessing(resize=(size, size))
    return Preprocessing(resize=size, crop=(crop, crop))


def _check_memory(first: torch.Tensor, total: int, name: str) -> None:
    """Raise `DataError` if the images would take more than the machine's memory."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # not on Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if first.nbytes * total > memory:
        raise DataError(
            f"{name} needs {first.nbytes * total / 1e9:,.0f} GB for {total:,} images of {tuple(first.shape)}, and this "
            f"machine has {memory / 1e9:,.0f} GB; pass --limit-train and --limit-test, or a smaller --image-size."
        )
