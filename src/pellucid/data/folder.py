"""A folder of images, with one subfolder per class or without classes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pellucid.core.errors import DataError
from pellucid.data import DATASETS, Request
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt
from pellucid.data._paths import Paths, check_listable, list_files
from pellucid.data._pictures import read_picture
from pellucid.data._read_all import LazySource

__all__ = ["SUFFIXES", "folder"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Supported file name extensions; other files are ignored, and so is every name that starts with a dot."""


@DATASETS.register("folder")
@LazySource
def folder(request: Request) -> OpenData:
    """Open the images below `request.argument`, in sorted order.

    Either PATH/train and PATH/test hold one folder per class, or PATH itself does. In the second case a stratified
    fifth becomes the test set of a training run, and a class with one image stays in training. Subfolders of a class
    folder belong to the class. Images in a folder without subfolders have no labels. The images are grayscale if all of
    them are, otherwise RGB.

    Raises `DataError` if a folder is missing, empty, unreadable or has a name that is not UTF-8, or if the folders of
    the two parts differ.
    """
    path = Path(request.argument).expanduser()
    parts = [_Part.listed(each) for each in _parts(path)]
    classes = _classes(parts)
    most_pixels = request.max_megapixels * 1_000_000
    sets = [_images(path, part, classes, most_pixels) for part in parts]
    return OpenData(test=sets[-1], train=sets[0] if len(sets) == 2 else None)


@dataclass(frozen=True)
class _Part:
    """A folder with training or test images."""

    path: Path
    classes: tuple[str, ...]
    """Names of its class folders, sorted, so that class indices do not depend on the file system."""
    pictures: int
    """Number of images next to the class folders."""

    @classmethod
    def listed(cls, path: Path) -> "_Part":
        """List a folder; raises `DataError` for a class name that is not UTF-8."""
        check_listable(path)
        names, pictures = [], 0
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    names.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122
                    pictures += 1
        for name in names:
            try:
                str(path / name).encode()  # class names end up in JSON files, which are UTF-8
            except UnicodeEncodeError as error:
                message = f"the name of the class folder {str(path / name)!r} is not UTF-8; rename it."
                raise DataError(message) from error
        return cls(path, tuple(sorted(names)), pictures)


def _images(path: Path, part: _Part, classes: tuple[str, ...], most_pixels: int) -> LazyImages:
    """List the images of a part; without class folders, they are unlabeled."""
    within = "" if part.path == path else part.path.name
    runs, counts = [], []
    for name in part.classes or ("",):
        found = list(list_files(path, os.path.join(within, name).rstrip(os.sep), SUFFIXES))  # noqa: PTH118
        counts.append(sum(len(names) for _, names in found))
        if not counts[-1]:
            raise DataError(
                f"the class folder {part.path / name} has no images ({', '.join(sorted(SUFFIXES))}); add some or "
                "remove it."
            )
        runs.extend(found)
    files = Paths(path, runs)
    labels = torch.from_numpy(np.repeat(np.arange(len(part.classes)), counts)) if part.classes else None
    return LazyImages(
        f"folder:{path}",
        path.resolve().name,
        len(files),
        _Reader(files, labels, most_pixels, _identity(path)),
        labels,
        classes or None,
        is_displayed=True,
        files=files,
        remark=_remark(part),
        unlabeled=f"{part.path} has no class folders; expected one folder of images per class." * (not part.classes),
        contents=files.contents,
    )


def _remark(part: _Part) -> str:
    """Return a notice about images that belong to no class."""
    if not part.classes or not part.pictures:
        return ""
    one = part.pictures == 1
    return f"{part.pictures:,} image{'' if one else 's'} next to the class folders {'is' if one else 'are'} left out"


@dataclass(frozen=True, eq=False)
class _Reader:
    """Read files one by one."""

    files: Paths
    labels: torch.Tensor | None
    most_pixels: int
    identity: tuple[int, int]

    def __call__(self, indices: Sequence[int] | None) -> Iterator[Item]:
        for index in range(len(self.files)) if indices is None else indices:
            file = self.files[index]
            image = attempt(read_picture, file, self.most_pixels, str(file))
            if isinstance(image, DataError):
                self._check_root()
            label = None if self.labels is None else int(self.labels[index])
            yield Item(str(file), image, label, self.files.key(index))

    def _check_root(self) -> None:
        """Raise `DataError` if the whole folder is gone, for example because its disk was unmounted."""
        root = self.files.root
        try:
            # an unmounted disk leaves an empty folder; an unplugged one may only fail when it is listed
            is_same = _identity(root) == self.identity
            with os.scandir(root) as entries:
                is_empty = next(entries, None) is None
        except OSError as error:
            raise DataError(f"the folder {root} cannot be read any more: {error.strerror or error}.") from error
        if not is_same or is_empty:
            raise DataError(f"the folder {root} is no longer the one that was opened; restore it, or start again.")


def _identity(path: Path) -> tuple[int, int]:
    """Return the numbers by which the file system tells a folder from others."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _parts(path: Path) -> list[Path]:
    """Return the folders that hold class folders: PATH/train and PATH/test, or PATH."""
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; --dataset folder:PATH expects one folder of images per class.")
    train, test = path / "train", path / "test"
    if train.is_dir() and test.is_dir():
        return [train, test]
    if train.is_dir() and _Part.listed(train).classes:
        raise DataError(f"{path} has a folder train with classes, but no folder test next to it; add {test}.")
    return [path]


def _classes(parts: list[_Part]) -> tuple[str, ...]:
    """Return the class names, which must be the same in all parts with class folders; none if no part has any."""
    for part in parts:
        if not part.classes and not part.pictures:
            raise DataError(f"{part.path} has no class folders; expected one folder of images per class.")
    labeled = [part for part in parts if part.classes]
    if not labeled:
        return ()
    # with a single part, both sides are the same list
    different = sorted(set(labeled[0].classes) ^ set(labeled[-1].classes))
    if different:
        raise DataError(
            f"{parts[0].path} and {parts[1].path} must have the same class folders; only one of them has "
            f"{', '.join(different)}."
        )
    return labeled[0].classes
