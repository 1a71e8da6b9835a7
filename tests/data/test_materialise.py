"""Items of every supported type become one tensor with the same values."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from pellucid.core.errors import DataError
from pellucid.data._materialise import materialise

BYTES = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(BYTES),
        BYTES,
        torch.from_numpy(BYTES),
        torch.from_numpy(BYTES)[None],
        torch.from_numpy(BYTES).float() / 255,
        (BYTES / 255)[None],
        torch.from_numpy(BYTES).double() / 255,
    ],
    ids=["PIL", "array", "tensor", "CHW", "float tensor", "float64 array", "float64 tensor"],
)
@pytest.mark.parametrize("label", [2, torch.tensor(2), np.int64(2), torch.tensor([2])], ids=str)
def test_images_and_labels_of_every_supported_type(image: object, label: object) -> None:
    images = materialise([(image, label)] * 2, "pairs", classes=3)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.tolist() == [[BYTES.tolist()]] * 2
    assert images.labels.tolist() == [2, 2]


def test_every_byte_survives_a_round_trip_through_floats() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(materialise([(every / 255, 0)], "pairs", classes=1).pixels[0], every)


def test_floats_between_bytes_stay_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.data._materialise.IMAGES_AT_ONCE", 2)
    values = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    values[0:3] = (values[0:3] * 255).round() / 255  # the first part packs into bytes, the last does not
    images = materialise(TensorDataset(values, torch.arange(5)), "values", classes=5)
    assert images.pixels.dtype == torch.float32
    assert torch.equal(images.pixels, values)
    assert images.labels.tolist() == [0, 1, 2, 3, 4]


def test_images_are_resized_on_request() -> None:
    pairs = [(torch.full((1, 4, 6), 0.2), 0), (torch.full((1, 9, 3), 0.6), 1), (torch.full((1, 5, 5), 0.4), 0)]
    images = materialise(pairs, "pairs", classes=2, image_size=5)
    assert images.image_shape == (1, 5, 5)
    assert images.floats().mean((1, 2, 3)).tolist() == pytest.approx([0.2, 0.6, 0.4])


GOOD = (torch.zeros(1, 4, 4), 0)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.zeros(1, 4, 4), 2), "item 1 of pairs has the label 2; expected 0 to 1, for 2 class names"),
        ((torch.zeros(1, 4, 4), -1), "has the label -1"),
        ((torch.zeros(1, 4, 4), 0.5), "has the label 0.5; expected a class index"),
        ((torch.zeros(1, 4, 4), torch.tensor([0, 1])), "expected a class index"),
        ((torch.zeros(1, 4, 4), "cat"), "has the label 'cat'"),
        ((torch.full((1, 4, 4), -0.4), 0), "values from -0.4 to -0.4; expected floats in [0, 1]"),
        ((torch.full((1, 4, 4), 255.0), 0), "normalization by mean and standard deviation belongs in the model"),
        ((torch.full((1, 4, 4), float("nan")), 0), "has an image with NaN or infinite values"),
        ((torch.zeros(1, 4, 4, dtype=torch.int64), 0), "has an image of torch.int64"),
        ((torch.zeros(4), 0), "has an image of shape (4,)"),
        (
            (np.zeros((8, 8, 3), np.uint8), 0),
            "has an image of shape (8, 8, 3); expected (channel, height, width) or (height, width). Move",
        ),
        (
            (torch.zeros(1, 4, 5), 0),
            "has shape (1, 4, 5), earlier items have (1, 4, 4) (channel, height, width); give --im",
        ),
        ((torch.zeros(3, 4, 4), 0), "give all the same number of channels"),
        (("picture.png", 0), "has a str as image"),
        (torch.zeros(1, 4, 4), "is a Tensor; expected a pair"),
        ((torch.zeros(1, 4, 4), 0, 0), "is a tuple of length 3; expected a pair"),
    ],
)
def test_an_invalid_item_is_named_in_the_error(item: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        materialise([GOOD, item], "pairs", classes=2)
    assert message in str(caught.value)
    assert "item 1 of pairs" in str(caught.value)


def test_a_failing_data_set_is_named_in_the_error() -> None:
    class Broken:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> object:
            raise OSError("no such picture")

    with pytest.raises(DataError, match="item 0 of pairs cannot be read: OSError: no such picture"):
        materialise(Broken(), "pairs", classes=2)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="pairs is empty"):
        materialise([], "pairs", classes=2)


def test_rounding_errors_outside_the_range_are_tolerated() -> None:
    images = materialise([(torch.tensor([[1.0000002, -1e-7]]), 0)], "pairs", classes=1)
    assert images.pixels.flatten().tolist() == [255, 0]


class Lying:
    """A data set whose length cannot be used."""

    def __init__(self, length: object) -> None:
        self.length = length

    def __len__(self) -> int:
        if isinstance(self.length, BaseException):
            raise self.length
        return self.length  # type: ignore[return-value]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return [(torch.zeros(2, 2), 0)][index]


@pytest.mark.parametrize("length", [-1, 2.5, "2", None, ZeroDivisionError(), SystemExit(0)], ids=repr)
def test_lengths_that_are_none_are_refused_by_name(length: object) -> None:
    with pytest.raises(DataError, match="the length of the liar cannot be read"):
        materialise(Lying(length), "the liar", classes=1)


def test_a_length_beyond_the_last_item_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="item 1 of the liar cannot be read: IndexError"):
        materialise(Lying(3), "the liar", classes=1)


# Made inside the test: other tests look at all living tensors, and sparse ones have no storage to look at.
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(0, 2), "item 0 of pairs has an image of shape (0, 2), without any pixel."),
        (lambda: torch.zeros(1, 3, 0), "without any pixel"),
        (lambda: torch.zeros(2, 2, device="meta"), "item 0 of pairs has a meta tensor as image"),
        (lambda: torch.zeros(2, 2).to_sparse(), "item 0 of pairs has a sparse_coo tensor as image"),
        (lambda: np.array([[None, None]]), "item 0 of pairs has an image of object"),
        (lambda: np.array([["a"]]), "item 0 of pairs has an image of <U1"),
        (lambda: torch.zeros(2, 2, dtype=torch.complex64), "item 0 of pairs has an image of torch.complex64"),
    ],
    ids=["no row", "no column", "meta", "sparse", "object", "text", "complex"],
)
def test_images_without_values_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(DataError) as caught:
        materialise([(make(), 0)], "pairs", classes=1)
    assert message in str(caught.value)


def test_an_item_that_exits_is_an_error() -> None:
    class Leaving(Lying):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            raise SystemExit(0)

    with pytest.raises(DataError, match="item 0 of the set cannot be read: SystemExit: 0"):
        materialise(Leaving(2), "the set", classes=1)
