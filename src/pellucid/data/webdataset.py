"""WebDataset: tar archives whose members with one name and different suffixes form a sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.core.files import MOST_BYTES, is_shortage
from pellucid.data import DATASETS, Request
from pellucid.data._columns import check_options, test_parts, train_part
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt
from pellucid.data._paths import Paths
from pellucid.data._pictures import read_picture
from pellucid.data._read_all import LazySource
from pellucid.data._samples import BAD_LABEL, NO_LABEL, Choice, list_samples
from pellucid.data._shards import by_part, expand
from pellucid.data._spec import split_options

__all__ = ["webdataset"]


@DATASETS.register("webdataset")
@LazySource
def webdataset(request: Request) -> OpenData:
    """Open the shards at `request.argument`: a .tar file, a folder of them, or a pattern with `*` or `{000..009}`.

    The members KEY.jpg and KEY.cls are one sample. Its image is the member with an image suffix, and its label the
    integer in `cls`, `label` or `txt`, or under "label" in `json`. After a `?`, `image=SUFFIX`, `label=SUFFIX` and
    `split=NAME` resolve ambiguities, and `label=none` ignores labels. Shards with train, test or validation in their
    names are splits. All headers are read once, and images by their offsets. Nothing is unpickled.

    Raises `DataError` if a shard is missing, damaged or compressed, or if no sample has an image.
    """
    argument, options = split_options(request.argument)
    check_options(options)
    root, files = expand(argument, ".tar")
    parts = by_part(files, root)
    test = test_parts(list(parts), options.get("split"), argument)[0]
    train = train_part(list(parts), test)
    choice = Choice(*(value and value.lower() for value in (options.get("image"), options.get("label"))))
    most = request.max_megapixels * 1_000_000
    sets = [_images(argument, root, parts[part], choice, most) for part in (test, train) if part is not None]
    return OpenData(sets[0], sets[1] if train is not None else None)


def _images(argument: str, root: Path, files: list[Path], choice: Choice, most_pixels: int) -> LazyImages:
    """List the samples of shards."""
    runs, columns, cut = [], [], []
    for file in files:
        name = file.relative_to(root).as_posix()
        samples = list_samples(file, name, choice)
        runs.append((name, samples.keys))
        # copied into arrays of the right size; the lists are freed shard by shard
        columns.append([np.array(values, np.int64) for values in (samples.starts, samples.sizes, samples.labels)])
        if not samples.is_complete:
            cut.append(name)
    starts, sizes, labels = (np.concatenate(each) for each in zip(*columns, strict=True))
    keys = Paths(root, runs)
    _check(argument, keys, starts, labels, choice)
    is_labeled = bool((labels != NO_LABEL).any())
    counts = tuple(len(names) for _, names in runs)
    reader = _Reader(tuple(files), np.cumsum([0, *counts]), keys, starts, sizes, labels, most_pixels)
    return LazyImages(
        f"webdataset:{argument}",
        root.resolve().name if len(files) > 1 else files[0].stem,
        len(keys),
        reader,
        torch.from_numpy(labels) if is_labeled else None,
        is_displayed=True,
        remark=_remark(keys, starts, labels if is_labeled else labels[:0], cut),
        unlabeled="" if is_labeled else _without_labels(argument, choice),
        contents=lambda: _contents(keys, starts, sizes),
    )


def _check(argument: str, keys: Paths, starts: np.ndarray, labels: np.ndarray, choice: Choice) -> None:
    """Raise `DataError` if no sample can be used."""
    if not len(keys):
        raise DataError(f"{argument} has no samples; expected members such as 0001.jpg and 0001.cls.")
    if not (starts >= 0).any():
        which = (
            f"a member with the suffix {choice.image}" if choice.image else "an image, such as a member .jpg or .png"
        )
        raise DataError(f"no sample of {argument} has {which}; name it: --dataset …?image=SUFFIX.")
    if (labels == BAD_LABEL).all():
        raise DataError(
            f"the labels of {argument} are no class indices, as {keys.key(0)} shows; expected integers from 0 on in "
            "cls, label, txt or json. Ignore them with --dataset …?label=none."
        )


def _without_labels(argument: str, choice: Choice) -> str:
    if choice.label == "none":
        return f"{argument} was opened without labels (label=none)."
    member = choice.label or "cls, label, txt or json"
    return f"no sample of {argument} has a label: expected a member {member} with an integer from 0 on."


def _remark(keys: Paths, starts: np.ndarray, labels: np.ndarray, cut: list[str]) -> str:
    """Return a notice about samples that are not complete, with the first of each kind."""
    kinds = {
        "without an image": starts < 0,
        "without a label": labels == NO_LABEL,
        "with a label that is no class index": labels == BAD_LABEL,
    }
    found = [
        f"{int(mask.sum()):,} of {len(keys):,} samples {kind}, such as {keys.key(int(mask.argmax()))}"
        for kind, mask in kinds.items()
        if mask.any()
    ]
    if cut:
        found.append(f"{cut[0]} may be cut off ({len(cut):,} shards have no mark of their end)")
    return "; ".join(found)


def _contents(keys: Paths, starts: np.ndarray, sizes: np.ndarray) -> Iterator[bytes]:
    yield from keys.contents(most_sizes=0)
    yield starts.astype("<i8").tobytes()
    yield sizes.astype("<i8").tobytes()


@dataclass(frozen=True, eq=False)
class _Reader:
    """Read images by their offsets, one shard after the other."""

    files: tuple[Path, ...]
    first: np.ndarray
    """Index of the first sample of each shard, and the total."""
    keys: Paths
    starts: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    most_pixels: int

    def __call__(self, indices: Sequence[int] | None) -> Iterator[Item]:
        chosen = range(len(self.keys)) if indices is None else indices
        position = 0
        while position < len(chosen):
            shard = int(np.searchsorted(self.first, chosen[position], side="right")) - 1
            with self._opened(self.files[shard]) as file:
                while position < len(chosen) and chosen[position] < self.first[shard + 1]:
                    yield self._item(file, int(chosen[position]))
                    position += 1

    def _opened(self, path: Path) -> IO[bytes]:
        try:
            return path.open("rb")
        except OSError as error:
            if is_shortage(error):
                raise
            raise DataError(f"the shard {path} cannot be read any more: {error.strerror or error}.") from error

    def _item(self, file: IO[bytes], index: int) -> Item:
        key, label = self.keys.key(index), int(self.labels[index])
        place = f"the sample {key}"
        if label == BAD_LABEL:
            image: Any = DataError(f"{place} has a label that is no class index; expected an integer from 0 on.")
        else:
            image = attempt(self._image, file, index, place)
        return Item(place, image, None if label < 0 else label, key)

    def _image(self, file: IO[bytes], index: int, place: str) -> Any:
        start, size = int(self.starts[index]), int(self.sizes[index])
        if start < 0:
            raise DataError(f"{place} has no image; add a member such as .jpg, or remove the sample.")
        if size > MOST_BYTES:
            raise DataError(f"{place} has an image of {size:,} bytes; at most {MOST_BYTES:,} are read.")
        try:
            file.seek(start)
            content = file.read(size)
        except OSError as error:
            if is_shortage(error):
                raise
            raise DataError(f"{place} cannot be read: {error.strerror or error}.") from error
        if len(content) != size:
            raise DataError(f"{place} is cut off after {len(content):,} of {size:,} bytes; copy the shard again.")
        return read_picture(BytesIO(content), self.most_pixels, place)
