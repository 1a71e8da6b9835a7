"""Load a data set by name, split into training, validation and test images."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, DataError, DownloadError, SaveError, UnknownName
from pellucid.data import DATASETS, RawData, Request, load_data
from pellucid.data._load import checksum_of


@pytest.fixture(scope="module")
def mnist_request(mnist_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Request:
    return Request(tmp_path_factory.mktemp("data"), mirrors=(str(mnist_files),))


def test_mnist_has_the_documented_splits(mnist_request: Request, mnist_files: Path) -> None:
    splits = load_data("auto", mnist_request)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55000, 5000, 10000)
    assert (splits.requested, splits.name, splits.title, splits.notice) == ("auto", "mnist", "MNIST", None)
    assert splits.default_epochs == 2
    sizes = torch.tensor([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert torch.equal(splits.train.labels.bincount() + splits.validation.labels.bincount(), sizes)
    assert ((splits.validation.labels.bincount() - sizes / 12).abs() < 1).all()
    assert splits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    train, validation, test = (
        int(images.pixels.numpy().sum()) for images in (splits.train, splits.validation, splits.test)
    )
    contents = (
        gzip.decompress((mnist_files / f"{name}-images-idx3-ubyte.gz").read_bytes()) for name in ("train", "t10k")
    )
    assert [train + validation, test] == [int(np.frombuffer(content[16:], np.uint8).sum()) for content in contents]


def test_the_validation_split_follows_the_limit(mnist_request: Request) -> None:
    splits = load_data("mnist", mnist_request, limit_train=1200, limit_test=300)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1100, 100, 300)
    assert (
        (
            splits.test.labels.bincount() - torch.tensor([980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]) * 0.03
        ).abs()
        <= 1
    ).all()


def test_the_checksum_depends_on_the_seed(tmp_path: Path) -> None:
    one, again = (load_data("digits", Request(tmp_path), limit_train=100, limit_test=50) for _ in range(2))
    other = load_data("digits", Request(tmp_path, seed=1), limit_train=100, limit_test=50)
    assert one.sha256 == again.sha256 != other.sha256
    assert torch.equal(one.train.pixels, again.train.pixels)
    assert (one.shift_share, one.default_epochs) == (1 / 28, 10)


def test_checksum_covers_images_labels_and_shape() -> None:
    images = ImageSet(torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), torch.tensor([3, 4]))
    expected = hashlib.sha256(
        b"torch.uint8 (2, 1, 2, 2)\n" + bytes(range(8)) + b"torch.int64 (2,)\n" + bytes([3, *[0] * 7, 4, *[0] * 7])
    )
    assert checksum_of(images) == expected.hexdigest()
    assert checksum_of(images[[1, 0]]) != checksum_of(images)
    assert checksum_of(ImageSet(images.pixels.view(2, 1, 1, 4), images.labels)) != checksum_of(images)


def test_auto_falls_back_to_digits_with_a_notice_when_offline(offline, dead_address: str, tmp_path: Path) -> None:
    splits = load_data("auto", Request(tmp_path, mirrors=(str(tmp_path / "nowhere"),)))
    assert (splits.requested, splits.name, splits.title) == ("auto", "digits", "scikit-learn digits")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1319, 119, 359)
    assert splits.notice == (
        f"MNIST could not be downloaded ({tmp_path / 'nowhere'}: no such folder; {dead_address}: connection refused), "
        "so this run uses scikit-learn's 1,797 digits instead. To use MNIST, pass a folder or URL that has its files "
        "with --mirror."
    )


def test_mnist_offline_is_an_error(offline, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="connection refused"):
        load_data("mnist", Request(tmp_path))


def test_a_disk_failure_does_not_fall_back_to_digits(mnist_request: Request, offline, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(SaveError):
        load_data("auto", Request(tmp_path / "taken", mirrors=mnist_request.mirrors))


def test_the_name_of_a_folder_includes_its_path(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("L", (3, 3), number).save(tmp_path / name / f"{number}.png")
    splits = load_data(f"folder:{tmp_path}", Request(tmp_path / "data"))
    assert (splits.name, splits.title) == (f"folder:{tmp_path}", tmp_path.name)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (6, 1, 1)


def test_the_name_of_a_function_includes_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shop_of_test_load.py").write_text(
        "import torch\n\ndef shoes():\n    pairs = [(torch.zeros(3, 3), 0), (torch.ones(3, 3), 1)] * 6\n"
        "    return pairs, pairs[:2], ['a', 'b']\n"
    )
    splits = load_data("shop_of_test_load:shoes", Request(tmp_path))
    assert (splits.name, splits.title, splits.classes) == ("shop_of_test_load:shoes", "shoes", ("a", "b"))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (11, 1, 2)


def some(count: int, size: int = 3, label: int = 1) -> ImageSet:
    return ImageSet(torch.zeros(count, 1, size, size), torch.arange(count) % 2 * label)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (RawData(some(0), some(2), ("a", "b"), "odd"), "odd has no training images"),
        (RawData(some(2), some(0), ("a", "b"), "odd"), "odd has no test images"),
        (RawData(some(4), some(4, size=5), ("a", "b"), "odd"), "--image-size"),
        (RawData(some(4, label=0), some(4, label=0), ("a",), "odd"), "has 1 class; at least two classes are required"),
        (RawData(some(4, label=2), some(4), ("a", "b"), "odd"), "training labels from 0 to 2 for 2 class names"),
        (RawData(some(2), some(2), ("a", "b"), "odd"), "cannot split off a validation set"),
    ],
)
def test_invalid_data_is_refused(monkeypatch, tmp_path: Path, raw: RawData, message: str) -> None:
    monkeypatch.setitem(DATASETS._entries, "odd", lambda request: raw)
    with pytest.raises(DataError) as caught:
        load_data("odd", Request(tmp_path))
    assert message in str(caught.value)


def test_a_third_party_entry_receives_its_argument(monkeypatch, tmp_path: Path) -> None:
    requests: list[Request] = []

    def source(request: Request) -> RawData:
        requests.append(request)
        return RawData(some(24), some(2), ("a", "b"), "own")

    monkeypatch.setitem(DATASETS._entries, "own", source)
    assert load_data("own:this", Request(tmp_path, seed=3)).name == "own:this"
    assert requests == [Request(tmp_path, argument="this", seed=3)]


@pytest.mark.parametrize("limits", [{"limit_train": 0}, {"limit_test": -1}])
def test_a_limit_below_one_is_refused(tmp_path: Path, limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="give at least 1"):
        load_data("digits", Request(tmp_path), **limits)


def test_an_unknown_name_suggests_close_matches(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'mnist'"):
        load_data("mnits", Request(tmp_path))


def test_the_checksum_is_that_of_earlier_versions() -> None:
    """Saved runs contain it, so a change would make them refuse their own data."""
    images = ImageSet(torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4), torch.tensor([0, 1]))
    assert checksum_of(images, images) == "2844da2e6d55a80337fb7007c38910994b35fa838df8953a0c38441461551604"
