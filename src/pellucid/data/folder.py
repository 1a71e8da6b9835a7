"""A folder of images with one subfolder per class."""

import os
from pathlib import Path

import torch
from PIL import Image

from pellucid.core.errors import DataError
from pellucid.core.raster import TooLarge, open_raster
from pellucid.core.seeding import generator
from pellucid.core.terminal import track
from pellucid.data import DATASETS, ImageSet, RawData, Request
from pellucid.data._pictures import picture_pixels
from pellucid.data._splitting import split_off_test

__all__ = ["SUFFIXES", "folder"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Supported file name extensions; other files are ignored, and so is every name that starts with a dot."""


@DATASETS.register("folder")
def folder(request: Request) -> RawData:
    """Load the images below `request.argument`, in sorted order, as bytes.

    Either PATH/train and PATH/test hold one folder per class, or PATH itself does. In the second case a stratified
    fifth, drawn from `request.seed`, becomes the test set, and a class with one image stays in training. Subfolders of
    a class folder belong to the class. The images are grayscale if all of them are, otherwise RGB. With
    `request.image_size`, each is scaled to a square of that size; otherwise all must have the same size.

    Raises `DataError` if a folder is missing, empty, unreadable or has a name that is not UTF-8, if the folders of the
    two parts differ, or if an image cannot be read.
    """
    path = Path(request.argument).expanduser()
    parts = _parts(path)
    # sorted, so that the class indices do not depend on the file system
    classes = _classes(parts)
    paths = {part: [_image_files(part / name) for name in classes] for part in parts}
    pixels = _load(path, [file for part in parts for files in paths[part] for file in files], request)
    # in the order of the files above
    labels = torch.tensor([label for part in parts for label, files in enumerate(paths[part]) for _ in files])
    # both parts are read at once, so that they agree in size and channels
    images = ImageSet(pixels, labels)
    if len(parts) == 2:
        count = sum(len(files) for files in paths[parts[0]])
        train, test = images[:count], images[count:]
    else:
        train, test = split_off_test(images, generator(request.seed, "folder", "test"))
    return RawData(train, test, tuple(classes), title=path.resolve().name)


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


def _load(path: Path, files: list[Path], request: Request) -> torch.Tensor:
    """Read all files as (image, channel, height, width)."""
    pixels: list[torch.Tensor] = []
    with track(f"reading {path.name}", len(files)) as tracker:
        for file in files:
            pixels.append(_read(file, request))
            if pixels[-1].shape[1:] != pixels[0].shape[1:]:
                raise DataError(
                    f"{files[0]} has {_size(pixels[0])} pixels, {file} has {_size(pixels[-1])}; "
                    "use images of one size, or give --image-size to scale them."
                )
            tracker.update(len(pixels))
    return _stacked(pixels)


def _stacked(pixels: list[torch.Tensor]) -> torch.Tensor:
    """Stack all images; grayscale images are repeated over three channels if others have color."""
    channels = max(len(image) for image in pixels)
    stacked = torch.empty(len(pixels), channels, *pixels[0].shape[1:], dtype=torch.uint8)
    for target, image in zip(stacked, pixels, strict=True):
        target.copy_(image)  # broadcasts one channel to three
    return stacked


def _read(file: Path, request: Request) -> torch.Tensor:
    try:
        with open_raster(file, request.max_megapixels * 1_000_000) as opened:
            return picture_pixels(opened, request.image_size, request.crop)
    # Pillow raises SyntaxError for some damaged PNG files
    except (OSError, SyntaxError, ValueError, DataError, Image.DecompressionBombError) as error:
        reason = str(error) or type(error).__name__
        remedy = "raise --max-megapixels, or shrink" if isinstance(error, TooLarge) else "repair"
        raise DataError(f"{file} cannot be read as an image ({reason}); {remedy} or remove it.") from error


def _size(image: torch.Tensor) -> str:
    return f"{image.shape[2]}×{image.shape[1]}"
