"""A folder of images with one subfolder per class."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pellucid.core.errors import DataError
from pellucid.data import DATASETS, Request
from pellucid.data._lazy import Item, LazyImages, OpenData, attempt
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
    folder belong to the class. The images are grayscale if all of them are, otherwise RGB.

    Raises `DataError` if a folder is missing, empty, unreadable or has a name that is not UTF-8, if the folders of the
    two parts differ, or if an image cannot be read.
    """
    path = Path(request.argument).expanduser()
    parts = _parts(path)
    # sorted, so that the class indices do not depend on the file system
    classes = tuple(_classes(parts))
    title, most_pixels = path.resolve().name, request.max_megapixels * 1_000_000
    sets = []
    for part in parts:
        pairs = [(file, label) for label, name in enumerate(classes) for file in _image_files(part / name)]
        labels = torch.tensor([label for _, label in pairs])
        read = _Reader(path, pairs, most_pixels)
        files = [file for file, _ in pairs]
        sets.append(
            LazyImages(f"folder:{path}", title, len(pairs), read, labels, classes, is_displayed=True, files=files)
        )
    return OpenData(test=sets[-1], train=sets[0] if len(sets) == 2 else None)


@dataclass(frozen=True)
class _Reader:
    """Read files one by one."""

    root: Path
    pairs: list[tuple[Path, int]]
    most_pixels: int

    def __call__(self, indices: Sequence[int] | None) -> Iterator[Item]:
        for index in range(len(self.pairs)) if indices is None else indices:
            file, label = self.pairs[index]
            key = file.relative_to(self.root).as_posix()
            yield Item(str(file), attempt(read_picture, file, self.most_pixels, str(file)), label, key)


def _parts(path: Path) -> list[Path]:
    """Return the folders that hold class folders: PATH/train and PATH/test, or PATH."""
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; --dataset folder:PATH expects one folder of images per class.")
    train, test = path / "train", path / "test"
    if train.is_dir() and test.is_dir():
        return [train, test]
    if train.is_dir() and _visible_folders(train):
        raise DataError(f"{path} has a folder train with classes, but no folder test next to it; add {test}.")
    return [path]


def _classes(parts: list[Path]) -> list[str]:
    """Return the class names, sorted; they must be the same in all parts."""
    names = [_visible_folders(part) for part in parts]
    for part, classes in zip(parts, names, strict=True):
        if not classes:
            raise DataError(f"{part} has no class folders; expected one folder of images per class.")
    # with a single part, both sides are the same list
    different = sorted(set(names[0]) ^ set(names[-1]))
    if different:
        raise DataError(
            f"{parts[0]} and {parts[1]} must have the same class folders; only one of them has {', '.join(different)}."
        )
    return names[0]


def _visible_folders(path: Path) -> list[str]:
    _check_listable(path)
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        try:
            str(path / name).encode()  # class names end up in JSON files, which are UTF-8
        except UnicodeEncodeError as error:
            raise DataError(f"the name of the class folder {str(path / name)!r} is not UTF-8; rename it.") from error
    return names


def _image_files(path: Path) -> list[Path]:
    """Return all images below a class folder, sorted."""
    files = []
    # the folder itself is checked too, because rglob silently skips what it cannot list
    for entry in [path, *sorted(path.rglob("*"))]:
        if any(part.startswith(".") for part in entry.relative_to(path).parts):
            continue
        if entry.is_dir():
            _check_listable(entry)
        elif entry.suffix.lower() in SUFFIXES and entry.is_file():
            files.append(entry)
    if not files:
        raise DataError(
            f"the class folder {path} has no images ({', '.join(sorted(SUFFIXES))}); add some or remove it."
        )
    return files


def _check_listable(path: Path) -> None:
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"no permission to list the folder {path}; allow it (chmod u+rx) or choose another folder.")
