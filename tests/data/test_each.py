"""Images read one by one, where an unreadable image is a result."""

import errno
import io
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.errors import ConfigError, DataError
from pellucid.core.preprocessing import Preprocessing
from pellucid.data import Request
from pellucid.data._each import read_each
from pellucid.data._items import Converter
from pellucid.data._lazy import Item, LazyImages
from pellucid.data._matching import match_classes
from pellucid.data._open import open_data
from pellucid.data._user_data import as_lazy

COUNT = 12
CONVERT = Converter(None, 3, True)
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 20, 30, 3), np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, pixels in enumerate(PIXELS):
        file = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return tmp_path / "photos"


def opened(path: Path, **options: int) -> LazyImages:
    return open_data(f"folder:{path}", Request(Path(), **options)).test


def test_readable_images_have_pixels_label_and_key(photos: Path) -> None:
    reads = list(read_each(opened(photos), range(2, 9), CONVERT, (3, 20, 30)))
    order = [*range(0, COUNT, 2), *range(1, COUNT, 2)]
    assert [read.index for read in reads] == list(range(2, 9))
    assert [read.key for read in reads] == [f"{('cat', 'dog')[n % 2]}/{n:02}.png" for n in order[2:9]]
    assert [read.label for read in reads] == [n % 2 for n in order[2:9]]
    assert np.array_equal(torch.stack([read.pixels for read in reads]).permute(0, 2, 3, 1), PIXELS[order[2:9]])
    assert not any(read.problem for read in reads)


@pytest.mark.parametrize("indices", [[3, 2], [1, 1], [-1, 0], [11, 12], range(5, 0, -1), range(10, 14)])
def test_indices_must_be_ascending_and_in_range(photos: Path, indices: list[int]) -> None:
    with pytest.raises(ConfigError, match="expected ascending indices from 0 to 11"):
        list(read_each(opened(photos), indices, CONVERT))


def test_a_stream_is_refused() -> None:
    with pytest.raises(DataError, match="is a stream"):
        next(read_each(LazyImages("s", "S", None, lambda _: iter(())), [0], CONVERT))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
FAULTS = {
    "empty": (b"", "cannot be read as an image"),
    "text": (b"<!DOCTYPE html><title>404</title>", "not a BMP, GIF, JPEG"),
    "another format": (encoded(NOISE, "PCX"), "not a BMP, GIF, JPEG"),
    "truncated PNG": (half(encoded(NOISE)), "cannot be read as an image"),
    "truncated JPEG": (half(encoded(NOISE, "JPEG")), "cannot be read as an image"),
    "truncated GIF": (encoded(NOISE, "GIF")[:50], "cannot be read as an image"),
    "truncated TIFF": (half(encoded(NOISE, "TIFF")), "cannot be read as an image"),
    "truncated WebP": (half(encoded(NOISE, "WEBP")), "cannot be read as an image"),
    "damaged PNG": (encoded(NOISE)[:40] + b"\xff" * 60 + encoded(NOISE)[100:], "cannot be read as an image"),
    "too many pixels": (encoded(Image.new("1", (2000, 1001))), "a picture of 2000×1001 pixels"),
    "another size": (encoded(NOISE), r"has the shape \(3, 64, 64\), expected \(3, 20, 30\)"),
    "floats": (encoded(Image.new("F", (30, 20), -4.0), "TIFF"), "not 8-bit or 16-bit grayscale"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unreadable_file_is_a_result_and_the_others_are_read(photos: Path, fault: str) -> None:
    content, message = FAULTS[fault]
    (photos / "cat" / "02.png").write_bytes(content)
    reads = list(read_each(opened(photos, max_megapixels=2), range(COUNT), CONVERT, (3, 20, 30)))
    assert [read.index for read in reads] == list(range(COUNT))
    assert [read.key for read in reads if read.problem] == ["cat/02.png"]
    bad = reads[1]
    assert (bad.pixels, bad.label) == (None, None)
    assert re.search(message, bad.problem)
    assert "02.png" in bad.problem
    assert "\n" not in bad.problem
    assert all(read.pixels is not None and read.pixels.shape == (3, 20, 30) for read in reads if not read.problem)


@pytest.mark.parametrize("kind", ["vanished", "folder", "pipe", "dangling link", "link to itself"])
def test_a_file_that_cannot_be_opened_is_a_result(photos: Path, kind: str) -> None:
    file = photos / "dog" / "03.png"
    if kind == "dangling link":  # listed, because whether it can be read may change
        file.unlink()
        file.symlink_to(photos / "nowhere.png")
    images = opened(photos)
    assert images.total == COUNT
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "dangling link":
        file.symlink_to(photos / "nowhere.png")
    elif kind == "link to itself":
        file.symlink_to(file)
    assert [read.key for read in read_each(images, range(COUNT), CONVERT) if read.problem] == ["dog/03.png"]


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, name: str) -> None:
    original = os.open

    def fail(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith(name):
            raise OSError(code, os.strerror(code), str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG, errno.ESTALE])
def test_an_error_of_the_file_system_is_a_result(photos: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    images = opened(photos)
    refuse(monkeypatch, code, "02.png")
    (bad,) = [read for read in read_each(images, range(COUNT), CONVERT) if read.problem]
    assert os.strerror(code) in bad.problem


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_is_no_fault_of_the_image(photos: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    images = opened(photos)
    refuse(monkeypatch, code, "02.png")
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        list(read_each(images, range(COUNT), CONVERT))


@pytest.mark.parametrize("kind", ["removed", "emptied", "replaced"])
def test_a_folder_that_is_gone_raises(photos: Path, kind: str) -> None:
    images = opened(photos)
    reads = read_each(images, range(COUNT), CONVERT)
    assert not next(reads).problem
    if kind == "emptied":
        for part in list(photos.iterdir()):
            shutil.rmtree(part)
    else:
        photos.rename(photos.with_name("elsewhere"))
    if kind == "replaced":
        (photos / "other").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read any more|no longer the one that was opened"):
        next(reads)


def test_a_narrow_strip_does_not_fill_the_memory(photos: Path) -> None:
    Image.new("RGB", (1, 30_000)).save(photos / "cat" / "02.png")
    convert = Converter(Preprocessing(resize=256, crop=(224, 224)), 3, True)
    reads = list(read_each(opened(photos), range(3), convert, (3, 224, 224)))
    assert [bool(read.problem) for read in reads] == [False, True, False]
    assert "would be resized to 256×7680000" in reads[1].problem


def test_a_preprocessing_that_fails_for_one_image_is_a_result(photos: Path) -> None:
    Image.new("RGB", (5, 5)).save(photos / "cat" / "02.png")

    def crop(picture: Image.Image) -> Image.Image:
        if picture.width < 10:
            raise IndexError("too small")
        return picture.resize((8, 8))

    for steps in (crop, Preprocessing(function=crop)):
        reads = list(read_each(opened(photos), range(3), Converter(steps, 3, True), (3, 8, 8)))
        assert [bool(read.problem) for read in reads] == [False, True, False]
        assert "IndexError: too small" in reads[1].problem


def test_a_normalization_for_other_channels_is_a_result() -> None:
    steps = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)
    pixels = [
        torch.zeros(3, 4, 4),
        torch.zeros(1, 4, 4),
        torch.zeros(5, 4, 4),
        torch.zeros(4),
        np.zeros((2, 2), object),
    ]
    images = as_lazy([(one, 1) for one in pixels])
    reads = list(read_each(images, range(5), Converter(steps, None, images.is_displayed), (3, 4, 4)))
    assert [bool(read.problem) for read in reads] == [False, True, True, True, True]
    assert reads[0].label == 1


class Faulty:
    """A user's data set with faults."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> object:
        if index == 1:
            raise KeyError("nothing here\nat all")
        if index == 2:
            sys.exit(3)
        label = {3: None, 4: -1, 5: 1.5}.get(index, index)
        return torch.zeros(1, 2, 2), label


def test_faults_of_a_users_data_set_are_results() -> None:
    reads = list(read_each(as_lazy(Faulty()), range(6), Converter(None, None, False)))
    assert [read.label for read in reads] == [0, None, None, None, None, None]
    assert [bool(read.problem) for read in reads] == [False, True, True, False, False, True]
    assert [read.key for read in reads] == list("012345")
    assert reads[1].problem == "item 1 of Faulty cannot be read: KeyError: 'nothing here\\nat all'."
    assert "the label 1.5" in reads[5].problem


def test_labels_are_matched_with_class_names(photos: Path) -> None:
    images = opened(photos)
    label = match_classes(images, ["dog", "emu", "cat"]).index
    assert [read.label for read in read_each(images, [0, 11], CONVERT, label=label)] == [2, 0]


def test_a_source_that_ends_early_raises() -> None:
    images = LazyImages("s", "S", 3, lambda chosen: iter([Item("one", torch.zeros(1, 2, 2), 0)]))
    with pytest.raises(DataError, match="ended before image 1 of 3"):
        list(read_each(images, [0, 1], Converter(None, None, False)))


def test_read_still_raises_for_the_first_unreadable_image(photos: Path) -> None:
    (photos / "cat" / "02.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"02\.png cannot be read"):
        list(opened(photos).read(None))
