"""Images read one by one, where an unreadable image is a result."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.core.errors import ConfigError, DataError
from pellucid.data import Request
from pellucid.data._each import read_each
from pellucid.data._items import Converter
from pellucid.data._lazy import LazyImages
from pellucid.data._open import open_data

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
