"""MNIST matches the published data set."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from pellucid.core.errors import DataError, DownloadError
from pellucid.data import DATASETS, RawData, Request
from pellucid.data import mnist as module

mnist = DATASETS["mnist"]


@pytest.fixture(scope="module")
def raw(mnist_files: Path, tmp_path_factory: pytest.TempPathFactory) -> RawData:
    return mnist(Request(tmp_path_factory.mktemp("data"), mirrors=(str(mnist_files),)))


def test_images_and_labels_match_the_files(raw: RawData, mnist_files: Path) -> None:
    assert raw.train.pixels.shape == (60000, 1, 28, 28)
    assert raw.test.pixels.shape == (10000, 1, 28, 28)
    assert raw.train.pixels.dtype == torch.uint8
    assert raw.train.labels.dtype == torch.int64
    assert raw.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert raw.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert raw.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (raw.classes, raw.title, raw.default_epochs, raw.shift_share) == (tuple("0123456789"), "MNIST", 2, 1 / 28)
    for images, name in ((raw.train, "train"), (raw.test, "t10k")):
        content = gzip.decompress((mnist_files / f"{name}-images-idx3-ubyte.gz").read_bytes())
        count, height, width = struct.unpack(">3I", content[4:16])
        sums = np.frombuffer(content[16:], np.uint8).reshape(count, height * width).astype(np.int64).sum(1)
        assert images.pixels.flatten(1).sum(1).tolist() == sums.tolist()


def test_it_agrees_with_torchvision(raw: RawData, mnist_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in module.FILES:
        (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress((mnist_files / name).read_bytes()))
    for images, is_train in ((raw.train, True), (raw.test, False)):
        reference = MNIST(tmp_path, train=is_train)
        assert torch.equal(images.pixels[:, 0], reference.data)
        assert torch.equal(images.labels, reference.targets)


def test_checksums_and_mirrors_are_those_of_torchvision() -> None:
    assert list(module.FILES.items()) == MNIST.resources
    assert list(module.PUBLIC_MIRRORS) == MNIST.mirrors


def test_files_are_cached_and_reused(offline, mnist_files: Path, tmp_path: Path) -> None:
    mnist(Request(tmp_path, mirrors=(mnist_files.as_uri(),)))
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == sorted(module.FILES)
    assert len(mnist(Request(tmp_path)).test) == 10000


def test_mirrors_are_tried_in_order(offline, dead_address, monkeypatch, mirror, tmp_path: Path) -> None:
    mirror.files |= dict.fromkeys(module.FILES, b"")
    monkeypatch.setenv("PELLUCID_MIRROR", f"{mirror / 'failing'}, {mirror / 'truncated'},")
    with pytest.raises(DownloadError) as caught:
        mnist(Request(tmp_path, mirrors=(mirror / "missing", mirror / "page")))
    assert [line.split(": ")[0].strip() for line in str(caught.value).splitlines()[1:-1]] == [
        *(mirror / fault for fault in ("missing", "page", "failing", "truncated")),
        dead_address,
    ]


def test_mnist_can_be_downloaded_over_http(offline, mirror, mnist_files: Path, tmp_path: Path) -> None:
    mirror.files |= {name: (mnist_files / name).read_bytes() for name in module.FILES}
    raw = mnist(Request(tmp_path, mirrors=(mirror / "truncated", mirror / "healthy")))
    assert len(raw.train) == 60000
    assert len(mirror.requests) == 8


def test_images_are_resized_on_request(mnist_files: Path, tmp_path: Path) -> None:
    raw = mnist(Request(tmp_path, mirrors=(str(mnist_files),), image_size=14))
    assert raw.test.image_shape == (1, 14, 14)
    assert raw.test.pixels.float().mean().item() == pytest.approx(33.79, abs=0.3)  # the mean brightness is preserved


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x1f\x8b\x08\x00", "starts with 1f 8b 08 00"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), "not an IDX file of bytes"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "ends within its header: 8 of 16 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0]), r"announces 3 values of shape \(3,\) but has 2"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 5, 0]), r"announces 1 values of shape \(1,\) but has 2"),
    ],
)
def test_an_invalid_idx_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        module.decode_idx(content, "labels")
