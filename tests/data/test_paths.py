"""Lists of files: order, keys and memory."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pellucid.core.errors import DataError
from pellucid.data import Request, load_data
from pellucid.data._fingerprint import fingerprint_of
from pellucid.data._open import open_data
from pellucid.data._paths import Paths, list_files
from pellucid.data._sample import sample_data

NAMES = ["b.png", "a-1.png", "a/2.png", "a/b.d/1.PNG", "a.png", "B.png", "é.png", "10.png", "9.png", "a/x y\n.png"]


def listed(root: Path) -> Paths:
    return Paths(root, list(list_files(root, "", {".png"})))


def touch(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_sorted_part_by_part(tmp_path: Path) -> None:
    touch(tmp_path, [*NAMES, "a/.hidden/1.png", ".1.png", "notes.txt", "png"])
    (tmp_path / "link").symlink_to(tmp_path / "a")
    paths = listed(tmp_path)
    expected = sorted(Path(name) for name in NAMES)
    assert [paths.key(index) for index in range(len(paths))] == [path.as_posix() for path in expected]
    assert list(paths) == [tmp_path / path for path in expected]
    assert (len(paths), paths[-1], paths[2:4]) == (10, tmp_path / "é.png", [tmp_path / path for path in expected[2:4]])
    with pytest.raises(IndexError):
        paths[10]


def test_names_that_are_not_utf_8_have_readable_keys(tmp_path: Path) -> None:
    try:
        touch(tmp_path, [os.fsdecode(b"caf\xe9.png")])
    except OSError:
        pytest.skip("this file system only allows UTF-8 names")
    paths = listed(tmp_path)
    assert paths.key(0) == "caf\\xe9.png"
    assert paths[0].exists()


def test_a_million_files_take_little_memory() -> None:
    names = [f"n{index // 1000:08}_{index:08}.JPEG" for index in range(100_000)]
    paths = Paths(Path("root"), [(f"n{part:08}", names) for part in range(10)])
    held = len(paths._names) + paths._ends.nbytes
    assert (len(paths), held / len(paths)) == (1_000_000, 28.0)  # a name of 23 bytes, its end, and an offset of 4
    assert paths[123_456] == Path("root/n00000001/n00000023_00023456.JPEG")
    assert paths.key(-1) == "n00000009/n00000099_00099999.JPEG"


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for number in range(6):
        Image.new("L", (3, 2), number).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_flat_folder_is_unlabeled(flat: Path) -> None:
    images = open_data(f"folder:{flat}", Request(flat)).test
    assert (images.total, images.labels, images.classes) == (6, None, None)
    items = list(images.read(range(2, 5)))
    assert [(item.key, item.label) for item in items] == [("2.png", None), ("3.png", None), ("4.png", None)]
    assert [item.image.getpixel((0, 0)) for item in items] == [2, 3, 4]
    for use in (lambda: load_data(f"folder:{flat}", Request(flat)), lambda: sample_data(images, limit=3)):
        with pytest.raises(DataError, match="has no class folders; .* Only pellucid explain works without labels"):
            use()


def test_an_unlabeled_test_part_beside_a_labeled_training_part(flat: Path, tmp_path: Path) -> None:
    root = tmp_path / "all"
    (root / "test").mkdir(parents=True)
    for file in list(flat.glob("*.png")):
        file.rename(root / "test" / file.name)
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        Image.new("L", (3, 2)).save(root / "train" / name / "1.png")
    opened = open_data(f"folder:{root}", Request(root))
    assert opened.train is not None
    assert (opened.test.total, opened.test.labels, opened.test.classes) == (6, None, ("cat", "dog"))
    assert [item.key for item in opened.test.read([0])] == ["test/0.png"]
    assert [item.key for item in opened.train.read([1])] == ["train/dog/1.png"]


def test_images_beside_class_folders_are_reported(flat: Path) -> None:
    (flat / "cat").mkdir()
    (flat / "0.png").rename(flat / "cat" / "0.png")
    assert open_data(f"folder:{flat}", Request(flat)).test.remark.endswith(
        "5 images next to the class folders are left out"
    )


def test_the_fingerprint_is_that_of_names_and_sizes(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def fingerprint(path: Path) -> str:
        return fingerprint_of(open_data(f"folder:{path}", Request(path)).test)

    before = fingerprint(flat)
    copy = tmp_path_factory.mktemp("elsewhere") / "other name"
    copy.mkdir()
    for file in flat.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
        os.utime(copy / file.name, (0, 0))
    assert fingerprint(copy) == before
    (copy / "3.png").write_bytes((copy / "3.png").read_bytes() + b"\0")
    assert fingerprint(copy) != before
    (copy / "3.png").write_bytes((flat / "3.png").read_bytes())
    assert fingerprint(copy) == before
    (copy / "3.png").rename(copy / "33.png")
    assert fingerprint(copy) != before


def test_fingerprints_of_images_in_memory_differ_by_pixels_and_labels() -> None:
    first, again, other = (fingerprint_of(open_data("digits", Request(Path(), seed=seed)).test) for seed in (0, 0, 1))
    assert first == again != other  # the seed decides which images are test images


@pytest.mark.slow
def test_listing_a_folder_of_fifty_thousand_files(tmp_path: Path) -> None:
    import time

    names = [f"{index:07}.jpg" for index in np.random.default_rng(0).permutation(50_000).tolist()]
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY))
    start = time.process_time()
    images = open_data(f"folder:{tmp_path}", Request(tmp_path)).test
    assert time.process_time() - start < 2
    assert images.total == 50_000
    assert images.files is not None
    assert [path.name for path in images.files[::10_000]] == [f"{index:07}.jpg" for index in range(0, 50_000, 10_000)]
