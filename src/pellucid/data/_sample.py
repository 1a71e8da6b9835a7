"""A seeded, stratified sample of any data set, which is never loaded as a whole."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, DataError
from pellucid.core.isolation import preserved_random_state
from pellucid.core.preprocessing import Preprocessing
from pellucid.core.seeding import derive_seed, generator
from pellucid.core.terminal import track
from pellucid.core.text import check_text
from pellucid.data._collector import ROUNDING, Collector, packed
from pellucid.data._items import Converter
from pellucid.data._lazy import Item, LazyImages
from pellucid.data._load import checksum_of
from pellucid.data._matching import MatchedClasses, match_classes
from pellucid.data._reservoir import Reservoir
from pellucid.data._splitting import stratified
from pellucid.data._user_data import as_lazy

__all__ = ["Sample", "sample_data"]

LONGEST_STREAM = 1_000_000
"""Maximum number of images read from a stream, which may be endless."""
Preprocess = Preprocessing | Callable[[Image.Image], Any] | None


@dataclass(frozen=True, eq=False)
class Sample:
    """Images chosen from a data set, and how they were chosen."""

    images: ImageSet
    """Displayed images, with a known normalization undone."""
    classes: tuple[str, ...] | None
    """Class names, by index; None if unknown."""
    title: str
    """Display name of the data set."""
    name: str
    total: int | None
    """Number of images in the data set; None if a stream was not read to its end."""
    notice: str
    """Size and kind of the sample, and any notice about the images, such as
    "2,000 of 50,000 test images, stratified by class, seed 0"."""
    sha256: str
    """Checksum of the images and labels."""
    indices: tuple[int, ...] | None = None
    """Positions of the images in the data set; None for a sample of a stream."""


def sample_data(
    data: Any,
    *,
    limit: int,
    preprocessing: Preprocess = None,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    most_bytes: int = 1_000_000_000,
    channels: int | None = None,
    kind: str = "test",
) -> Sample:
    """Read a stratified sample of at most `limit` images and `most_bytes` in memory.

    `data` is a torch data set, a loader, a pair (images, labels), or an opened `--dataset`. The same seed gives the
    same sample. Labels stratify it where the data set knows them without reading images; otherwise images are chosen at
    random. A stream (an `IterableDataset`, or a loader with a custom batch sampler) is read once, holding three
    times as many images at most. The global random state and the loader are left unchanged.

    PIL images, and everything from `--dataset`, are preprocessed and stored as bytes. Tensors are what the model
    expects: `preprocessing` then only undoes the normalization, and bytes 0…255 mean [0, 1]. Tensors outside
    [0, 1] are kept, and drawn on a stated scale. `channels` is the number of channels that the model needs,
    if known; `kind` names the images in `notice`. With `classes`, labels are indices of these names: if the data set
    names its own classes, they are matched by name.

    Raises `DataError` for images and labels that cannot be used, such as one-hot labels, images of different sizes,
    and labels outside the class names.

    >>> digits = torch.linspace(0, 1, 40).view(10, 1, 2, 2), torch.arange(10) % 2
    >>> sample = sample_data(digits, limit=4)
    >>> sample.images.labels.tolist(), sample.notice
    ([0, 1, 1, 0], '4 of 10 test images, stratified by class, seed 0')
    """
    if limit < 1:
        raise ConfigError(f"a sample of {limit} images is empty; give at least 1.")
    images = as_lazy(data)
    images.check_labeled()
    matched = match_classes(images, classes)
    for name in (images.title, *(matched.names or ())):
        check_text(name, f"a class name or the title of {images.name}")
    reader = _Reader(images, preprocessing, matched, channels)
    with preserved_random_state():
        # transforms may draw from the global state, on which the sample must not depend
        _seed_globally(derive_seed(seed, "sample"))
        chosen, total, method = reader.sample(limit, seed, most_bytes)
    result, scale = _bounded(chosen, preprocessing)
    has_bytes = "bytes 0…255 mean [0, 1]" if reader.convert.has_bytes else ""
    is_all = len(result) == total
    count = f"all {len(result):,} {kind} images" if is_all else _share(len(result), total, kind, method, seed)
    notice = "; ".join(filter(None, (count, images.remark, matched.remark, has_bytes, scale)))
    return Sample(result, matched.names, images.title, images.name, total, notice, checksum_of(result), reader.indices)


def _seed_globally(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (a user's transforms may draw from the global state)
    torch.default_generator.manual_seed(seed)


def _share(count: int, total: int | None, kind: str, method: str, seed: int) -> str:
    of = f"of {total:,} {kind} images" if total is not None else f"of the first {LONGEST_STREAM:,} {kind} images"
    return f"{count:,} {of}, {method}, seed {seed}"


class _Reader:
    """Read, convert and check chosen images."""

    def __init__(
        self, images: LazyImages, preprocessing: Preprocess, classes: MatchedClasses, channels: int | None
    ) -> None:
        self.images, self.classes = images, classes
        self.indices: tuple[int, ...] | None = None
        self.convert = Converter(preprocessing, channels, images.is_displayed)

    def sample(self, limit: int, seed: int, most_bytes: int) -> tuple[ImageSet, int | None, str]:
        """Return the chosen images, the number of all images, and how they were chosen."""
        if self.images.total is None:
            return self._stream(limit, seed, most_bytes)
        if self.images.total == 0:
            raise DataError(f"{self.images.name} is empty; at least one image is required.")
        order = self._chosen(limit, seed)
        first = next(self._read([order[0]]))[0]
        # bytes are tried first; if the images turn out to be floats, fewer of them fit
        size = packed([first]).nbytes
        while True:
            chosen = order if len(order) * size <= most_bytes else self._chosen(max(most_bytes // size, 1), seed)
            result = self._read_all(chosen)
            size = result.pixels[0].nbytes
            if len(result) <= max(most_bytes // size, 1):
                break
        self.indices = tuple(chosen)
        method = "chosen at random (their labels are known only after reading)"
        return result, self.images.total, method if self.images.labels is None else "stratified by class"

    def _chosen(self, count: int, seed: int) -> list[int]:
        """Return `count` indices in ascending order, so that files are read in order."""
        total, labels = self.images.total or 0, self.images.labels
        if count >= total:
            return list(range(total))
        draws = generator(seed, "sample")
        if labels is None:
            return torch.randperm(total, generator=draws)[:count].sort().values.tolist()
        # class indices without gaps, since labels may be large numbers
        compact = labels.unique(return_inverse=True)[1]
        return stratified(compact, count, draws, all_classes=True).nonzero().flatten().tolist()

    def _read(self, indices: list[int] | None) -> Iterator[tuple[torch.Tensor, int, str]]:
        for item in self.images.read(indices):
            yield self.convert(item.image, item.place), self.classes.index(item.label, item.place), item.place

    def _read_all(self, indices: list[int]) -> ImageSet:
        collector = Collector()
        with track(f"reading {self.images.title}", len(indices)) as tracker:
            for pixels, label, place in self._read(indices):
                collector.add(pixels, label, place)
                tracker.update(len(collector.labels))
        if len(collector.labels) != len(indices):
            raise DataError(
                f"{self.images.name} yielded {len(collector.labels)} images for {len(indices)} items; "
                "expected one image per item."
            )
        return collector.images(self.images.name)

    def _stream(self, limit: int, seed: int, most_bytes: int) -> tuple[ImageSet, int | None, str]:
        """Sample a stream in one pass."""
        draws = generator(seed, "sample")
        reservoir: Reservoir[tuple[torch.Tensor, int, str]] | None = None
        count = 0
        is_complete = True
        with track(f"reading {self.images.title}") as tracker:
            for item in self.images.read(None):
                if count == LONGEST_STREAM:
                    is_complete = False
                    break
                label = self.classes.index(item.label, item.place)
                if reservoir is None:
                    size = self._packed_item(item, label)[0].nbytes
                    reservoir = Reservoir(max(min(3 * limit, most_bytes // size), 1), draws)
                reservoir.add(label, lambda item=item, label=label: self._packed_item(item, label))  # type: ignore[misc]
                count += 1
                tracker.update(count)
        if reservoir is None:
            raise DataError(f"{self.images.name} is empty; at least one image is required.")
        collector = Collector()
        for pixels, label, place in reservoir.taken():
            collector.add(pixels, label, place)
        held = collector.images(self.images.name)
        compact = held.labels.unique(return_inverse=True)[1]
        most = min(limit, max(most_bytes // held.pixels[0].nbytes, 1))
        result = held if len(held) <= most else held[stratified(compact, most, draws, all_classes=True)]
        return result, count if is_complete else None, "stratified by class in one pass"

    def _packed_item(self, item: Item, label: int) -> tuple[torch.Tensor, int, str]:
        return packed([self.convert(item.image, item.place)])[0], label, item.place


def _bounded(images: ImageSet, preprocessing: Preprocess) -> tuple[ImageSet, str]:
    """Return the images with the scale they are drawn on, and a notice if it is not [0, 1]."""
    if images.pixels.dtype == torch.uint8:
        return images, ""
    low, high = images.pixels.min().item(), images.pixels.max().item()
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return ImageSet(images.pixels.clamp_(0, 1), images.labels), ""
    if isinstance(preprocessing, Preprocessing) and preprocessing.mean is not None:
        undone = f"with mean {_plain(preprocessing.mean)} and std {_plain(preprocessing.std or ())} undone, "
    else:
        undone = "mean and std are unknown: "
    # a constant image needs a scale too
    scale = (low, high if high > low else low + 1)
    remark = f"{undone}pixels range from {low:.3g} to {high:.3g} and are drawn on that scale"
    return ImageSet(images.pixels, images.labels, scale=scale), remark


def _plain(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
