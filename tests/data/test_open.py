"""Opening a data set reads labels and class names, but no images."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pellucid.core.errors import ConfigError, DataError, UnknownName
from pellucid.data import DATASETS, Request, load_data
from pellucid.data._columns import image_column, label_column
from pellucid.data._load import resolved_name
from pellucid.data._open import open_data
from pellucid.data._read_all import LazySource
from pellucid.data._sample import sample_data
from pellucid.data._spec import split_options


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for part, count in (("train", 12), ("test", 8)):
        for number in range(count):
            file = tmp_path / "photos" / part / ("cat", "dog")[number % 2] / f"{number:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), (number, 100 if part == "test" else 0, 0)).save(file)
    return tmp_path / "photos"


def test_a_folder_is_listed_and_images_are_read_when_chosen(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    from pellucid.data import folder

    original = folder.read_picture
    monkeypatch.setattr(
        folder, "read_picture", lambda *arguments: read.append(arguments[0].stem) or original(*arguments)
    )
    opened = open_data(f"folder:{photos}", Request(Path()))
    assert opened.train is not None
    assert (opened.test.total, opened.train.total, opened.test.classes) == (8, 12, ("cat", "dog"))
    assert opened.test.labels is not None
    assert opened.test.labels.tolist() == [0] * 4 + [1] * 4
    assert opened.test.name == f"folder:{photos}"
    assert read == []
    items = list(opened.test.read([1, 6]))
    assert [item.image.getpixel((0, 0)) for item in items] == [(2, 100, 0), (5, 100, 0)]
    assert read == ["02", "05"]


def test_limits_are_applied_before_reading(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_data(f"folder:{photos}", Request(Path(), seed=4))
    limited = load_data(f"folder:{photos}", Request(Path(), seed=4), limit_train=6, limit_test=2)
    from pellucid.data import folder

    read = []
    original = folder.read_picture
    monkeypatch.setattr(folder, "read_picture", lambda *arguments: read.append(arguments[0]) or original(*arguments))
    again = load_data(f"folder:{photos}", Request(Path(), seed=4), limit_train=6, limit_test=2)
    assert len(read) == 8
    assert again.sha256 == limited.sha256 != whole.sha256
    assert limited.test.labels.tolist() == [0, 1]
    assert {tuple(pixel) for pixel in limited.test.pixels[:, :, 0, 0].tolist()} <= {
        tuple(pixel) for pixel in whole.test.pixels[:, :, 0, 0].tolist()
    }


def test_a_folder_without_parts_is_a_test_set(photos: Path) -> None:
    sample = sample_data(open_data(f"folder:{photos / 'test'}", Request(Path())), limit=100)
    assert sample.notice == "all 8 test images; the data set has no test part, so every image counts as one"


def test_orientation_is_applied_once(tmp_path: Path) -> None:
    for label in "ab":
        for number in range(3):
            picture = Image.new("RGB", (8, 4), (10, 20, 30))
            exif = picture.getexif()
            exif[0x0112] = 6  # to be turned by a quarter
            (tmp_path / label).mkdir(exist_ok=True)
            picture.save(tmp_path / label / f"{number}.png", exif=exif)
    assert load_data(f"folder:{tmp_path}", Request(Path())).test.image_shape == (3, 8, 4)
    assert sample_data(open_data(f"folder:{tmp_path}", Request(Path())), limit=2).images.image_shape == (3, 8, 4)


class Pairs:
    """Images of a user's function."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        return torch.full((1, 4, 4), index / 255), index % 2


TEST = Pairs(50)


def test_a_users_function_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shop_of_tests.py").write_text("load = lambda: None")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shop_of_tests

    monkeypatch.setattr(shop_of_tests, "load", lambda: (Pairs(20), TEST, ["even", "odd"]))
    opened = open_data("shop_of_tests:load", Request(tmp_path))
    assert opened.train is not None
    assert (opened.test.total, opened.train.total, opened.test.classes) == (50, 20, ("even", "odd"))
    assert TEST.read == 0
    sample = sample_data(opened, limit=10)
    assert TEST.read == 11
    assert sample.name == "shop_of_tests:load"
    assert (sample.images.pixels[:, 0, 0, 0] % 2).tolist() == sample.images.labels.tolist()


def test_names_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    assert resolved_name("parquet", "a.parquet?label=x") == f"parquet:{tmp_path / 'a.parquet'}?label=x"
    assert resolved_name("hf", "local?split=x") == f"hf:{tmp_path / 'local'}?split=x"
    assert resolved_name("hf", "owner/name?split=x") == "hf:owner/name?split=x"
    assert resolved_name("folder", "what?") == f"folder:{tmp_path / 'what?'}"
    assert resolved_name("digits", "") == "digits"


@pytest.mark.parametrize("argument", ["a?label", "a?label=", "a?=x", "a?Label=x", "a?"])
def test_malformed_options_are_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="is not an option; expected NAME=VALUE"):
        split_options(argument)


def test_columns_are_chosen_by_type_and_name() -> None:
    assert image_column(["photo"], ["photo", "x"], None, "t") == "photo"
    assert image_column(["mask", "image"], ["mask", "image"], None, "t") == "image"
    with pytest.raises(DataError, match=r"several image columns \(img, image\)"):
        image_column(["img", "image"], ["img", "image"], None, "t")
    with pytest.raises(UnknownName):
        image_column(["img"], ["img"], "image", "t")
    assert label_column(["kind"], ["label"], ["kind", "label"], None, "t") == "kind"
    with pytest.raises(DataError, match="no label column"):
        label_column([], ["caption"], ["caption"], None, "t")


def test_reading_more_than_the_memory_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 2, "SC_PAGE_SIZE": 100}[name])
    with pytest.raises(DataError, match="needs 0 GB for 20 images .*--limit-train"):
        load_data(f"folder:{photos}", Request(Path()))


def test_all_sources_of_files_are_read_on_demand() -> None:
    assert all(isinstance(DATASETS[name], LazySource) for name in ("folder", "hf", "numpy", "parquet", "torchvision"))
