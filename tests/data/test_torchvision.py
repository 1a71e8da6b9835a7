"""torchvision's classification data sets."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pellucid.core.errors import ConfigError, DownloadError, UnknownName
from pellucid.data import Request, load_data
from pellucid.data._open import open_data
from pellucid.data._sample import sample_data
from pellucid.data.torchvision import REFUSED


@pytest.fixture
def mnist_folder(mnist_files: Path, tmp_path: Path) -> Path:
    """A data folder that already has MNIST in torchvision's layout."""
    raw = tmp_path / "torchvision" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in mnist_files.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return tmp_path


def test_mnist_is_the_same_as_ours(mnist_folder: Path, mnist_files: Path) -> None:
    options = {"limit_train": 600, "limit_test": 100}
    theirs = load_data("torchvision:MNIST", Request(mnist_folder), **options)
    ours = load_data("mnist", Request(mnist_folder, mirrors=(str(mnist_files),)), **options)
    assert theirs.sha256 == ours.sha256
    assert theirs.classes == tuple(torchvision.datasets.MNIST.classes)
    assert (theirs.name, theirs.title) == ("torchvision:MNIST", "MNIST")


def test_images_are_read_on_demand(mnist_folder: Path) -> None:
    opened = open_data("torchvision:mnist", Request(mnist_folder))
    assert opened.train is not None
    assert (opened.test.total, opened.train.total) == (10000, 60000)
    assert opened.test.labels is not None
    assert opened.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    sample = sample_data(opened, limit=200)
    assert sample.notice == "200 of 10,000 test images, stratified by class, seed 0"
    assert sample.images.image_shape == (1, 28, 28)


class Splits(torch.utils.data.Dataset[Any]):
    """A data set with the splits `val` and `trainval`, which it checks like those of torchvision."""

    def __init__(self, root: str, split: str = "trainval", size: str = "small", download: bool = False) -> None:
        if split not in ("trainval", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        if not download and not (Path(root) / "here").exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        (Path(root) / "here").touch()
        self.count = 12 if split == "trainval" else 6
        self._labels = [index % 2 for index in range(self.count)]
        self.classes = ["cat", "dog"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (4, 4), (index, self.count, 0)), self._labels[index]


def test_splits_are_found_and_files_are_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torchvision.datasets, "Food101", Splits)
    opened = open_data("torchvision:Food101", Request(tmp_path))
    assert opened.train is not None
    assert (opened.test.total, opened.train.total, opened.test.classes) == (6, 12, ("cat", "dog"))
    assert (tmp_path / "torchvision" / "here").exists()
    assert [item.image.getpixel((0, 0)) for item in opened.test.read([2, 5])] == [(2, 6, 0), (5, 6, 0)]
    chosen = open_data("torchvision:Food101?split=trainval", Request(tmp_path))
    assert (chosen.test.total, chosen.train) == (12, None)
    with pytest.raises(UnknownName, match="no option of this data set 'sizze'; did you mean 'size'"):
        open_data("torchvision:Food101?sizze=big", Request(tmp_path))


def test_without_a_network_it_is_a_download_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", unreachable)
    with pytest.raises(
        DownloadError, match=r"torchvision:CIFAR10 cannot be downloaded \(.*unreachable.*put its files into"
    ):
        open_data("torchvision:CIFAR10", Request(tmp_path))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("VOCDetection", ConfigError, "has bounding boxes; expected a data set with one class per image"),
        ("VOCSegmentation", ConfigError, "has segmentation masks"),
        ("LSUN", ConfigError, "has a cache that is unpickled"),
        ("FakeData?transform=x", UnknownName, "no option of this data set 'transform'"),
        ("CelebA", ConfigError, "has several labels per image"),
        ("ImageFolder", ConfigError, "use --dataset folder:PATH"),
        ("CIFAR11", UnknownName, "no data set in torchvision 'CIFAR11'; did you mean 'CIFAR10'"),
        ("wrap_dataset_for_transforms_v2", UnknownName, "no data set in torchvision"),
        ("EMNIST", ConfigError, "needs more arguments: .*split.*pass them as"),
    ],
)
def test_other_data_sets_are_refused_by_name(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_data(f"torchvision:{name}", Request(tmp_path))


def test_refused_names_exist() -> None:
    names = [name for group in REFUSED.values() for name in group]
    assert set(names) <= set(torchvision.datasets.__all__)


def test_generated_images(tmp_path: Path) -> None:
    opened = open_data("torchvision:FakeData", Request(tmp_path))
    sample = sample_data(opened, limit=4)
    assert sample.notice.startswith("4 of 1,000 test images, chosen at random")
    first = torchvision.datasets.FakeData()[int(torch.randperm(1000, generator=_draws())[:4].min())][0]
    assert np.array_equal(sample.images.pixels[0].permute(1, 2, 0).numpy(), np.asarray(first))


def _draws() -> torch.Generator:
    from pellucid.core.seeding import generator

    return generator(0, "sample")
