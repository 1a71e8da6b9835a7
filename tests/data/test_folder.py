"""Folders of images with one subfolder per class."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.errors import DataError
from pellucid.data import DATASETS, RawData, Request

folder = DATASETS["folder"]


def save(path: Path, value: int | tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(path)


def load(path: Path, **options: int) -> RawData:
    return folder(Request(Path(), argument=str(path), **options))


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """Train and test folders of two classes; each image's gray value identifies it."""
    for part, base in (("train", 0), ("test", 100)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(3):
                save(tmp_path / part / name / f"{number}.png", base + 10 * label + number)
    return tmp_path


def values(images) -> list[int]:
    assert (images.pixels == images.pixels[:, :1, :1, :1]).all()
    return images.pixels[:, 0, 0, 0].tolist()


def test_train_and_test_folders(parted: Path) -> None:
    raw = load(parted)
    assert raw.classes == ("cat", "dog")
    assert (raw.title, raw.default_epochs, raw.shift_share) == (parted.name, 10, 0.0)
    assert raw.train.image_shape == raw.test.image_shape == (1, 4, 6)
    assert (values(raw.train), values(raw.test)) == ([0, 1, 2, 10, 11, 12], [100, 101, 102, 110, 111, 112])
    assert raw.train.labels.tolist() == raw.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.train.pixels.dtype == torch.uint8


def test_hidden_and_other_files_are_ignored_and_subfolders_included(parted: Path) -> None:
    before = load(parted)
    save(parted / "train" / "cat" / ".hidden.png", 99)
    save(parted / "train" / "cat" / ".thumbnails" / "1.png", 99)
    save(parted / "train" / ".git" / "1.png", 99)
    (parted / "train" / "cat" / "notes.txt").write_text("no image")
    (parted / "train" / "README.png").write_text("no class")
    assert torch.equal(load(parted).train.pixels, before.train.pixels)
    save(parted / "train" / "cat" / "more" / "9.PNG", 50)
    assert values(load(parted).train) == [0, 1, 2, 50, 10, 11, 12]


def test_one_color_image_makes_all_images_rgb(parted: Path) -> None:
    save(parted / "test" / "dog" / "9.png", (1, 2, 3))
    raw = load(parted)
    assert raw.train.image_shape == raw.test.image_shape == (3, 4, 6)
    assert raw.test.pixels[-1, :, 0, 0].tolist() == [1, 2, 3]
    assert raw.train.pixels[1, :, 0, 0].tolist() == [1, 1, 1]


def test_a_single_folder_is_split_by_seed(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "many" / f"{number:02}.png", number)
    for number in range(10):
        save(tmp_path / "some" / f"{number:02}.png", 100 + number)
    save(tmp_path / "lone" / "1.png", 200)
    raw = load(tmp_path)
    assert raw.classes == ("lone", "many", "some")
    assert sorted(values(raw.train) + values(raw.test)) == [*range(20), *range(100, 110), 200]
    assert raw.test.labels.bincount().tolist() == [0, 4, 2]
    assert values(load(tmp_path).test) == values(raw.test)
    assert len({str(values(load(tmp_path, seed=seed).test)) for seed in range(4)}) > 1


def test_images_are_resized_on_request(parted: Path) -> None:
    save(parted / "train" / "cat" / "0.png", 0, size=(31, 17))
    raw = load(parted, image_size=12)
    assert raw.train.image_shape == (1, 12, 12)
    assert values(raw.train) == [0, 1, 2, 10, 11, 12]


def test_images_of_different_sizes_require_image_size(parted: Path) -> None:
    save(parted / "test" / "cat" / "1.png", 0, size=(8, 9))
    first, other = parted / "train" / "cat" / "0.png", parted / "test" / "cat" / "1.png"
    with pytest.raises(DataError) as caught:
        load(parted)
    assert str(caught.value).startswith(f"{first} has 6×4 pixels, {other} has 8×9; use")
    assert "--image-size" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", "half"])
def test_an_unreadable_image_is_named_in_the_error(parted: Path, content: bytes | str) -> None:
    file = parted / "train" / "dog" / "1.png"
    if content == "half":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(noise).save(file)
        content = file.read_bytes()[:2000]
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"dog.1\.png cannot be read as an image"):
        load(parted)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 0)
    with pytest.raises(DataError, match="has no class folders"):
        load(tmp_path)


def test_different_classes_in_train_and_test_are_refused(parted: Path) -> None:
    save(parted / "test" / "emu" / "1.png", 0)
    with pytest.raises(DataError, match="only one of them has emu"):
        load(parted)


def test_an_empty_class_is_refused(parted: Path) -> None:
    (parted / "train" / "ant").mkdir()
    (parted / "test" / "ant").mkdir()
    with pytest.raises(DataError, match=r"train.ant has no images"):
        load(parted)


def test_train_without_test_is_refused(parted: Path) -> None:
    (parted / "test").rename(parted / "testing")
    with pytest.raises(DataError, match="no folder test next to it"):
        load(parted)


def test_a_class_can_be_named_train(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path / "plane" / f"{number}.png", number)
        save(tmp_path / "train" / f"{number}.png", number)
    assert load(tmp_path).classes == ("plane", "train")


def test_a_class_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    for name in (b"cat", b"caf\xe9"):
        try:
            save(tmp_path / os.fsdecode(name) / "1.png", 0)
        except OSError:
            pytest.skip("this file system only allows UTF-8 names")
    with pytest.raises(
        DataError, match=r"the name of the class folder '.*caf\\udce9' is not UTF-8; rename it"
    ) as caught:
        load(tmp_path)
    str(caught.value).encode()


@pytest.mark.parametrize("name", [".", "train", "train/dog", "train/dog/more"])
def test_an_unreadable_folder_is_refused(parted: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(parted / "train" / "dog" / "more" / "1.png", 0)
    hidden = (parted / name).resolve()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).resolve() != hidden or not mode & os.R_OK)
    if name == ".":
        save(parted / "plane" / "1.png", 0)
        (parted / "test").rename(parted / "testing")
        (parted / "train").rename(parted / "training")
    with pytest.raises(DataError, match="no permission to list the folder .*; allow it"):
        load(parted)
